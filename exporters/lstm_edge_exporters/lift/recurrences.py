"""The parts of a graph that run step by step: LSTM, GRU and RNN nodes, and loops that carry floats."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.errors import ContractError

from ..graph import UniqueNames, behind_identity
from ..recurrent import Slot, is_recurrent, is_reversed, label, slots

Axis = tuple[ir.Value, int]
"""One axis of a value."""
LAYOUT = frozenset(
    "Cast Concat Gather Identity MatMul Reshape Slice Split Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)
"""Operators that may lie between a state input and a node, or a last state and its output."""
_LOOP_HEADER = 2
"""The trip count and the condition, the first inputs of a Loop and of its body."""
_COUNTER = "count_passes"


@dataclass(frozen=True)
class Recurrence:
    """A node that makes one step after another."""

    node: ir.Node
    slots: tuple[Slot, ...]

    @property
    def looped(self) -> bool:
        """True for a Loop or a Scan."""
        return not is_recurrent(self.node)

    @property
    def reversed(self) -> bool:
        """True if it reads time backwards, in one direction at least."""
        return is_reversed(self.node)

    def time_axes(self) -> Iterator[Axis]:
        """Return axes with one entry per step; for a Loop after ``count_passes`` only."""
        if not self.looped and self.node.inputs[0] is not None:
            yield self.node.inputs[0], 0
        elif self.node.op_type == "Scan":
            count = self.node.attributes["num_scan_inputs"].as_int()
            axes = self.node.attributes.get_ints("scan_input_axes", ()) or [0] * count
            for value, axis in zip(self.node.inputs[len(self.node.inputs) - count :], axes, strict=False):
                if value is not None:
                    yield value, axis
        else:
            last = self.node.outputs[-1]
            if last.name and last.name.startswith(_COUNTER):
                yield last, 0

    def row_axes(self) -> Iterator[Axis]:
        """Return axes with one entry per row of the batch; of a loop's state any axis may be it."""
        if not self.looped and self.node.inputs[0] is not None:
            yield self.node.inputs[0], 1
        for slot in self.slots:
            if slot.initial is not None:
                rank = len(slot.initial.shape) if slot.initial.shape is not None else 0
                yield from ((slot.initial, axis) for axis in (range(rank) if self.looped else (1,)))


def recurrences(model: ir.Model) -> list[Recurrence]:
    """Return the recurrences of the main graph, in its order."""
    found = (Recurrence(node, tuple(_slots(node))) for node in model.graph)
    return [each for each in found if each.slots]


def top_of(value: ir.Value) -> ir.Value:
    """Return what the topmost layout operator above ``value`` reads first; ``value`` if there is none."""
    while (node := value.producer()) is not None and node.op_type in LAYOUT and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def refuse_nested(model: ir.Model) -> None:
    """Raise ``ContractError`` for a recurrent node inside of another node's body."""
    for node in model.graph.all_nodes():
        if is_recurrent(node) and node.graph is not model.graph:
            raise ContractError(
                f"{label(node)} runs inside of an If, Loop or Scan, so no one input can stand for its state; "
                "choose a branch with --branch INPUT=NUMBER or fixed axes (--input), or move the node out"
            )


def count_passes(model: ir.Model) -> None:
    """Give every Loop that carries states one more output: the number of each pass, in place."""
    names = UniqueNames(model.graph)
    for each in recurrences(model):
        if each.node.op_type == "Loop":
            body = each.node.attributes["body"].as_graph()
            same = ir.node("Identity", [body.inputs[0]])
            same.outputs[0].name = names.unique(f"{_COUNTER}_inside")
            same.outputs[0].type, same.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
            body.append(same)
            body.outputs.append(same.outputs[0])
            each.node.resize_outputs(len(each.node.outputs) + 1)
            each.node.outputs[-1].name = names.unique(_COUNTER)
            each.node.outputs[-1].type = ir.TensorType(ir.DataType.INT64)


def drop_counters(model: ir.Model) -> None:
    """Undo ``count_passes``, in place."""
    for node in model.graph:
        if node.op_type == "Loop" and (node.outputs[-1].name or "").startswith(_COUNTER):
            body = node.attributes["body"].as_graph()
            counted = body.outputs.pop().producer()
            assert counted is not None
            body.remove(counted)
            node.resize_outputs(len(node.outputs) - 1)


def _slots(node: ir.Node) -> Iterator[Slot]:
    if is_recurrent(node):
        yield from slots(node)
    elif node.domain == "" and node.op_type in ("Loop", "Scan"):
        carried = list(_carried_floats(node))
        for number, places in enumerate(carried, 1):
            yield Slot(node, "h" if len(carried) == 1 else f"state{number}", *places)


def _carried_floats(node: ir.Node) -> Iterator[tuple[int, int]]:
    """Return the places, among the inputs and the outputs, of floats that change from pass to pass."""
    body = node.attributes["body"].as_graph()
    if len(body.inputs) != len(node.inputs):  # a Scan of opset 8 has sequence_lens, too
        return
    loop = node.op_type == "Loop"
    first = _LOOP_HEADER if loop else 0
    scanned = 0 if loop else node.attributes["num_scan_inputs"].as_int()
    for place in range(first, len(node.inputs) - scanned):
        entering, leaving = body.inputs[place], behind_identity(body.outputs[place - first + loop])
        outer = node.inputs[place]
        dtype = entering.dtype or (outer.dtype if outer is not None else None)
        if dtype is not None and dtype.is_floating_point() and entering is not leaving and entering.uses():
            yield place, place - first
