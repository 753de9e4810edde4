"""Writing one state into the graph: its input, the way to its nodes, and the way back to its output."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from ._groups import Group
from .paths import Path
from .subgraphs import carry_out

__all__ = ["Names", "wire"]

_AXES_AS_INPUT = 13
"""The opset from which Squeeze and Unsqueeze take their axes as an input."""


class Names:
    """Makes names that no value of the model bears yet."""

    def __init__(self, model: ir.Model) -> None:
        """Collect the names of ``model``, subgraphs included."""
        self._taken = {value.name for value in model.graph.inputs} | set(model.graph.initializers)
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            self._taken |= {value.name for value in (*node.inputs, *node.outputs) if value is not None}
        for graph in model.graph.subgraphs():
            self._taken |= {value.name for value in graph.inputs} | set(graph.initializers)

    def unique(self, name: str) -> str:
        """Return ``name``, or ``name_2``, ``name_3`` ... where it is taken, and take it."""
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate


def wire(graph: ir.Graph, group: Group, state: ir.Value, names: Names) -> ir.Value:
    """Make the group's nodes start from ``state`` and give the value that it has after them.

    The value's shape and dtype are the state's. Nodes are appended; the caller sorts the graph.
    """
    parts, axis = [], 0
    clones: dict[tuple[ir.Node, ir.Value], ir.Node] = {}
    for place, path in zip(group.places, group.paths, strict=True):
        start = state
        for step in reversed(path.steps if path else ()):
            key = (step.node, start)
            if key not in clones:
                clones[key] = _clone(graph, step.node, start, names)
            start = clones[key].outputs[step.output]
        place.start_from(start)
        part = carry_out(place, start if path else state, names.unique)
        parts.append(_undo(graph, part, path, names))
        axis = path.span[0] if path and path.span else axis
    return parts[0] if len(parts) == 1 else _op(graph, names, "Concat", parts, axis=axis)


def _clone(graph: ir.Graph, node: ir.Node, first: ir.Value, names: Names) -> ir.Node:
    inputs = [first, *node.inputs[1:]]
    copy = ir.Node(node.domain, node.op_type, inputs, node.attributes, num_outputs=len(node.outputs))
    graph.append(copy)
    for output, original in zip(copy.outputs, node.outputs, strict=True):
        output.name = names.unique(f"{first.name}.{node.op_type}")
        output.type = original.type
    return copy


def _undo(graph: ir.Graph, value: ir.Value, path: Path | None, names: Names) -> ir.Value:
    for step in path.steps if path else ():
        operator, argument = step.undo
        match operator:
            case "MatMul":
                value = _op(graph, names, "MatMul", [value, argument])
            case "Transpose":
                value = _op(graph, names, "Transpose", [value], perm=argument)
            case "Squeeze" | "Unsqueeze" if graph.opset_imports[""] < _AXES_AS_INPUT:
                value = _op(graph, names, operator, [value], axes=argument)
            case "Squeeze" | "Unsqueeze":
                value = _op(graph, names, operator, [value, _integers(graph, argument, names)])
            case _:
                pass
    return value


def _op(
    graph: ir.Graph, names: Names, operator: str, inputs: Sequence[ir.Value], **attributes: Any
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


def _integers(graph: ir.Graph, numbers: list[int], names: Names) -> ir.Value:
    name = names.unique("axes_" + "_".join(map(str, numbers)))
    value = ir.val(name, const_value=ir.tensor(numbers, dtype=ir.DataType.INT64, name=name))
    graph.register_initializer(value)
    return value
