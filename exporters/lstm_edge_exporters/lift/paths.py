"""Tensors with the states of several nodes: found, and written as one input and one output.

A path leads from a recurrent node's initial state back to the tensor that it is a part of.

PyTorch makes one zeros ``(layers*D, N, H)`` and hands each layer its rows; a file that carries that tensor
has one state, not one per layer. A path is the chain of layout operators between the whole tensor and a
node, each of which can be undone, so that the last states can be put together the same way.

With ``proj_size`` the state h (P) enters a node of width H as ``h @ M`` and leaves as ``Y_h @ K``, with
``M = pinv(W_hr).T`` and ``K = W_hr.T``. K serves as the left inverse of M's step when it undoes M
(``M @ K = 1``) and if it drops nothing that the recurrence reads (``K @ M @ R.T = R.T``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..evaluate import numbers_of
from ..graph import UniqueNames, firsts_from, walk
from ..numerics.graph64 import nearly_equal
from ..recurrent import LEFT_INVERSE, OPERATORS
from .subgraphs import Place, carry_out

_KEEP: tuple[str, Any] = ("Identity", None)
"""How to undo what changes no number."""
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
    batch_axis: int
    """The batch axis of the operator's first operand."""
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
    while node is not None and node.domain == "" and node.op_type in _RULES:
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
    for node in operators_above(slot):
        above = node.inputs[0]
        if above is None or value.index() is None:
            break
        operand = _Operand(node, value.index() or 0, batch_axis, arrays[above].shape, recurrent, arrays)
        step = _RULES[node.op_type](operand)
        if step is None or (step.span and any(each.span for each in steps)):
            break
        steps.append(step)
        value, batch_axis = above, step.batch_axis
        if step.span or step.undo[0] in ("MatMul", "Reorder"):
            best = Path(value, batch_axis, tuple(steps))
    return best


@dataclass(frozen=True)
class _Operand:
    """The first operand of an operator on the path; a rule finds the ``Step`` to it, if it can be undone."""

    node: ir.Node
    output: int
    """Which of the operator's outputs is on the path."""
    batch: int
    """The batch axis of that output."""
    shape: tuple[int, ...]
    recurrent: ir.Node
    """The node at the path's end."""
    arrays: Mapping[ir.Value, Array]
    """A value for each operand of the operator."""

    def step(self, undo: tuple[str, Any], batch: int, span: tuple[int, int, int] | None = None) -> Step:
        """Return the step to this operand, of which ``batch`` is the batch axis."""
        return Step(self.node, self.output, undo, batch, span)

    def rows(self, axis: int, start: int, stop: int, undo: tuple[str, Any] = _KEEP) -> Step | None:
        """Return the step that selects rows of ``axis``; None if these are rows of the batch."""
        dropped = undo is not _KEEP and axis <= self.batch
        return (
            None
            if axis == self.batch + dropped
            else self.step(undo, self.batch + dropped, (axis, start, stop))
        )

    def numbers(self, place: int, name: str) -> list[int]:
        """Return an argument of the operator."""
        return numbers_of(self.node, place, name, self.arrays)

    @property
    def axis(self) -> int:
        """The operator's axis."""
        return (self.node.attributes.get_int("axis", 0) or 0) % len(self.shape)


def _identity(operand: _Operand) -> Step | None:
    return operand.step(_KEEP, operand.batch)


def _transpose(operand: _Operand) -> Step | None:
    axes = range(len(operand.shape))
    order = list(operand.node.attributes.get_ints("perm", ()) or axes[::-1])
    return operand.step(("Transpose", [order.index(axis) for axis in axes]), order[operand.batch])


def _squeeze(operand: _Operand) -> Step | None:
    rank = len(operand.shape)
    axes = sorted(axis % rank for axis in operand.numbers(1, "axes"))
    axes = axes or [axis for axis, size in enumerate(operand.shape) if size == 1]
    kept = [axis for axis in range(rank) if axis not in axes]
    return operand.step(("Unsqueeze", axes), kept[operand.batch])


def _unsqueeze(operand: _Operand) -> Step | None:
    added = operand.numbers(1, "axes")
    axes = sorted(axis % (len(operand.shape) + len(added)) for axis in added)
    if operand.batch in axes:
        return None
    return operand.step(("Squeeze", axes), operand.batch - sum(axis < operand.batch for axis in axes))


def _matmul(operand: _Operand) -> Step | None:
    weight = operand.node.inputs[1]
    if weight is None or operand.batch == len(operand.shape) - 1:
        return None
    inverse = _left_inverse(weight, operand.recurrent, operand.arrays)
    return None if inverse is None else operand.step(("MatMul", inverse), operand.batch)


def _slice(operand: _Operand) -> Step | None:
    starts, stops, axes, steps = (
        operand.numbers(place, name) for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if len(starts) != 1 or set(steps or [1]) != {1}:
        return None
    axis = (axes or [0])[0] % len(operand.shape)
    start, stop, _ = slice(starts[0], stops[0]).indices(operand.shape[axis])
    return operand.rows(axis, start, stop)


def _split(operand: _Operand) -> Step | None:
    size, count = operand.shape[operand.axis], len(operand.node.outputs)
    even = -(-size // count)
    parts = operand.numbers(1, "split") or [even] * (count - 1) + [size - even * (count - 1)]
    start = sum(parts[: operand.output])
    return operand.rows(operand.axis, start, start + parts[operand.output])


def _gather(operand: _Operand) -> Step | None:
    indices, axis = operand.node.inputs[1], operand.axis
    picked = np.zeros(0) if indices is None else operand.arrays[indices]
    if axis == operand.batch and is_order(picked, operand.shape[axis]):
        return operand.step(("Reorder", (indices, axis)), operand.batch)
    rows = [int(row) % operand.shape[axis] for row in picked.ravel()]
    if picked.ndim > 1 or not rows or rows != list(range(rows[0], rows[0] + len(rows))):
        return None
    return operand.rows(axis, rows[0], rows[-1] + 1, _KEEP if picked.ndim else ("Unsqueeze", [axis]))


_RULES: Mapping[str, Callable[[_Operand], Step | None]] = {
    "Gather": _gather,
    "Identity": _identity,
    "MatMul": _matmul,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""By layout operator: the step from its output to its first operand, None if it can't be undone."""


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
