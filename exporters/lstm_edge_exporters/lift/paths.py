"""The path from a recurrent node's initial state back to the tensor that it is a part of.

PyTorch makes one zeros ``(layers*D, N, H)`` and hands each layer its rows; a file that carries that tensor
has one state, not one a layer. A path is the chain of layout operators between the whole tensor and a
node, each of which can be undone, so that the last states can be put together the same way.

With ``proj_size`` the state h (P) enters a node of width H as ``h @ M`` and leaves as ``Y_h @ K``, with
``M = pinv(W_hr).T`` and ``K = W_hr.T``. K serves as the left inverse of M's step when it undoes M
(``M @ K = 1``) and when what it drops is nothing that the recurrence reads (``K @ M @ R.T = R.T``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..recurrent import OPERATORS

__all__ = ["LEFT_INVERSE", "Path", "Step", "find_path", "is_order", "operators_above"]

Array = npt.NDArray[Any]

LEFT_INVERSE = "lstm_edge.left_inverse"
"""In the ``metadata_props`` of M: the name of the initializer K, where M's maker knows it."""

_OPERATORS = ("Gather", "Identity", "MatMul", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
_KEEPING_NUMBERS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_RELATIVE = 1e-4
"""Both conditions on K hold to float32 rounding amplified by W_hr's condition number, never to a part in 1e4
unless K is the right matrix."""


@dataclass(frozen=True)
class Step:
    """One operator on the path, read from the node's side towards the whole tensor."""

    node: ir.Node
    output: int
    """Which of the operator's outputs is on the path."""
    undo: tuple[str, Any]
    """How to undo it: an operator and its argument."""
    span: tuple[int, int, int] | None = None
    """``(axis, start, stop)`` of the rows that it selects, None where it takes all."""


@dataclass(frozen=True)
class Path:
    """How one slot's state sits in a larger tensor."""

    whole: ir.Value
    """The larger tensor."""
    batch_axis: int
    """The batch axis of ``whole``."""
    steps: tuple[Step, ...]
    """From the slot up to ``whole``."""

    @property
    def span(self) -> tuple[int, int, int] | None:
        """``(axis, start, stop)`` of the slot's rows in ``whole``, None where it is all of it."""
        return next((step.span for step in self.steps if step.span), None)


def operators_above(value: ir.Value) -> list[ir.Node]:
    """Return the chain of layout operators that produce ``value``, nearest first."""
    found = []
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in _OPERATORS:
        found.append(node)
        above = node.inputs[0]
        node = None if above is None else above.producer()
    return found


def find_path(
    slot: ir.Value, batch_axis: int, recurrent: ir.Node, arrays: Mapping[ir.Value, Array]
) -> Path | None:
    """Follow ``slot`` up to the operand of the topmost operator that selects, projects or reorders.

    Args:
        slot: the initial state that ``recurrent`` reads.
        batch_axis: its batch axis.
        recurrent: the node.
        arrays: a value for each operand of ``operators_above(slot)``.

    Returns:
        The path, or None where there is nothing to follow: the slot is the whole state.
    """
    steps: list[Step] = []
    best: Path | None = None
    value = slot
    selected = False
    for node in operators_above(slot):
        above = node.inputs[0]
        if above is None or value.index() is None:
            break
        step, next_axis = _read(node, value.index() or 0, batch_axis, recurrent, arrays)
        if step is None or (step.span and selected):
            break
        steps.append(step)
        selected |= step.span is not None
        value, batch_axis = above, next_axis
        if step.span or step.undo[0] in ("MatMul", "Reorder"):
            best = Path(value, batch_axis, tuple(steps))
    return best


def _read(
    node: ir.Node, output: int, batch: int, recurrent: ir.Node, arrays: Mapping[ir.Value, Array]
) -> tuple[Step | None, int]:
    """Read one operator: the step, and the batch axis above it."""
    above = node.inputs[0]
    if above is None:
        return None, batch
    shape = arrays[above].shape
    rank = len(shape)
    match node.op_type:
        case "Identity":
            return Step(node, output, ("Identity", None)), batch
        case "Transpose":
            order = list(node.attributes.get_ints("perm", ()) or range(rank)[::-1])
            return Step(node, output, ("Transpose", [order.index(axis) for axis in range(rank)])), order[
                batch
            ]
        case "Squeeze":
            axes = [axis % rank for axis in _numbers(node, 1, "axes", arrays)]
            axes = axes or [axis for axis, size in enumerate(shape) if size == 1]
            kept = [axis for axis in range(rank) if axis not in axes]
            return Step(node, output, ("Unsqueeze", sorted(axes))), kept[batch]
        case "Unsqueeze":
            added = _numbers(node, 1, "axes", arrays)
            axes = [axis % (rank + len(added)) for axis in added]
            if batch in axes:
                return None, batch
            return Step(node, output, ("Squeeze", sorted(axes))), batch - sum(axis < batch for axis in axes)
        case "MatMul":
            weight = node.inputs[1]
            inverse = (
                None if weight is None or batch == rank - 1 else _left_inverse(weight, recurrent, arrays)
            )
            return (None if inverse is None else Step(node, output, ("MatMul", inverse))), batch
        case _:
            return _select(node, output, batch, shape, arrays)


def _select(
    node: ir.Node, output: int, batch: int, shape: Sequence[int], arrays: Mapping[ir.Value, Array]
) -> tuple[Step | None, int]:
    """Read an operator that selects rows along one axis."""
    rank = len(shape)
    axis = start = stop = 0
    undo: tuple[str, Any] = ("Identity", None)
    if node.op_type == "Slice":
        starts, stops, axes, steps = (
            _numbers(node, place, name, arrays)
            for place, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
        )
        if len(starts) != 1 or set(steps or [1]) != {1}:
            return None, batch
        axis = (axes or [0])[0] % rank
        start, stop, _ = slice(starts[0], stops[0]).indices(shape[axis])
    elif node.op_type == "Split":
        axis = (node.attributes.get_int("axis", 0) or 0) % rank
        count = len(node.outputs)
        even = -(-shape[axis] // count)
        parts = _numbers(node, 1, "split", arrays) or [even] * (count - 1) + [
            shape[axis] - even * (count - 1)
        ]
        start = sum(parts[:output])
        stop = start + parts[output]
    else:
        axis = (node.attributes.get_int("axis", 0) or 0) % rank
        picked = arrays[node.inputs[1]] if node.inputs[1] is not None else np.zeros(0)
        if axis == batch and is_order(picked, shape[axis]):
            return Step(node, output, ("Reorder", (node.inputs[1], axis))), batch
        rows = [int(row) % shape[axis] for row in picked.ravel()]
        if picked.ndim > 1 or not rows or rows != list(range(rows[0], rows[0] + len(rows))):
            return None, batch
        start, stop = rows[0], rows[-1] + 1
        if picked.ndim == 0:
            undo = ("Unsqueeze", [axis])
            batch += axis <= batch
    if axis == batch:
        return None, batch
    return Step(node, output, undo, (axis, start, stop)), batch


def is_order(indices: Array, rows: int) -> bool:
    """Tell whether ``indices`` put ``rows`` rows in another order, each in one place."""
    return indices.ndim == 1 and np.array_equal(np.sort(indices), np.arange(rows))


def _numbers(node: ir.Node, place: int, name: str, arrays: Mapping[ir.Value, Array]) -> list[int]:
    """Return an argument that newer opsets take as an input and older ones as an attribute."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = node.inputs[place] if len(node.inputs) > place else None
    return [] if value is None else [int(number) for number in arrays[value].ravel()]


def _left_inverse(weight: ir.Value, recurrent: ir.Node, arrays: Mapping[ir.Value, Array]) -> ir.Value | None:
    """Find the K that undoes ``weight`` (M): declared, or among the constants that multiply the outputs."""
    if LEFT_INVERSE in weight.metadata_props and recurrent.graph is not None:
        return recurrent.graph.initializers[weight.metadata_props[LEFT_INVERSE]]
    if recurrent.op_type not in OPERATORS:
        return None
    r, m = _array(recurrent.inputs[2], arrays), _array(weight, arrays)
    if r is None or m is None:
        return None
    read = np.swapaxes(r, -1, -2)
    for candidate in _multipliers(recurrent):
        k = _array(candidate, arrays)
        if k is None or k.shape[-2:] != m.shape[-2:][::-1]:
            continue
        if _close(m @ k, np.eye(m.shape[-2])) and _close(k @ (m @ read), read):
            return candidate
    return None


def _multipliers(recurrent: ir.Node) -> Iterator[ir.Value]:
    """Return the right operands of the products that read the node's ``Y`` or ``Y_h``."""
    waiting, seen = list(recurrent.outputs[:2]), set(recurrent.outputs[:2])
    while waiting:
        for node, place in waiting.pop().uses():
            if place:
                continue
            if node.op_type == "MatMul" and node.inputs[1] is not None:
                yield node.inputs[1]
            elif node.op_type in _KEEPING_NUMBERS and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])


def _array(value: ir.Value | None, arrays: Mapping[ir.Value, Array]) -> Array | None:
    """Return a constant or known value in float64."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    array = arrays.get(value) if tensor is None else tensor.numpy()
    return None if array is None else array.astype(np.float64)


def _close(got: Array, expected: Array) -> bool:
    return bool(np.abs(got - expected).max() <= _RELATIVE * max(float(np.abs(expected).max()), 1e-30))
