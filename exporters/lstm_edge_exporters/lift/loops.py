"""Recurrences that are written out in plain operators: a ``Loop`` or ``Scan`` that carries its states."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import ContractError

from ..graph import UniqueNames, axes_of
from ..recurrent import Slot, is_recurrent, label
from .evaluate import constant

__all__ = [
    "Carried",
    "Sequence",
    "behind_identity",
    "carried_values",
    "generalize_loops",
    "loop_slots",
    "recurrences",
    "sequences",
]

_LOOP_HEADER = 2
"""A Loop's inputs, and its body's, begin with the trip count and the condition."""
_KEEPING_INDICES = ("Cast", "Identity", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Carried:
    """One value that a ``Loop`` or ``Scan`` hands on from pass to pass."""

    input: int
    """Its place among the node's inputs."""
    output: int
    """Its place among the node's outputs."""
    entering: ir.Value
    """The body's input."""
    leaving: ir.Value
    """The body's output, behind any ``Identity``."""


@dataclass(frozen=True)
class Sequence:
    """A tensor that a node reads step by step."""

    value: ir.Value
    time: int
    """The axis that the steps are on."""
    batch: int
    """The first of its other axes."""


def carried_values(node: ir.Node) -> Iterator[Carried]:
    """Return what a ``Loop`` or ``Scan`` carries; nothing for other operators."""
    if node.domain != "" or node.op_type not in ("Loop", "Scan"):
        return
    body = node.attributes["body"].as_graph()
    entering, leaving = list(body.inputs), list(body.outputs)
    if len(entering) != len(node.inputs):  # a Scan of opset 8 takes sequence_lens too
        return
    loop = node.op_type == "Loop"
    first = _LOOP_HEADER if loop else 0
    scanned = 0 if loop else node.attributes["num_scan_inputs"].as_int()
    for place in range(first, len(node.inputs) - scanned):
        last = leaving[place - first + loop]
        yield Carried(place, place - first, entering[place], behind_identity(last))


def loop_slots(node: ir.Node) -> tuple[Slot, ...]:
    """Return the floats that a ``Loop`` or ``Scan`` carries and changes: what may be its states."""
    found = [
        each
        for each in carried_values(node)
        if each.entering is not each.leaving and each.entering.uses() and _is_float(node, each)
    ]
    kinds = ["h"] if len(found) == 1 else [f"state{place}" for place in range(1, len(found) + 1)]
    return tuple(Slot(node, kind, each.input, each.output) for kind, each in zip(kinds, found, strict=True))


def recurrences(model: ir.Model) -> Iterator[ir.Node]:
    """Return the recurrent nodes, and every ``Loop`` and ``Scan`` that carries floats, in graph order."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if is_recurrent(node) or loop_slots(node):
            yield node


def sequences(node: ir.Node) -> Iterator[Sequence]:
    """Return what a recurrent node, a ``Loop`` or a ``Scan`` reads step by step."""
    if is_recurrent(node):
        layout = node.attributes.get_int("layout", 0) or 0
        if node.inputs[0] is not None:
            yield Sequence(node.inputs[0], layout, 1 - layout)
    elif node.op_type == "Scan":
        count = node.attributes["num_scan_inputs"].as_int()
        axes = list(node.attributes.get_ints("scan_input_axes", ()) or [0] * count)
        for value, axis in zip(node.inputs[-count:] if count else (), axes, strict=False):
            if value is not None and axis >= 0:
                yield Sequence(value, axis, int(axis == 0))
    elif node.op_type == "Loop":
        body = node.attributes["body"].as_graph()
        for inner in body:
            data, indices = (*inner.inputs, None, None)[:2]
            if inner.op_type == "Gather" and data is not None and data.graph is not body:
                axis = inner.attributes.get_int("axis", 0) or 0
                if axis >= 0 and _counts(indices, body):
                    yield Sequence(data, axis, int(axis == 0))


def generalize_loops(model: ir.Model) -> None:
    """Let a ``Loop`` over a time axis of declared size make as many passes as there are steps, in place.

    Where a framework was given a fixed length, it counts to that number, in the loop's condition as well.

    Raises:
        ContractError: the condition of such a loop looks at data.
    """
    names = UniqueNames(model.graph)
    for node in [node for node in model.graph if node.op_type == "Loop" and loop_slots(node)]:
        trips = constant(node.inputs[0])
        read = next((each for each in sequences(node) if each.value.shape is not None), None)
        if trips is None or read is None or axes_of(read.value)[read.time] != int(trips):
            continue
        body = node.attributes["body"].as_graph()
        if not _only_counts(body.outputs[0], body):
            raise ContractError(f"{label(node)} ends on a condition other than its count of passes")
        shape = ir.node("Shape", [read.value])
        axis = ir.node("Constant", [], {"value": ir.tensor(np.array(read.time))})
        steps = ir.node("Gather", [shape.outputs[0], axis.outputs[0]])
        go = ir.node("Identity", [body.inputs[1]])
        for value in (*shape.outputs, *axis.outputs, *steps.outputs, *go.outputs):
            value.name = names.unique(f"{node.name}.steps")
        model.graph.insert_before(node, [shape, axis, steps])
        node.replace_input_with(0, steps.outputs[0])
        body.append(go)
        go.outputs[0].type, go.outputs[0].shape = body.outputs[0].type, body.outputs[0].shape
        body.outputs[0] = go.outputs[0]


def behind_identity(value: ir.Value) -> ir.Value:
    """Return what ``value`` is a copy of."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _counts(indices: ir.Value | None, body: ir.Graph) -> bool:
    """Tell whether ``indices`` is a counter of the passes: an integer that the body is given."""
    while indices is not None and (node := indices.producer()) is not None:
        if node.op_type not in _KEEPING_INDICES:
            return False
        indices = node.inputs[0]
    return indices in list(body.inputs)


def _only_counts(condition: ir.Value, body: ir.Graph) -> bool:
    """Tell whether a condition depends on nothing but constants and the integers that ``body`` is given."""
    waiting, given = [condition], list(body.inputs)
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in given:
            if value.dtype is None or value.dtype.is_floating_point():
                return False
        elif constant(value) is None:
            if node is None or node.graph is not body or node.op_type == "Gather":
                return False
            waiting += [entry for entry in node.inputs if entry is not None]
    return True


def _is_float(node: ir.Node, each: Carried) -> bool:
    initial = node.inputs[each.input]
    dtype = each.entering.dtype or (initial.dtype if initial is not None else None)
    return dtype is not None and dtype.is_floating_point()
