"""Nodes in the bodies of ``If``, ``Loop`` and ``Scan``, and how their states reach the main graph.

A recurrence may be written out in plain operators: a ``Loop`` or ``Scan`` that carries its states, and has
already an input and an output for each. An ``If`` hands a state in by capture and out by one more output; the
other branch hands it on untouched. A node that starts over in every pass has no state that one input could
stand for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import ContractError

from ..graph import UniqueNames, axes_of, behind_identity, constant, operands, walk
from ..recurrent import Slot, is_recurrent, label, slots

_LOOP_HEADER = 2
"""A Loop's inputs, and its body's, begin with the trip count and the condition."""
_KEEPING_INDICES = ("Cast", "Identity", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class _Carried:
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
class SequenceInput:
    """A tensor that a node reads step by step."""

    value: ir.Value
    time: int
    """The axis that the steps are on."""

    @property
    def batch(self) -> int:
        """The first of its other axes."""
        return int(self.time == 0)


@dataclass(frozen=True)
class Place:
    """Where one slot's state is read and written, as near to the main graph as possible."""

    slot: Slot
    owner: ir.Node
    """The recurrent node, or the outermost Loop or Scan that carries its state."""
    input: int
    output: int
    branches: tuple[ir.Node, ...] = ()
    """The ``If`` nodes between ``owner`` and the main graph, innermost first."""
    reason: str = ""
    """Why its state can't be passed through a loop around it, if it can't."""

    @property
    def looped(self) -> bool:
        """Whether a ``Loop`` or ``Scan`` carries it in plain operators."""
        return not is_recurrent(self.slot.node)

    @property
    def initial(self) -> ir.Value | None:
        """The initial value of the state, or None."""
        return self.owner.inputs[self.input] if len(self.owner.inputs) > self.input else None

    def start_from(self, value: ir.Value) -> None:
        """Make the state start from ``value``."""
        if len(self.owner.inputs) <= self.input:
            self.owner.resize_inputs(self.input + 1)
        self.owner.replace_input_with(self.input, value)


@dataclass(frozen=True)
class Recurrence:
    """A recurrent node, or a ``Loop`` or ``Scan`` that carries states."""

    node: ir.Node
    reads: tuple[SequenceInput, ...]
    """What it reads step by step."""
    places: tuple[Place, ...]
    """Where each of its states is; a loop around the node may carry several as one."""

    @property
    def looped(self) -> bool:
        """Whether it is a ``Loop`` or ``Scan``."""
        return not is_recurrent(self.node)


def recurrences(model: ir.Model) -> tuple[Recurrence, ...]:
    """Return every recurrence of a graph and of the bodies in it, in graph order."""
    parents = {
        graph: node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        for attribute in node.attributes.values()
        if attribute.type is ir.AttributeType.GRAPH
        for graph in (attribute.as_graph(),)
    }
    return tuple(
        Recurrence(node, tuple(_sequences(node)), tuple(_locate(slot, parents) for slot in slots))
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if (slots := _slots_of(node))
    )


def _carried_values(node: ir.Node) -> Iterator[_Carried]:
    """Return the values that a ``Loop`` or ``Scan`` carries; nothing for other operators."""
    if node.domain != "" or node.op_type not in ("Loop", "Scan"):
        return
    body = node.attributes["body"].as_graph()
    entering, leaving = list(body.inputs), list(body.outputs)
    if len(entering) != len(node.inputs):  # a Scan of opset 8 also has sequence_lens
        return
    loop = node.op_type == "Loop"
    first = _LOOP_HEADER if loop else 0
    scanned = 0 if loop else node.attributes["num_scan_inputs"].as_int()
    for place in range(first, len(node.inputs) - scanned):
        last = leaving[place - first + loop]
        yield _Carried(place, place - first, entering[place], behind_identity(last))


def _slots_of(node: ir.Node) -> tuple[Slot, ...]:
    """Return a recurrent node's states, or values from data that a ``Loop`` or ``Scan`` carries."""
    if is_recurrent(node):
        return slots(node)
    found = [
        each
        for each in _carried_values(node)
        if each.entering is not each.leaving and each.entering.uses() and _is_state(node, each)
    ]
    kinds = ["h"] if len(found) == 1 else [f"state{place}" for place in range(1, len(found) + 1)]
    return tuple(Slot(node, kind, each.input, each.output) for kind, each in zip(kinds, found, strict=True))


def _sequences(node: ir.Node) -> Iterator[SequenceInput]:
    """Return the values that a recurrent node, a ``Loop`` or a ``Scan`` reads step by step."""
    read = _read_by_steps(node)
    return (SequenceInput(value, axis) for value, axis in read if value and axis is not None and axis >= 0)


def _read_by_steps(node: ir.Node) -> Iterator[tuple[ir.Value | None, int | None]]:
    if is_recurrent(node):
        yield node.inputs[0], node.attributes.get_int("layout", 0) or 0
    elif node.op_type == "Scan":
        count = node.attributes["num_scan_inputs"].as_int()
        axes = node.attributes.get_ints("scan_input_axes", ()) or [0] * count
        yield from zip(node.inputs[len(node.inputs) - count :], axes, strict=False)
    elif node.op_type == "Loop":
        body = node.attributes["body"].as_graph()
        for inner in (inner for inner in body if inner.inputs):
            yield _from_outside(inner.inputs[0], node, body), _stepped_axis(inner, body)


def generalize_loops(model: ir.Model) -> None:
    """Let a ``Loop`` over a time axis of declared size make as many passes as there are steps, in place.

    Where a framework was given a fixed length, it counts to that number, in the loop's condition as well.

    Raises:
        ContractError: the condition of such a loop looks at data.
    """
    names = UniqueNames(model.graph)
    for node in [node for node in model.graph if node.op_type == "Loop" and _slots_of(node)]:
        trips = constant(node.inputs[0])
        read = next((each for each in _sequences(node) if each.value.shape is not None), None)
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


def _from_outside(value: ir.Value | None, node: ir.Node, body: ir.Graph) -> ir.Value | None:
    """Return the value outside of a loop that ``value`` is in every pass; None if it changes."""
    if value is None or value.graph is not body:
        return value
    unchanged = {each.entering: each.input for each in _carried_values(node) if each.entering is each.leaving}
    return node.inputs[unchanged[value]] if value in unchanged else None


def _stepped_axis(node: ir.Node, body: ir.Graph) -> int | None:
    """Return the axis that a node in a loop picks one entry of, by the number of passes."""
    if node.op_type == "Gather" and _counts(node.inputs[1], body):
        return node.attributes.get_int("axis", 0) or 0
    if node.op_type == "Slice" and len(node.inputs) > 1:
        place = _counting_place(node.inputs[1], body)
        axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        if place is not None:
            return place if axes is None else int(axes[place])
    return None


def _counting_place(starts: ir.Value | None, body: ir.Graph) -> int | None:
    """Return which number of a vector counts the passes of a loop, as in TensorFlow's ``[0, t]``."""
    node = None if starts is None else starts.producer()
    if starts is None or node is None or constant(starts) is not None or not _only_counts(starts, body):
        return None
    if node.op_type == "Unsqueeze":
        return 0
    place = 0
    for value in node.inputs:
        found = _counting_place(value, body)
        if found is not None:
            return place + found
        if node.op_type == "Concat":
            known = constant(value)
            place += 1 if known is None else known.size
    return None


def _counts(indices: ir.Value | None, body: ir.Graph) -> bool:
    """Return whether ``indices`` is a counter of the passes: an integer that the body is given."""
    while indices is not None and (node := indices.producer()) is not None:
        if node.op_type not in _KEEPING_INDICES:
            return False
        indices = node.inputs[0]
    return indices in list(body.inputs)


def _only_counts(condition: ir.Value, body: ir.Graph) -> bool:
    """Return whether a condition depends on nothing but constants and the integers that ``body`` is given."""

    def counts(value: ir.Value) -> bool:
        if value in body.inputs:
            return value.dtype is not None and not value.dtype.is_floating_point()
        node = value.producer()
        return constant(value) is not None or (
            node is not None and node.graph is body and node.op_type != "Gather"
        )

    def computed_from(value: ir.Value) -> list[ir.Value]:
        node = value.producer()
        return [] if node is None or constant(value) is not None else [each for each in node.inputs if each]

    return all(map(counts, walk([condition], computed_from)))


def _is_state(node: ir.Node, each: _Carried) -> bool:
    """Return whether a value that is carried is a float, or a number that does not only count the passes."""
    initial = node.inputs[each.input]
    dtype = each.entering.dtype or (initial.dtype if initial is not None else None)
    if dtype is None or dtype.is_floating_point():
        return dtype is not None
    return dtype.is_integer() and not _only_counts(each.leaving, node.attributes["body"].as_graph())


def _locate(slot: Slot, parents: Mapping[ir.Graph, ir.Node]) -> Place:
    """Find the slot's place, as far as its state can be passed through."""
    place = Place(slot, slot.node, slot.input, slot.output)
    graph = slot.node.graph
    while isinstance(graph, ir.Graph) and graph in parents:
        parent = parents[graph]
        if parent.op_type == "If":
            place = replace(place, branches=(*place.branches, parent))
        elif (carried := _carried(place, parent)) is None:
            return replace(place, reason=_why_not(place, graph, parent))
        else:
            place = Place(slot, parent, *carried)
        graph = parent.graph
    return place


def carry_out(place: Place, state: ir.Value, name: Callable[[str], str]) -> ir.Value:
    """Return the state's last value in the main graph, with outputs added on the way where needed.

    Args:
        place: where the state is.
        state: the new initial state; branches not taken return it.
        name: makes a value name unique.
    """
    owner = place.owner
    if len(owner.outputs) <= place.output:
        owner.resize_outputs(place.output + 1)
    value = owner.outputs[place.output]
    for output in owner.outputs:
        if output.name is None:
            output.name = "" if output is not value else None
    _complete(value, state, name(f"{owner.name}.{place.slot.kind}_n"))
    for branch in place.branches:
        for key in ("then_branch", "else_branch"):
            body = branch.attributes[key].as_graph()
            inner = value if value.graph is body else None
            if inner is None or inner.is_graph_output():
                through = ir.node("Identity", [state if inner is None else inner])
                body.append(through)
                inner = through.outputs[0]
                _complete(inner, state, name(f"{branch.name}.{key}.{place.slot.kind}_n"))
            body.outputs.append(inner)
        branch.resize_outputs(len(branch.outputs) + 1)
        value = branch.outputs[-1]
        _complete(value, state, name(f"{branch.name}.{place.slot.kind}_n"))
    return value


def _carried(place: Place, parent: ir.Node) -> tuple[int, int] | None:
    """Return the parent's ``(input, output)`` places of a state that its body carries from pass to pass."""
    if len(place.owner.outputs) <= place.output:
        return None
    for each in _carried_values(parent):
        if each.entering is place.initial and each.leaving in _leaving(place):
            return each.input, each.output
    return None


def _leaving(place: Place) -> set[ir.Value]:
    """Return the values that the state leaves the branches around its node as."""
    values = {place.owner.outputs[place.output]}
    for branch in place.branches:
        values = {
            branch.outputs[index]
            for key in ("then_branch", "else_branch")
            for index, value in enumerate(branch.attributes[key].as_graph().outputs)
            if behind_identity(value) in values
        }
    return values


def _why_not(place: Place, body: ir.Graph, parent: ir.Node) -> str:
    """Return why a state can't be carried from pass to pass; it may pass through other operators."""
    passes = f"pass to pass of {parent.op_type} {parent.name!r}"
    if any(value in body.inputs for value in walk([place.initial] if place.initial else [], operands)):
        return f"its state is not handed straight on from {passes}"
    return f"it starts over in every pass of {parent.op_type} {parent.name!r}"


def _complete(value: ir.Value, like: ir.Value, name: str) -> None:
    """Return a new output a name, and the type and shape of the state."""
    if not value.name:
        value.name = name
    if value.type is None:
        value.type = like.type
    if value.shape is None:
        value.shape = like.shape
