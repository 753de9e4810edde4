"""Tensors with the states of several nodes: found, and written as one input and one output.

A path leads from a recurrent node's initial state back to the tensor that it is a part of.

PyTorch makes one zeros ``(layers*D, N, H)`` and hands each layer its rows; a file that carries that tensor
has one state, not one per layer. A path is the chain of layout operators between the whole tensor and a
node, each of which can be undone, so that the last states can be put together the same way.

With ``proj_size`` the state h (P) enters a node of width H as ``h @ M`` and leaves as ``Y_h @ K``, with
``M = pinv(W_hr).T`` and ``K = W_hr.T``. K serves as the left inverse of M's step when it undoes M
(``M @ K = 1``) and if it drops nothing that the recurrence reads (``K @ M @ R.T = R.T``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.graph_check import OPERATORS
from lstm_edge_runtime.manifest import Array

from ..evaluate import numbers_of
from ..graph import UniqueNames, firsts_from, walk
from ..numerics.graph64 import nearly_equal
from .subgraphs import Place, carry_out

LEFT_INVERSE = "lstm_edge.left_inverse"
"""In the ``metadata_props`` of M: the name of the initializer K, if the exporter of M knows it."""

_OPERATORS = ("Gather", "Identity", "MatMul", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
_KEEPING_NUMBERS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_AXES_AS_INPUT = 13
"""The opset from which Squeeze and Unsqueeze take their axes as an input."""


@dataclass(frozen=True)
class Step:
    """One operator on the path, read from the node's side towards the whole tensor."""

    node: ir.Node
    output: int
    """Which of the operator's outputs is on the path."""
    undo: tuple[str, Any]
    """How to undo it: an operator and its argument."""
    span: tuple[int, int, int] | None = None
    """``(axis, start, stop)`` of the rows that it selects, None for all."""


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
        """``(axis, start, stop)`` of the slot's rows in ``whole``, None for all."""
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


def top_of(value: ir.Value) -> ir.Value:
    """Return what the topmost layout operator above ``value`` reads; ``value`` itself if there is none."""
    above = operators_above(value)
    return (above[-1].inputs[0] if above else None) or value


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
        The path, or None if the slot is the whole state.
    """
    steps: list[Step] = []
    best: Path | None = None
    value = slot
    selected = False
    for node in operators_above(slot):
        above = node.inputs[0]
        if above is None or value.index() is None:
            break
        output, shape = value.index() or 0, arrays[above].shape
        if node.op_type in ("Gather", "Slice", "Split"):
            step, next_axis = _select(node, output, batch_axis, shape, arrays)
        else:
            step, next_axis = _read(node, output, batch_axis, shape, recurrent, arrays)
        if step is None or (step.span and selected):
            break
        steps.append(step)
        selected |= step.span is not None
        value, batch_axis = above, next_axis
        if step.span or step.undo[0] in ("MatMul", "Reorder"):
            best = Path(value, batch_axis, tuple(steps))
    return best


def _read(
    node: ir.Node,
    output: int,
    batch: int,
    shape: Sequence[int],
    recurrent: ir.Node,
    arrays: Mapping[ir.Value, Array],
) -> tuple[Step | None, int]:
    """Read an operator that keeps all rows of an operand of ``shape``: the step, and the batch axis there."""
    rank = len(shape)
    undo: tuple[str, Any] = ("Identity", None)
    match node.op_type:
        case "Transpose":
            order = list(node.attributes.get_ints("perm", ()) or range(rank)[::-1])
            undo, batch = ("Transpose", [order.index(axis) for axis in range(rank)]), order[batch]
        case "Squeeze":
            axes = sorted(axis % rank for axis in numbers_of(node, 1, "axes", arrays))
            axes = axes or [axis for axis, size in enumerate(shape) if size == 1]
            undo, batch = ("Unsqueeze", axes), [axis for axis in range(rank) if axis not in axes][batch]
        case "Unsqueeze":
            added = numbers_of(node, 1, "axes", arrays)
            axes = sorted(axis % (rank + len(added)) for axis in added)
            if batch in axes:
                return None, batch
            undo, batch = ("Squeeze", axes), batch - sum(axis < batch for axis in axes)
        case "MatMul":
            weight = node.inputs[1]
            if weight is None or batch == rank - 1:
                return None, batch
            if (inverse := _left_inverse(weight, recurrent, arrays)) is None:
                return None, batch
            undo = ("MatMul", inverse)
    return Step(node, output, undo), batch


def _select(
    node: ir.Node, output: int, batch: int, shape: Sequence[int], arrays: Mapping[ir.Value, Array]
) -> tuple[Step | None, int]:
    """Read an operator that selects rows along one axis."""
    rank = len(shape)
    axis = start = stop = 0
    undo: tuple[str, Any] = ("Identity", None)
    if node.op_type == "Slice":
        starts, stops, axes, steps = (
            numbers_of(node, place, name, arrays)
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
        parts = numbers_of(node, 1, "split", arrays) or [even] * (count - 1) + [
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
    """Return whether ``indices`` put ``rows`` rows in another order, each in one place."""
    return indices.ndim == 1 and np.array_equal(np.sort(indices), np.arange(rows))


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
        if nearly_equal(m @ k, np.eye(m.shape[-2])) and nearly_equal(k @ (m @ read), read):
            return candidate
    return None


def _multipliers(recurrent: ir.Node) -> Iterator[ir.Value]:
    """Return the right operands of the products that read the node's ``Y`` or ``Y_h``."""
    for value in walk(recurrent.outputs[:2], lambda each: firsts_from(each, _KEEPING_NUMBERS)):
        for node, place in value.uses():
            if node.op_type == "MatMul" and place == 0 and node.inputs[1] is not None:
                yield node.inputs[1]


def _array(value: ir.Value | None, arrays: Mapping[ir.Value, Array]) -> Array | None:
    """Return a constant or known value in float64."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    array = arrays.get(value) if tensor is None else tensor.numpy()
    return None if array is None else array.astype(np.float64)


@dataclass(frozen=True)
class Member:
    """One place among those of a state."""

    place: Place
    batch_axis: int | None
    """The batch axis of the node's initial state, None if it has none."""
    path: Path | None
    """Path of its rows in the state, None for all rows."""
    orders: tuple[ir.Value, ...]
    """The indices that its node's rows are put in order by, one after the other."""

    @property
    def span(self) -> tuple[int, int, int] | None:
        """``(axis, start, stop)`` of its rows in the state, None for all rows."""
        return self.path.span if self.path else None


@dataclass(frozen=True)
class StateGroup:
    """One state to be: its members in the order of their rows."""

    members: tuple[Member, ...]

    @property
    def node(self) -> ir.Node:
        """The first member's recurrent node."""
        return self.members[0].place.slot.node

    @property
    def kind(self) -> str:
        """``h``, ``c``, or ``state`` if both are rows of one tensor."""
        kinds = {member.place.slot.kind for member in self.members}
        return kinds.pop() if len(kinds) == 1 else "state"

    def names(self, prefix: str = "") -> tuple[str, str]:
        """Return the names of the state's input and output."""
        return f"{prefix}{self.kind}_0", f"{prefix}{self.kind}_n"


def wire(graph: ir.Graph, group: StateGroup, state: ir.Value, names: UniqueNames) -> ir.Value:
    """Make the group's nodes start from ``state`` and return the value that it has after them.

    The value's shape and dtype are the state's. Nodes are appended; the caller sorts the graph.
    """
    parts, axis = [], 0
    clones: dict[tuple[ir.Node, ir.Value], ir.Node] = {}
    for member in group.members:
        place, path, start = member.place, member.path, state
        for step in reversed(path.steps if path else ()):
            key = (step.node, start)
            if key not in clones:
                clones[key] = _clone(graph, step.node, start, names)
            start = clones[key].outputs[step.output]
        for indices in member.orders:
            start = _op(graph, names, "Gather", [start, indices], axis=member.batch_axis)
        place.start_from(start)
        part = carry_out(place, start, names.unique)
        for indices in reversed(member.orders):
            inverse = _inverse(graph, indices, names)
            part = _op(graph, names, "Gather", [part, inverse], axis=member.batch_axis)
        parts.append(_undo(graph, part, path, names))
        axis = member.span[0] if member.span else axis
    return parts[0] if len(parts) == 1 else _op(graph, names, "Concat", parts, axis=axis)


def _clone(graph: ir.Graph, node: ir.Node, first: ir.Value, names: UniqueNames) -> ir.Node:
    inputs = [first, *node.inputs[1:]]
    copy = ir.Node(node.domain, node.op_type, inputs, node.attributes, num_outputs=len(node.outputs))
    graph.append(copy)
    for output, original in zip(copy.outputs, node.outputs, strict=True):
        output.name = names.unique(f"{first.name}.{node.op_type}")
        output.type = original.type
    return copy


def _undo(graph: ir.Graph, value: ir.Value, path: Path | None, names: UniqueNames) -> ir.Value:
    for step in path.steps if path else ():
        operator, argument = step.undo
        match operator:
            case "MatMul":
                value = _op(graph, names, "MatMul", [value, argument])
            case "Reorder":
                indices, axis = argument
                value = _op(graph, names, "Gather", [value, _inverse(graph, indices, names)], axis=axis)
            case "Transpose":
                value = _op(graph, names, "Transpose", [value], perm=argument)
            case "Squeeze" | "Unsqueeze" if graph.opset_imports[""] < _AXES_AS_INPUT:
                value = _op(graph, names, operator, [value], axes=argument)
            case "Squeeze" | "Unsqueeze":
                value = _op(graph, names, operator, [value, _integers(graph, argument, names)])
            case _:
                pass
    return value


def _inverse(graph: ir.Graph, indices: ir.Value, names: UniqueNames) -> ir.Value:
    """Return the indices that undo ``indices``: the places of 0, 1, 2 ... among them."""
    for node, _ in indices.uses():
        if node.op_type == "TopK" and node.attributes.get_int("largest", 1) == 0 and node.graph is graph:
            return node.outputs[1]
    count = _op(graph, names, "Shape", [indices])
    count.type = ir.TensorType(ir.DataType.INT64)
    node = ir.node("TopK", [indices, count], {"largest": 0}, num_outputs=2)
    graph.append(node)
    for output in node.outputs:
        output.name = names.unique(f"{indices.name}.TopK")
        output.type = ir.TensorType(ir.DataType.INT64)
    return node.outputs[1]


def _op(
    graph: ir.Graph, names: UniqueNames, operator: str, inputs: Sequence[ir.Value], **attributes: Any
) -> ir.Value:
    """Append an operator, or find one that already computes the same."""
    for other, _ in inputs[0].uses():
        if other.op_type == operator and other.graph is graph and _same(other, inputs, attributes):
            return other.outputs[0]
    node = ir.node(operator, inputs, attributes)
    graph.append(node)
    node.outputs[0].name = names.unique(f"{inputs[0].name}.{operator}")
    node.outputs[0].type = inputs[0].type
    return node.outputs[0]


def _same(node: ir.Node, inputs: Sequence[ir.Value], attributes: dict[str, Any]) -> bool:
    own = {name: each.value for name, each in node.attributes.items() if name != "allowzero"}
    return (
        {name: np.ravel(value).tolist() for name, value in own.items()}
        == {name: np.ravel(value).tolist() for name, value in attributes.items()}
        and len(node.inputs) == len(inputs)
        and all(map(_equal, node.inputs, inputs))
    )


def _equal(mine: ir.Value | None, theirs: ir.Value) -> bool:
    if mine is theirs or mine is None:
        return mine is theirs
    left, right = ir.convenience.get_const_tensor(mine), ir.convenience.get_const_tensor(theirs)
    return (
        left is not None
        and right is not None
        and left.dtype == right.dtype == ir.DataType.INT64
        and left.numpy().tolist() == right.numpy().tolist()
    )


def _integers(graph: ir.Graph, numbers: list[int], names: UniqueNames) -> ir.Value:
    name = names.unique("axes_" + "_".join(map(str, numbers)))
    value = ir.val(name, const_value=ir.tensor(numbers, dtype=ir.DataType.INT64, name=name))
    graph.register_initializer(value)
    return value
