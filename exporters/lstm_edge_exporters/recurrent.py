"""What the recurrent nodes of a graph are: their states, widths and directions."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

__all__ = [
    "LENGTHS",
    "Slot",
    "is_recurrent",
    "is_reversed",
    "label",
    "recurrent_nodes",
    "slots",
    "state_shape",
]

_OPERATORS = ("LSTM", "GRU", "RNN")
LENGTHS = 4
"""``sequence_lens``'s place among a recurrent node's inputs."""
_SLOTS = {"h": (5, 1), "c": (6, 2)}
"""A state's place among the inputs (``initial_h``, ``initial_c``) and the outputs (``Y_h``, ``Y_c``)."""


@dataclass(frozen=True)
class Slot:
    """One state of one recurrent node: where it enters and where it leaves."""

    node: ir.Node
    kind: str
    """``h`` or ``c``."""

    @property
    def input(self) -> int:
        """The place of the initial state among the node's inputs."""
        return _SLOTS[self.kind][0]

    @property
    def output(self) -> int:
        """The place of the last state among the node's outputs."""
        return _SLOTS[self.kind][1]

    @property
    def initial(self) -> ir.Value | None:
        """The value that the node starts from, None where it starts from nothing."""
        return self.node.inputs[self.input] if len(self.node.inputs) > self.input else None


def is_recurrent(node: ir.Node) -> bool:
    """Tell whether ``node`` is a standard ONNX LSTM, GRU or RNN."""
    return node.domain == "" and node.op_type in _OPERATORS


def recurrent_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Return the recurrent nodes in graph order, those in ``If``, ``Loop`` and ``Scan`` bodies included."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if is_recurrent(node):
            yield node


def slots(node: ir.Node) -> tuple[Slot, ...]:
    """Return the node's states, ``h`` first."""
    return tuple(Slot(node, kind) for kind in ("h", "c") if kind == "h" or node.op_type == "LSTM")


def is_reversed(node: ir.Node) -> bool:
    """Tell whether the node reads time backwards in any direction, so that no chunk can follow another."""
    return _text(node, "direction", "forward") != "forward"


def label(node: ir.Node) -> str:
    """Name the node for a message: after its first output where it has no name."""
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type} {name!r}"


def state_shape(node: ir.Node) -> tuple[int, int, int]:
    """Return ``(D, H, batch_axis)`` of the node's states.

    With ``layout=0`` a state is ``(D, N, H)``, with ``layout=1`` it is ``(N, D, H)``. H is 0 where neither
    ``hidden_size`` nor the shape of R tells it.
    """
    directions = 2 if _text(node, "direction", "forward") == "bidirectional" else 1
    hidden = node.attributes.get_int("hidden_size", 0) or 0
    recurrence = node.inputs[2]
    if not hidden and recurrence is not None and recurrence.shape is not None:
        width = recurrence.shape[-1]
        hidden = width if isinstance(width, int) else 0
    return directions, hidden, 0 if node.attributes.get_int("layout", 0) else 1


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes.get_string(name, default) or default
