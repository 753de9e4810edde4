"""Reaching a state of a node inside an ``If``, ``Loop`` or ``Scan`` body from the main graph.

An ``If`` hands the state in by capture and out by one more output; the other branch hands it on untouched.
A ``Loop`` or ``Scan`` that carries the state from pass to pass already has an input and an output for it. A
node that starts over in every pass has no state that one input could stand for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..recurrent import Slot
from .loops import behind_identity, carried_values

__all__ = ["Place", "carry_out", "locate", "parents_of"]


@dataclass(frozen=True)
class Place:
    """Where one slot's state is read and written, as near to the main graph as it goes by itself."""

    slot: Slot
    owner: ir.Node
    """The recurrent node, or the outermost Loop or Scan that carries its state."""
    input: int
    output: int
    branches: tuple[ir.Node, ...]
    """The ``If`` nodes between ``owner`` and the main graph, innermost first."""

    @property
    def initial(self) -> ir.Value | None:
        """The value that the state starts from, None where it starts from nothing."""
        return self.owner.inputs[self.input] if len(self.owner.inputs) > self.input else None

    def start_from(self, value: ir.Value) -> None:
        """Make the state start from ``value``."""
        if len(self.owner.inputs) <= self.input:
            self.owner.resize_inputs(self.input + 1)
        self.owner.replace_input_with(self.input, value)


def parents_of(model: ir.Model) -> dict[ir.Graph, ir.Node]:
    """Map every subgraph to the node that holds it."""
    return {
        graph: node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        for attribute in node.attributes.values()
        if attribute.type is ir.AttributeType.GRAPH
        for graph in (attribute.as_graph(),)
    }


def locate(slot: Slot, parents: Mapping[ir.Graph, ir.Node]) -> Place | str:
    """Find the slot's place, or say why its state can't be passed through."""
    place = Place(slot, slot.node, slot.input, slot.output, ())
    graph = slot.node.graph
    while isinstance(graph, ir.Graph) and graph in parents:
        parent = parents[graph]
        if parent.op_type == "If":
            place = Place(slot, place.owner, place.input, place.output, (*place.branches, parent))
        else:
            carried = _carried(place, parent)
            if carried is None:
                return _why_not(place, graph, parent)
            place = Place(slot, parent, *carried, ())
        graph = parent.graph
    return place


def carry_out(place: Place, state: ir.Value, name: Callable[[str], str]) -> ir.Value:
    """Return the state's last value in the main graph, with outputs added on the way where needed.

    Args:
        place: where the state is.
        state: what the state starts from now; branches not taken give it back.
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
    for each in carried_values(parent):
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
    """Say what keeps a state from being carried from pass to pass; it may pass through other operators."""
    waiting, seen = [place.initial] if place.initial else [], set()
    while waiting:
        value = waiting.pop()
        if value in list(body.inputs):
            return (
                f"its state is not handed straight on from pass to pass of {parent.op_type} {parent.name!r}"
            )
        seen.add(value)
        node = value.producer()
        waiting += [entry for entry in (node.inputs if node else ()) if entry and entry not in seen]
    return f"it starts over in every pass of {parent.op_type} {parent.name!r}"


def _complete(value: ir.Value, like: ir.Value, name: str) -> None:
    """Return a new output a name, and the type and shape of the state."""
    if not value.name:
        value.name = name
    if value.type is None:
        value.type = like.type
    if value.shape is None:
        value.shape = like.shape
