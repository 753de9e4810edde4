"""ONNX's recurrent operators: gates, weights, states and directions.

PyTorch stacks LSTM gates as i, f, g, o and GRU gates as r, z, n; ONNX wants i, o, f, c
and z, r, h. ONNX adds a direction axis in front, and keeps both biases in one row,
``[Wb, Rb]``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from .graph import data_inputs, readers

MIN_INT8_ELEMENTS = 256
"""Elements of the smallest weight that is stored in int8: a smaller one costs more in
nodes than it saves, and is faster in float32."""
OPERATORS = ("LSTM", "GRU", "RNN")
"""The standard recurrent operators."""
QUANTIZED = "DynamicQuantizeLSTM"
"""The operator that onnxruntime's dynamic quantizer replaces LSTM by; states and X have
the same indices."""
GATES: Mapping[str, tuple[int, ...]] = {
    "LSTM": (0, 3, 1, 2),
    "GRU": (1, 0, 2),
    "RNN": (0,),
}
"""For each of ONNX's gates, its index in PyTorch's order."""
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
"""Default activations of each operator, of one direction."""
LENGTHS = 4
"""Index of ``sequence_lens`` among a recurrent node's inputs."""
STATES: Mapping[str, int] = {"h": 1, "c": 2}
"""Index of a state among the outputs of a recurrent node (``Y_h``, ``Y_c``), and among
inputs and outputs of one that the export records."""
_FIRST_INITIAL = 4
"""Number of inputs of an ONNX node that a recorded node does not have in front of its
states: ``initial_h`` has the index 5."""


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one direction of one layer, in PyTorch's layout."""

    w_ih: Array
    """``(G*H, I)`` with G gates."""
    w_hh: Array
    """``(G*H, P)``."""
    b_ih: Array | None
    """``(G*H,)``; None without biases."""
    b_hh: Array | None
    """``(G*H,)``; None without biases."""
    w_hr: Array | None
    """``(P, H)``, the projection."""


def to_onnx_weights(
    op: str, directions: Sequence[LayerWeights]
) -> tuple[Array, Array, Array | None]:
    """Return ``W (D, G*H, I)``, ``R (D, G*H, P)`` and ``B (D, 2*G*H)`` or None for one
    layer.
    """
    w = np.stack([_reorder(op, direction.w_ih) for direction in directions])
    r = np.stack([_reorder(op, direction.w_hh) for direction in directions])
    biases = []
    for direction in directions:
        if direction.b_ih is not None and direction.b_hh is not None:
            both = [_reorder(op, direction.b_ih), _reorder(op, direction.b_hh)]
            biases.append(np.concatenate(both))
    return w, r, np.stack(biases) if biases else None


@dataclass(frozen=True)
class Slot:
    """One state of one recurrent node, with its input and output."""

    node: ir.Node
    """The recurrent node."""
    letter: str
    """``h`` or ``c``."""
    input: int
    """Index of the initial state among the node's inputs."""
    output: int
    """Index of the last state among the node's outputs."""

    @property
    def initial(self) -> ir.Value | None:
        """The initial state; None if the node has none."""
        inputs = self.node.inputs
        return inputs[self.input] if len(inputs) > self.input else None


def is_recurrent(node: ir.Node) -> bool:
    """Return True if ``node`` is a standard ONNX LSTM, GRU or RNN, or onnxruntime's
    quantized LSTM.
    """
    if node.domain == "com.microsoft":
        return node.op_type == QUANTIZED
    return node.domain == "" and node.op_type in OPERATORS


def recurrent_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Return the recurrent nodes in graph order, those in ``If``, ``Loop`` and ``Scan``
    bodies included.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if is_recurrent(node):
            yield node


def slots(node: ir.Node) -> tuple[Slot, ...]:
    """Return the node's states, ``h`` first."""
    states = []
    for letter, output in STATES.items():
        if letter == "h" or node.op_type.endswith("LSTM"):
            initial = output + _FIRST_INITIAL
            states.append(Slot(node, letter, input=initial, output=output))
    return tuple(states)


def is_reversed(node: ir.Node) -> bool:
    """Return True if the node reads time backwards in any direction, so that chunks
    can't follow each other.
    """
    scanned = node.attributes.get_ints("scan_input_directions", ()) or ()
    return _direction(node) != "forward" or any(scanned)


def label(node: ir.Node) -> str:
    """Return the node's operator and name for a message; its first output's name if it
    has no name.
    """
    names = [node.name, *(value.name for value in node.outputs)]
    name = next(filter(None, names), "")
    return f"{node.op_type} {name!r}"


def _direction(node: ir.Node) -> str:
    """Return the direction of a recurrent node."""
    return node.attributes.get_string("direction", "") or "forward"


def state_shape(node: ir.Node) -> tuple[int, int]:
    """Return ``(D, H)`` of the node's states; H is 0 if neither ``hidden_size`` nor R's
    shape gives it.
    """
    directions = 2 if _direction(node) == "bidirectional" else 1
    hidden: int | ir.SymbolicDim = node.attributes.get_int("hidden_size", 0)
    recurrent = node.inputs[2]
    if not hidden and recurrent is not None and recurrent.shape is not None:
        hidden = recurrent.shape[-1]
    return directions, hidden if isinstance(hidden, int) else 0


def _reorder(op: str, stacked: Array) -> Array:
    """Bring the gates from PyTorch's order to that of ONNX."""
    order = GATES[op]
    gates = np.split(stacked, len(order), axis=0)
    return np.concatenate([gates[gate] for gate in order], axis=0)


def why_window(layer: str, steps: int | str) -> str:
    """Return why a file whose ``layer`` takes several steps per call can't be streamed
    if no axis is time.
    """
    count = f"{steps} steps" if isinstance(steps, int) else "several steps"
    return (
        f"{layer} takes {count} per call and no axis is time, so a call is a whole"
        " window, not a step"
    )


def length_input(graph: ir.Graph) -> str | None:
    """Return the name of the first input with one integer per row that reaches some
    node's ``sequence_lens``.
    """
    for value in data_inputs(graph):
        is_whole = value.dtype in (ir.DataType.INT32, ir.DataType.INT64)
        is_per_row = value.shape is None or len(value.shape) == 1
        if is_whole and is_per_row and _reaches_lengths(value):
            return str(value.name)
    return None


def _reaches_lengths(value: ir.Value) -> bool:
    """Return True if some recurrent node takes a value as ``sequence_lens``."""
    uses = readers(value)
    return any(is_recurrent(node) and index == LENGTHS for node, index in uses)
