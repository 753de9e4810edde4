"""ONNX's recurrent operators: gates, weights, states, directions and layout, and what they compute.

PyTorch stacks LSTM gates as i, f, g, o and GRU gates as r, z, n; ONNX wants i, o, f, c and z, r, h. ONNX
adds a direction axis in front, and keeps both biases in one row, ``[Wb, Rb]``.

``lstm``, ``gru`` and ``rnn`` go step by step in numpy: in float64, exactly or as float32 would round. The
formulas are those of the operators' specification (https://onnx.ai/onnx/operators/), with ``sequence_lens``,
both directions, peepholes, clipping and ``linear_before_reset``, which onnx's own reference evaluator leaves
out; and a projection of h, which PyTorch's LSTM has and ONNX's has not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.graph_check import OPERATORS, QUANTIZED
from lstm_edge_runtime.manifest import Array

from .numerics.noise import EXACT, Exact

__all__ = [
    "GATES",
    "LENGTHS",
    "LayerWeights",
    "Slot",
    "gru",
    "is_recurrent",
    "is_reversed",
    "label",
    "lstm",
    "recurrent_nodes",
    "rnn",
    "slots",
    "state_shape",
    "to_layout_0",
    "to_onnx_weights",
]

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
        for place, order in _TRANSPOSED_OUTPUTS.items():
            if len(node.outputs) <= place or not node.outputs[place].name:
                continue
            old = node.outputs[place]
            back = ir.node("Transpose", [old], {"perm": list(order)})
            node.append(back)
            new = back.outputs[0]
            new.name, new.type, new.shape = old.name, old.type, old.shape
            old.name, old.shape = f"{old.name}.layout_0", None
            for user, index in list(old.uses()):
                if user is not back:
                    user.replace_input_with(index, new)
            graph = node.graph
            if old.is_graph_output() and isinstance(graph, ir.Graph):
                graph.outputs[:] = [new if value is old else value for value in graph.outputs]
    return len(nodes)


def _reorder(op: str, stacked: Array) -> Array:
    order = GATES[op]
    gates = np.split(stacked, len(order), axis=0)
    return np.concatenate([gates[place] for place in order], axis=0)


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes.get_string(name, default) or default


StepFunction = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]
"""One step: the input's share of the gates ``(N, G*H)`` and the states -> the states, h first."""


def lstm(
    x: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    lengths: Array | None = None,
    h_0: Array | None = None,
    c_0: Array | None = None,
    P: Array | None = None,
    projection: Sequence[Array] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    rounding: Exact = EXACT,
) -> tuple[Array, Array, Array]:
    """Run an LSTM; gates in ONNX's order i o f c.

    Args:
        x: ``(L, N, I)``.
        W: ``(D, 4*H, I)``.
        R: ``(D, 4*H, H)``, or as wide as the projected h.
        B: ``(D, 8*H)``, the biases of W and of R.
        lengths: ``(N,)`` valid steps of each row; None for all.
        h_0: ``(D, N, H)``, zeros where None.
        c_0: ``(D, N, H)``, zeros where None.
        P: ``(D, 3*H)`` peephole weights i o f.
        projection: a direction's weights ``(P, H)`` that make h narrower.
        activations: three names a direction; None for sigmoid, tanh, tanh.
        clip: bound of what the activations are given.
        direction: ``forward``, ``reverse`` or ``bidirectional``.
        rounding: how results are perturbed.

    Returns:
        ``Y (L, D, N, H)``, ``Y_h (D, N, H)`` and ``Y_c (D, N, H)``.
    """
    width = W.shape[1] // 4

    def make(place: int) -> StepFunction:
        f, g, h = _functions(activations, ("Sigmoid", "Tanh", "Tanh"), place, rounding)
        r, bias = R[place].T, _recurrent_bias(B, place)
        p_i, p_o, p_f = np.split(np.zeros(3) if P is None else P[place], 3)

        def gate(z: Array, weight: Array, cell: Array) -> Array:
            return f(_clip(rounding.relative(z + rounding.relative(weight * cell)), clip))

        def step(from_x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
            hidden, cell = states
            z = rounding.relative(from_x + rounding.relative(rounding.product(hidden, r) + bias))
            gates, c = z[:, : 3 * width], g(_clip(z[:, 3 * width :], clip))
            gates = gates if P is not None else f(_clip(gates, clip))
            i, o, forget = gates[:, :width], gates[:, width : 2 * width], gates[:, 2 * width :]
            if P is not None:
                i, forget = gate(i, p_i, cell), gate(forget, p_f, cell)
            cell = rounding.relative(rounding.relative(forget * cell) + rounding.relative(i * c))
            o = o if P is None else gate(o, p_o, cell)
            hidden = rounding.relative(o * h(cell))
            if projection is not None:
                hidden = rounding.product(hidden, projection[place].T)
            return hidden, cell

        return step

    y, hidden, cell = _unroll(
        x, W, B, R.shape[-1], lengths, direction, ((h_0, R.shape[-1]), (c_0, width)), make, rounding
    )
    return y, hidden, cell


def gru(
    x: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    lengths: Array | None = None,
    h_0: Array | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    linear_before_reset: int = 0,
    rounding: Exact = EXACT,
) -> tuple[Array, Array]:
    """Run a GRU, gates in ONNX's order z r h; arguments and results as of ``lstm``."""
    width = R.shape[-1]

    def make(place: int) -> StepFunction:
        f, g = _functions(activations, ("Sigmoid", "Tanh"), place, rounding)
        outer, inner = R[place][: 2 * width].T, R[place][2 * width :].T
        bias = _recurrent_bias(B, place)
        outer_bias, inner_bias = (0.0, 0.0) if B is None else (bias[: 2 * width], bias[2 * width :])

        def step(from_x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
            (hidden,) = states
            gates = rounding.relative(rounding.product(hidden, outer) + outer_bias)
            gates = f(_clip(rounding.relative(from_x[:, : 2 * width] + gates), clip))
            z, r = gates[:, :width], gates[:, width:]
            if linear_before_reset:
                new = rounding.relative(rounding.product(hidden, inner) + inner_bias)
                new = rounding.relative(r * new)
            else:
                new = rounding.product(rounding.relative(r * hidden), inner)
                new = rounding.relative(new + inner_bias)
            new = g(_clip(rounding.relative(from_x[:, 2 * width :] + new), clip))
            kept = rounding.relative(z * hidden)
            return (rounding.relative(rounding.relative(rounding.relative(1 - z) * new) + kept),)

        return step

    y, hidden = _unroll(x, W, B, width, lengths, direction, ((h_0, width),), make, rounding)
    return y, hidden


def rnn(
    x: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    lengths: Array | None = None,
    h_0: Array | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    rounding: Exact = EXACT,
) -> tuple[Array, Array]:
    """Run a simple RNN; arguments and results as of ``lstm``."""

    def make(place: int) -> StepFunction:
        (f,) = _functions(activations, ("Tanh",), place, rounding)
        r, bias = R[place].T, _recurrent_bias(B, place)

        def step(from_x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
            from_h = rounding.relative(rounding.product(states[0], r) + bias)
            return (f(_clip(rounding.relative(from_x + from_h), clip)),)

        return step

    width = R.shape[-1]
    y, hidden = _unroll(x, W, B, width, lengths, direction, ((h_0, width),), make, rounding)
    return y, hidden


def _unroll(
    x: Array,
    W: Array,
    B: Array | None,
    out: int,
    lengths: Array | None,
    direction: str,
    starts: Sequence[tuple[Array | None, int]],
    make: Callable[[int], StepFunction],
    rounding: Exact,
) -> tuple[Array, ...]:
    """Return ``Y (L, D, N, out)`` and each last state ``(D, N, width)``; rows stop at their length."""
    steps, rows = x.shape[:2]
    valid = None if lengths is None or (lengths >= steps).all() else np.asarray(lengths)
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    outputs, ends = [], []
    for place, back in enumerate(backward):
        step = make(place)
        bias = 0.0 if B is None else B[place, : B.shape[1] // 2]
        from_x = rounding.product(x.reshape(steps * rows, -1), W[place].T)
        from_x = rounding.relative(from_x + bias).reshape(steps, rows, -1)
        states = tuple(
            np.zeros((rows, width), x.dtype) if start is None else start[place] for start, width in starts
        )
        y = np.zeros((steps, rows, out), x.dtype)
        mark = rounding.mark()
        for time in reversed(range(steps)) if back else range(steps):
            rounding.go_back(mark)
            after = step(from_x[time], states)
            if valid is None:
                states = after
                y[time] = states[0]
                continue
            live = (time < valid)[:, None]
            states = tuple(np.where(live, new, old) for new, old in zip(after, states, strict=True))
            y[time] = np.where(live, states[0], 0.0)
        outputs.append(y)
        ends.append(states)
    return np.stack(outputs, axis=1), *(np.stack(parts) for parts in zip(*ends, strict=True))


def _recurrent_bias(B: Array | None, place: int) -> Any:
    return 0.0 if B is None else B[place, B.shape[1] // 2 :]


def _clip(x: Array, clip: float | None) -> Array:
    return x if clip is None else np.clip(x, -clip, clip)


def _functions(
    names: Sequence[str] | None, usual: Sequence[str], direction: int, rounding: Exact
) -> list[Callable[[Array], Array]]:
    chosen = list(names or ())[direction * len(usual) : (direction + 1) * len(usual)] or usual
    known: dict[str, Callable[[Array], Array]] = {
        "sigmoid": lambda x: rounding.absolute(1 / (1 + np.exp(-x))),
        "tanh": lambda x: rounding.absolute(np.tanh(x)),
        "relu": lambda x: np.maximum(x, 0.0),
    }
    unknown = [name for name in chosen if name.lower() not in known]
    if unknown:
        raise NotImplementedError(f"activation {unknown[0]}")
    return [known[name.lower()] for name in chosen]
