"""Which axis of each graph input is the batch and which is time, read off the graph."""

from collections.abc import Callable, Collection, Iterator

import onnx_ir as ir

from ..evaluate import numbers_of
from ..graph import constant
from ..recurrent import LENGTHS, is_recurrent
from .subgraphs import SequenceInput, recurrences, sequences

BATCH, SEQUENCE = "batch", "sequence"

# fmt: off
_KEEPING = (
    "Abs", "BatchNormalization", "Cast", "Clip", "CumSum", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Neg", "Not", "Pad", "PRelu",
    "Reciprocal", "Relu", "ReverseSequence", "Round", "Selu", "Sigmoid", "Sign", "Slice", "Softmax",
    "Softplus", "Split", "Sqrt", "Tanh", "ThresholdedRelu",
)
"""Operators whose first operand has the batch and time axes of the result."""
_COMBINING = (
    "Add", "Concat", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Where",
)
# fmt: on
"""Operators of which every operand of the result's rank has them."""
_WINDOWED = ("AveragePool", "Conv", "LpPool", "MaxPool")
"""Operators that keep the batch at 0 and keep each further axis in its place."""


def axis_roles(graph: ir.Graph, model: ir.Model) -> dict[ir.Value, dict[int, str]]:
    """Map graph inputs to the roles of their axes, as far as they follow from the graph.

    Followed back from X, ``sequence_lens`` and the initial states of every recurrent node.
    """
    found: dict[ir.Value, dict[int, str]] = {}
    inputs = set(graph.inputs)
    for node in recurrences(model):
        for value, roles in _told_by(node):
            for source, axes in _origins(value, roles):
                if source in inputs and source.shape is not None:
                    known = found.setdefault(source, {})
                    for axis, role in axes.items():
                        if 0 <= axis < len(source.shape):
                            known.setdefault(axis, role)
    return found


def follows_input(each: SequenceInput, graph: ir.Graph) -> bool:
    """Return whether the steps that are read are an axis of an input, by the graph alone."""
    return any(
        source in graph.inputs and roles for source, roles in _origins(each.value, {each.time: SEQUENCE})
    )


def row_orders(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the computed indices by which rows are gathered between the inputs and a node's X, in order."""
    value, axis = node.inputs[0], 0 if node.attributes.get_int("layout", 0) else 1
    found: list[ir.Value] = []
    while value is not None and (above := value.producer()) is not None and above.domain == "":
        if above.op_type == "Gather" and constant(above.inputs[1]) is None and _gathers(above, axis):
            found.append(above.inputs[1])  # type: ignore[arg-type]
            value = above.inputs[0]
            continue
        axes = list(_back(above, value, {axis: BATCH}))
        sources = _sources(above, value)
        if not axes or not sources:
            break
        value, axis = sources[0], axes[0]
    return tuple(reversed(found))


def _gathers(node: ir.Node, axis: int) -> bool:
    """Return whether a Gather picks entries along ``axis`` of its first operand by a vector of indices."""
    data, indices = node.inputs[:2]
    if data is None or indices is None or indices.shape is None or len(indices.shape) != 1:
        return False
    return constant(data) is None and _at(node.attributes.get_int("axis", 0) or 0, data) == axis


def _told_by(node: ir.Node) -> Iterator[tuple[ir.Value, dict[int, str]]]:
    for each in sequences(node):
        yield each.value, {each.time: SEQUENCE, each.batch: BATCH}
    if not is_recurrent(node):
        return
    layout = node.attributes.get_int("layout", 0)
    for place, value in enumerate(node.inputs):
        if value is None:
            continue
        if place == LENGTHS:
            yield value, {0: BATCH}
        elif place in (5, 6):
            yield value, {0 if layout else 1: BATCH}


def _origins(value: ir.Value, roles: dict[int, str]) -> Iterator[tuple[ir.Value, dict[int, str]]]:
    """Follow a value back as far as the roles of its axes are known."""
    waiting, seen = [(value, roles)], {value}
    while waiting:
        value, roles = waiting.pop()
        node = value.producer()
        if node is None:
            yield value, roles
        elif node.domain == "":
            told = _back(node, value, roles)
            for source in _sources(node, value) if told else ():
                if source not in seen:
                    seen.add(source)
                    waiting.append((source, _without_broadcast(node, source, value, told)))


def _sources(node: ir.Node, result: ir.Value) -> list[ir.Value]:
    """Return the operands that are no constants: the first, and others of the result's rank."""
    operands = [entry for entry in node.inputs if entry is not None and constant(entry) is None]
    rank = None if result.shape is None else len(result.shape)
    return [
        entry
        for place, entry in enumerate(operands)
        if place == 0 or (node.op_type in _COMBINING and entry.shape is not None and len(entry.shape) == rank)
    ]


def _without_broadcast(
    node: ir.Node, source: ir.Value, result: ir.Value, roles: dict[int, str]
) -> dict[int, str]:
    """Drop the axes of an operand that are 1 and grow in the result."""
    if node.op_type not in _COMBINING or source.shape is None or result.shape is None:
        return roles
    pairs = list(zip(source.shape, result.shape, strict=False))
    return {
        axis: role
        for axis, role in roles.items()
        if axis >= len(pairs) or pairs[axis][0] != 1 or pairs[axis][1] == 1
    }


def _back(node: ir.Node, value: ir.Value, roles: dict[int, str]) -> dict[int, str]:
    """Return the roles of the axes of the node's operands."""
    find = _of_sequence if is_recurrent(node) else _SOURCES.get(node.op_type)
    moved = find(node, value, roles) if find else {}
    return {moved[axis]: role for axis, role in roles.items() if axis in moved}


def _at(axis: int, value: ir.Value) -> int:
    """Return an axis counted from the front, as far as the value's rank is known."""
    return axis + len(value.shape) if axis < 0 and value.shape is not None else axis


def _of_sequence(node: ir.Node, value: ir.Value, _: Collection[int]) -> dict[int, int]:
    """Map axes of a recurrent node's Y to X's."""
    if value.index():
        return {}
    return {0: 0, 1: 1} if node.attributes.get_int("layout", 0) else {0: 0, 2: 1}


def _in_place(node: ir.Node, value: ir.Value, axes: Collection[int]) -> dict[int, int]:
    """Map axes to themselves, except for the one along which a Concat joins."""
    joined = _at(node.attributes.get_int("axis", 0) or 0, value) if node.op_type == "Concat" else None
    return {axis: axis for axis in axes if axis != joined}


def _transposed(node: ir.Node, _: ir.Value, __: Collection[int]) -> dict[int, int]:
    return dict(enumerate(node.attributes.get_ints("perm", ()) or ()))


def _picked(node: ir.Node, _: ir.Value, axes: Collection[int]) -> dict[int, int]:
    """Map axes of the result of a Gather to its operand's: the first one's if the indices are constant."""
    picked, axis = constant(node.inputs[1]), node.attributes.get_int("axis", 0) or 0
    if picked is None and constant(node.inputs[0]) is not None:
        return {each: each for each in axes}
    if picked is None or axis < 0:
        return {}
    new = range(axis, axis + picked.ndim)
    return {place: place - picked.ndim + 1 if place >= axis else place for place in axes if place not in new}


def _resized(node: ir.Node, value: ir.Value, roles: Collection[int]) -> dict[int, int]:
    """Map axes of a Squeeze's or Unsqueeze's result to its operand's."""
    longer = value if node.op_type == "Unsqueeze" else node.inputs[0]
    axes = [_at(axis, longer) for axis in numbers_of(node, 1, "axes", {}) if longer is not None]
    if not axes or min(axes) < 0:
        return {}
    if node.op_type == "Unsqueeze":
        return {axis: axis - sum(new < axis for new in axes) for axis in roles if axis not in axes}
    kept = [axis for axis in range(max(roles, default=0) + len(axes) + 1) if axis not in axes]
    return {axis: kept[axis] for axis in roles}


_SOURCES: dict[str, Callable[[ir.Node, ir.Value, Collection[int]], dict[int, int]]] = {
    **dict.fromkeys((*_KEEPING, *_COMBINING, *_WINDOWED), _in_place),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _resized),
    "Transpose": _transposed,
    "Gather": _picked,
}
"""By operator: maps axes of the result to axes of its operand."""
