"""Writing one state into the graph: from its input to its nodes, and from their last states to its output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..graph import UniqueNames
from ..recurrent import state_shape
from .paths import Path
from .subgraphs import Place, carry_out

__all__ = ["StateGroup", "wire"]

_AXES_AS_INPUT = 13
"""The opset from which Squeeze and Unsqueeze take their axes as an input."""


@dataclass(frozen=True)
class StateGroup:
    """One state to be: its places in the order of their rows, and the path of each."""

    places: tuple[Place, ...]
    paths: tuple[Path | None, ...]
    orders: tuple[tuple[ir.Value, ...], ...]
    """For each place the indices that its node's rows are put in order by, one after the other."""

    @property
    def kind(self) -> str:
        """``h``, ``c``, or ``state`` where both are rows of one tensor."""
        kinds = {place.slot.kind for place in self.places}
        return kinds.pop() if len(kinds) == 1 else "state"


def wire(graph: ir.Graph, group: StateGroup, state: ir.Value, names: UniqueNames) -> ir.Value:
    """Make the group's nodes start from ``state`` and return the value that it has after them.

    The value's shape and dtype are the state's. Nodes are appended; the caller sorts the graph.
    """
    parts, axis = [], 0
    clones: dict[tuple[ir.Node, ir.Value], ir.Node] = {}
    for place, path, orders in zip(group.places, group.paths, group.orders, strict=True):
        batch_axis = state_shape(place.slot.node)[2] if orders else None
        start = state
        for step in reversed(path.steps if path else ()):
            key = (step.node, start)
            if key not in clones:
                clones[key] = _clone(graph, step.node, start, names)
            start = clones[key].outputs[step.output]
        for indices in orders:
            start = _op(graph, names, "Gather", [start, indices], axis=batch_axis)
        place.start_from(start)
        part = carry_out(place, start, names.unique)
        for indices in reversed(orders):
            part = _op(graph, names, "Gather", [part, _inverse(graph, indices, names)], axis=batch_axis)
        parts.append(_undo(graph, part, path, names))
        axis = path.span[0] if path and path.span else axis
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
    if len(node.inputs) != len(inputs) or set(node.attributes) - {"allowzero"} != set(attributes):
        return False
    if any(list(_plain(node.attributes[name])) != list(_flat(value)) for name, value in attributes.items()):
        return False
    return all(_equal(mine, theirs) for mine, theirs in zip(node.inputs, inputs, strict=True))


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


def _plain(attribute: ir.Attr) -> Sequence[int]:
    return attribute.as_ints() if attribute.type is ir.AttributeType.INTS else [attribute.as_int()]


def _flat(value: Any) -> Sequence[int]:
    return value if isinstance(value, list) else [value]


def _integers(graph: ir.Graph, numbers: list[int], names: UniqueNames) -> ir.Value:
    name = names.unique("axes_" + "_".join(map(str, numbers)))
    value = ir.val(name, const_value=ir.tensor(numbers, dtype=ir.DataType.INT64, name=name))
    graph.register_initializer(value)
    return value
