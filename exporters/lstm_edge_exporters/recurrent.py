"""ONNX's recurrent operators: gates, weights, states, directions and layout.

PyTorch stacks LSTM gates as i, f, g, o and GRU gates as r, z, n; ONNX wants i, o, f, c and z, r, h. ONNX
adds a direction axis in front, and keeps both biases in one row, ``[Wb, Rb]``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

OPERATORS = ("LSTM", "GRU", "RNN")
"""The standard recurrent operators."""
QUANTIZED = "DynamicQuantizeLSTM"
"""The operator that onnxruntime's dynamic quantizer replaces LSTM by; states and X have the same indices."""
GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""For each of ONNX's gates, its place in PyTorch's order."""
LENGTHS = 4
"""``sequence_lens``'s place among a recurrent node's inputs."""
_SLOTS = {"h": (5, 1), "c": (6, 2)}
"""A state's place among the inputs (``initial_h``, ``initial_c``) and the outputs (``Y_h``, ``Y_c``)."""
_SWAP = (1, 0, 2)
_TRANSPOSED_INPUTS: Mapping[int, tuple[int, ...]] = {0: _SWAP, 5: _SWAP, 6: _SWAP}
_TRANSPOSED_OUTPUTS: Mapping[int, tuple[int, ...]] = {0: (2, 0, 1, 3), 1: _SWAP, 2: _SWAP}
"""``Y`` from ``(L, D, N, H)`` to ``(N, L, D, H)``; ``Y_h``, ``Y_c`` from ``(D, N, H)`` to ``(N, D, H)``."""


@dataclass(frozen=True)
class LayerWeights:
    """One direction of one layer, as PyTorch holds it."""

    w_ih: Array
    """``(G*H, I)`` with G gates."""
    w_hh: Array
    """``(G*H, P)``."""
    b_ih: Array | None
    b_hh: Array | None
    w_hr: Array | None
    """``(P, H)``, the projection."""


def to_onnx_weights(op: str, directions: Sequence[LayerWeights]) -> tuple[Array, Array, Array | None]:
    """Return ``W (D, G*H, I)``, ``R (D, G*H, P)`` and ``B (D, 2*G*H)`` or None for one layer."""
    w = np.stack([_reorder(op, each.w_ih) for each in directions])
    r = np.stack([_reorder(op, each.w_hh) for each in directions])
    rows = [
        np.concatenate([_reorder(op, each.b_ih), _reorder(op, each.b_hh)])
        for each in directions
        if each.b_ih is not None and each.b_hh is not None
    ]
    return w, r, np.stack(rows) if rows else None


@dataclass(frozen=True)
class Slot:
    """One state of one recurrent node: where it enters and where it leaves."""

    node: ir.Node
    kind: str
    """``h`` or ``c``."""
    input: int
    """The place of the initial state among the node's inputs."""
    output: int
    """The place of the last state among the node's outputs."""

    @property
    def initial(self) -> ir.Value | None:
        """The initial state, None where the node has none."""
        return self.node.inputs[self.input] if len(self.node.inputs) > self.input else None


def is_recurrent(node: ir.Node) -> bool:
    """Return whether ``node`` is a standard ONNX LSTM, GRU or RNN, or onnxruntime's quantized LSTM."""
    return (node.domain == "" and node.op_type in OPERATORS) or (
        node.domain == "com.microsoft" and node.op_type == QUANTIZED
    )


def recurrent_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Return the recurrent nodes in graph order, those in ``If``, ``Loop`` and ``Scan`` bodies included."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if is_recurrent(node):
            yield node


def slots(node: ir.Node) -> tuple[Slot, ...]:
    """Return the node's states, ``h`` first."""
    return tuple(
        Slot(node, kind, *places)
        for kind, places in _SLOTS.items()
        if kind == "h" or node.op_type.endswith("LSTM")
    )


def is_reversed(node: ir.Node) -> bool:
    """Return whether the node reads time backwards in any direction, so that no chunk can follow another."""
    scanned = node.attributes.get_ints("scan_input_directions", ()) or ()
    return _text(node, "direction", "forward") != "forward" or any(scanned)


def label(node: ir.Node) -> str:
    """Return the node's operator and name for a message; its first output's name where it has none."""
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


def to_layout_0(model: ir.Model) -> int:
    """Rewrite ``layout=1`` nodes, which onnxruntime's CPU provider does not run, between transposes.

    Returns:
        How many nodes were rewritten, in place.
    """
    nodes = [node for node in recurrent_nodes(model) if node.attributes.get_int("layout", 0)]
    for node in nodes:
        node.attributes.pop("layout")
        for place, order in _TRANSPOSED_INPUTS.items():
            value = node.inputs[place] if len(node.inputs) > place else None
            if value is not None:
                swapped = ir.node("Transpose", [value], {"perm": list(order)})
                node.prepend(swapped)
                node.replace_input_with(place, swapped.outputs[0])
        for value in node.outputs:
            if value.name:
                _transpose_behind(node, value, _TRANSPOSED_OUTPUTS[value.index() or 0])
    return len(nodes)


def _transpose_behind(node: ir.Node, old: ir.Value, order: tuple[int, ...]) -> None:
    """Let whatever reads an output of ``node`` read it in another order of axes."""
    back = ir.node("Transpose", [old], {"perm": list(order)})
    node.append(back)
    new = back.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name, old.shape = f"{old.name}.layout_0", None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    back.replace_input_with(0, old)


def _reorder(op: str, stacked: Array) -> Array:
    order = GATES[op]
    gates = np.split(stacked, len(order), axis=0)
    return np.concatenate([gates[place] for place in order], axis=0)


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes.get_string(name, default) or default


def why_window(layer: str, steps: int | str) -> str:
    """Return why a file whose ``layer`` takes several steps a call can't be streamed if no axis is time."""
    count = f"{steps} steps" if isinstance(steps, int) else "several steps"
    return f"{layer} takes {count} per call and no axis is time, so a call is a whole window, not a step"
