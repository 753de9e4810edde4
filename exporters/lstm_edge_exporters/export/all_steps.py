"""How an operator of one step of a loop is applied to all steps at once.

A value of all steps has a leading axis of steps; other operands are the same at every
step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import ELEMENTWISE as BROADCASTING
from ..graph import Builder, axes_of, constant, keep_line
from ..streaming.per_frame import NORMALIZATIONS, REDUCTIONS

_SCALARS = frozenset(("Clip", "Dropout"))
"""Elementwise operators of one operand; the others are numbers."""
ELEMENTWISE = frozenset((*BROADCASTING, *_SCALARS, "Identity")) - {"BatchNormalization"}
"""Operators with a result element per element of the operands, which broadcast."""
_ALONG_ONE_AXIS = {"Concat": 0, "LogSoftmax": -1, "Softmax": -1, "Split": 0}
"""Operators with an attribute ``axis``, and its default."""


@dataclass(frozen=True)
class AllSteps:
    """The changes to an operator that is applied to all steps."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    """New values of attributes."""
    constants: Mapping[int, Array] = field(default_factory=dict)
    """New values of constant operands, by index."""
    rank: int | None = None
    """Number of axes per step to which operands of all steps are extended."""


Rule = Callable[[ir.Node, Sequence[bool]], AllSteps | None]


def for_all_steps(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Return how ``node`` is applied to all steps; None if it can't be.

    Args:
        node: an operator of one step.
        timed: True for each operand that has a value per step.
    """
    rule = _RULES.get(node.op_type)
    inputs = zip(node.inputs, timed, strict=True)
    values = [*(value for value, varies in inputs if varies), *node.outputs]
    is_known = all(value is not None and value.shape is not None for value in values)
    if rule is None or node.domain or not is_known or not any(timed):
        return None
    return rule(node, timed)


def apply(
    build: Builder,
    node: ir.Node,
    change: AllSteps,
    operands: Sequence[ir.Value | None],
    timed: Sequence[bool],
) -> Sequence[ir.Value]:
    """Add ``node`` for all steps; return its results, without shapes."""
    if node.op_type == "Gemm":
        product = _product(build, node, operands)
        keep_line(product, node)
        return [product]
    inputs: list[ir.Value | Array | None] = []
    for index, value in enumerate(operands):
        inner = node.inputs[index]
        if value is not None and inner is not None and timed[index]:
            value = _extended(build, value, rank=change.rank, inner=inner)
        inputs.append(change.constants.get(index, value))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    results = build.node(
        node.op_type,
        inputs,
        attributes | dict(change.attributes),
        outputs=len(node.outputs),
    )
    keep_line(results[0], node)
    return results


def _extended(
    build: Builder, value: ir.Value, rank: int | None, inner: ir.Value
) -> ir.Value:
    """Return ``value`` with axes of one element behind the axis of steps."""
    missing = 0 if rank is None else rank - len(axes_of(inner))
    if not missing:
        return value
    axes = np.arange(1, 1 + missing)
    return build.value("Unsqueeze", [value, axes])


def _product(
    build: Builder, node: ir.Node, operands: Sequence[ir.Value | None]
) -> ir.Value:
    """Return a Gemm's product, and its bias, for all steps."""
    x, weight, *bias = operands
    array = constant(weight)
    assert array is not None
    matrix = array.T if node.attributes.get_int("transB", 0) else array
    product = build.value("MatMul", [x, build.constant(matrix, "weight")])
    for value in bias:
        product = build.value("Add", [product, value])
    return product


def has_weights(node: ir.Node) -> bool:
    """Return True for a product of one computed operand with a constant matrix."""
    if node.op_type not in ("Gemm", "MatMul"):
        return False
    weight = constant(node.inputs[1])
    return weight is not None and weight.ndim == 2 and constant(node.inputs[0]) is None


def is_plain_gemm(node: ir.Node) -> bool:
    """Return True for ``x @ w + b`` or ``x @ w.T + b``."""
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not node.attributes.get_int("transA", 0)


# Rules


def _elementwise(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Align operands of lower rank; a scalar parameter must not change."""
    if node.op_type in _SCALARS and any(timed[1:]):
        return None
    return AllSteps(rank=_rank(node.outputs[0]))


def _matmul(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Multiply all steps by one matrix, or step by step."""
    ranks = [_rank(value) for value in node.inputs]
    is_by_matrix = timed[0] and not timed[1] and ranks[1] == 2
    are_alike = ranks[0] == ranks[1] and ranks[0] >= 2
    return AllSteps() if is_by_matrix or are_alike else None


def _gemm(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Write a product with fixed weights and bias."""
    is_fixed = has_weights(node) and not any(timed[1:])
    return AllSteps() if is_fixed and is_plain_gemm(node) else None


def _along_one_axis(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Count the axis from behind the axis of steps."""
    operands = timed if node.op_type == "Concat" else timed[:1]
    if not all(operands):
        return None
    axis = node.attributes.get_int("axis", _ALONG_ONE_AXIS[node.op_type])
    return AllSteps({"axis": _shifted(axis)})


def _normalization(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Count the first axis from behind the axis of steps."""
    if any(timed[1:]):
        return None
    return AllSteps({"axis": _shifted(node.attributes.get_int("axis", -1))})


def _transpose(node: ir.Node, _timed: Sequence[bool]) -> AllSteps | None:
    """Keep the axis of the steps in front."""
    usual = [*reversed(range(_rank(node.inputs[0])))]
    perm = node.attributes.get_ints("perm", usual) or usual
    return AllSteps({"perm": [0, *(axis + 1 for axis in perm)]})


def _at_axes(node: ir.Node, _timed: Sequence[bool]) -> AllSteps | None:
    """Count stored axes from behind the axis of steps."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not axes.size:
        return None
    return AllSteps(constants={1: _all_shifted(axes)})


def _slice(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Cut along stored axes, with fixed bounds."""
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if axes is None or any(timed[1:]):
        return None
    return AllSteps(constants={3: _all_shifted(axes)})


def _gather(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Select fixed entries of each step, or the steps' entries of a table."""
    axis = node.attributes.get_int("axis", 0)
    if timed[0] and not timed[1]:
        return AllSteps({"axis": _shifted(axis)})
    reads_table = timed[1] and not timed[0] and axis == 0
    return AllSteps() if reads_table else None


def _reshape(node: ir.Node, timed: Sequence[bool]) -> AllSteps | None:
    """Keep named axes by 0, which copies the size of the input's axis."""
    if any(timed[1:]) or node.inputs[0] is None:
        return None
    before = axes_of(node.inputs[0])
    sizes = [0]
    for index, size in enumerate(axes_of(node.outputs[0])):
        is_kept = index < len(before) and before[index] == size
        if isinstance(size, str) and not is_kept:
            return None
        sizes.append(0 if isinstance(size, str) else size)
    if 0 in axes_of(node.outputs[0]):
        return None
    return AllSteps({"allowzero": 0}, {1: np.array(sizes)})


def _rank(value: ir.Value | None) -> int:
    """Return the number of axes; 0 for an input that is left out."""
    return 0 if value is None else len(axes_of(value))


def _shifted(axis: int) -> int:
    """Return an axis of one step's value in the value of all steps."""
    return axis if axis < 0 else axis + 1


def _all_shifted(axes: Array) -> Array:
    """Return axes counted from behind the axis of steps."""
    return np.array([_shifted(int(axis)) for axis in np.ravel(axes)])


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_ALONG_ONE_AXIS, _along_one_axis),
    **dict.fromkeys(NORMALIZATIONS, _normalization),
    **dict.fromkeys(("Squeeze", "Unsqueeze", *REDUCTIONS), _at_axes),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _reshape,
}
