"""The parts of a graph that run step by step: LSTM, GRU and RNN nodes, and loops that
carry floats.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.errors import ContractError

from ..graph import VIEWS, behind_identity
from ..recurrent import Slot, is_recurrent, label, slots

Axis = tuple[ir.Value, int | None]
"""One axis of a value; None for the index if the value itself is a length."""
LAYOUT = VIEWS | {"MatMul"}
"""Operators that may lie between a state input and a node, or a last state and its
output."""


@dataclass(frozen=True)
class Recurrence:
    """A node that runs step by step."""

    node: ir.Node
    """The recurrent layer or the loop."""
    slots: tuple[Slot, ...]
    """Its states."""

    @property
    def looped(self) -> bool:
        """True for a Loop or a Scan."""
        return not is_recurrent(self.node)

    def time_axes(self) -> Iterator[Axis]:
        """Return axes with one entry per step; of a Loop its trip count."""
        if not self.looped and self.node.inputs[0] is not None:
            yield self.node.inputs[0], 0
        elif self.node.op_type == "Scan":
            count = self.node.attributes["num_scan_inputs"].as_int()
            for value in self.node.inputs[len(self.node.inputs) - count :]:
                if value is not None:
                    yield value, 0
        elif self.node.inputs[0] is not None:
            yield self.node.inputs[0], None

    def row_axes(self) -> Iterator[Axis]:
        """Return axes with one entry per row of the batch; of a loop's state any axis
        may be it.
        """
        if not self.looped and self.node.inputs[0] is not None:
            yield self.node.inputs[0], 1
        for slot in self.slots:
            initial = slot.initial
            if initial is None:
                continue
            if not self.looped:
                yield initial, 1
            elif initial.shape is not None:
                for axis in range(len(initial.shape)):
                    yield initial, axis


def recurrences(model: ir.Model) -> list[Recurrence]:
    """Return the recurrences of the main graph, in its order."""
    candidates = (Recurrence(node, tuple(_slots(node))) for node in model.graph)
    return [candidate for candidate in candidates if candidate.slots]


def top_of(value: ir.Value) -> ir.Value:
    """Return the first input of the topmost layout operator above ``value``, or
    ``value``.
    """
    while True:
        node = value.producer()
        if node is None or node.op_type not in LAYOUT or node.inputs[0] is None:
            return value
        value = node.inputs[0]


def refuse_nested(model: ir.Model) -> None:
    """Raise ``ContractError`` for a recurrent node inside of another node's body."""
    for node in model.graph.all_nodes():
        if is_recurrent(node) and node.graph is not model.graph:
            raise ContractError(
                f"{label(node)} runs inside of an If, Loop or Scan, so no one input can"
                " stand for its state; choose a branch with --branch INPUT=NUMBER or"
                " fixed axes (--input), or move the node out"
            )


def _slots(node: ir.Node) -> Iterator[Slot]:
    """Yield the states of a recurrent node or loop."""
    if is_recurrent(node):
        yield from slots(node)
    elif node.domain == "" and node.op_type in ("Loop", "Scan"):
        carried = list(_carried_floats(node))
        for number, indices in enumerate(carried, 1):
            yield Slot(node, "h" if len(carried) == 1 else f"state{number}", *indices)


def _carried_floats(node: ir.Node) -> Iterator[tuple[int, int]]:
    """Return the input and output index of each float that changes from pass to
    pass.
    """
    body = node.attributes["body"].as_graph()
    if len(body.inputs) != len(node.inputs):  # a Scan of opset 8 also has sequence_lens
        return
    loop = node.op_type == "Loop"
    first = 2 if loop else 0  # after the trip count and the condition
    scanned = 0 if loop else node.attributes["num_scan_inputs"].as_int()
    for index in range(first, len(node.inputs) - scanned):
        entering = body.inputs[index]
        leaving = behind_identity(body.outputs[index - first + loop])
        outer = node.inputs[index]
        dtype = entering.dtype
        if dtype is None and outer is not None:
            dtype = outer.dtype
        is_float = dtype is not None and dtype.is_floating_point()
        if is_float and entering is not leaving and entering.uses():
            yield index, index - first
