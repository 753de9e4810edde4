"""LSTM, GRU and RNN of ONNX, step by step in numpy: in float64, exactly or as float32 would round.

The formulas are those of the operators' specification (https://onnx.ai/onnx/operators/), with
``sequence_lens``, both directions, peepholes, clipping and ``linear_before_reset``, which onnx's reference
evaluator leaves out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array

from .noise import Rounding


def recurrent(
    kind: str,
    rounding: Rounding,
    x: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    lengths: Array | None = None,
    h_0: Array | None = None,
    c_0: Array | None = None,
    P: Array | None = None,
    *,
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    linear_before_reset: int = 0,
    layout: int = 0,
    input_forget: int = 0,
    **_: Any,
) -> tuple[Array, ...]:
    """Run a recurrent layer of G gates.

    Args:
        kind: one of ``CELLS``.
        rounding: how results are perturbed.
        x: ``(L, N, I)``.
        W: ``(D, G*H, I)``, gates in ONNX's order: i o f c of an LSTM, z r h of a GRU.
        R: ``(D, G*H, H)``.
        B: ``(D, 2*G*H)``, the biases of W and of R.
        lengths: ``(N,)`` valid steps of each row, where its states stop; None for all.
        h_0: ``(D, N, H)``, zeros where None.
        c_0: ``(D, N, H)``, zeros where None.
        P: ``(D, 3*H)`` peephole weights i o f.
        activations: names for every direction; the usual ones where there are none.
        clip: bound of what the activations are given.
        direction: ``forward``, ``reverse`` or ``bidirectional``.
        linear_before_reset: whether a GRU resets the product of R, as PyTorch does, and not the state.
        layout: 0, as is ``input_forget``: others are not implemented.
        input_forget: see ``layout``.

    Returns:
        ``Y (L, D, N, H)``, ``Y_h (D, N, H)`` and of an LSTM ``Y_c (D, N, H)``.
    """
    if layout or input_forget:
        raise NotImplementedError("layout=1 and input_forget=1")
    steps, rows = x.shape[:2]
    (usual, cell), width = CELLS[kind], R.shape[-1]
    valid = None if lengths is None or (lengths >= steps).all() else np.asarray(lengths)
    outputs, ends = [], []
    for place, back in enumerate(_BACKWARD[direction]):
        names = list(activations or ())[place * len(usual) : (place + 1) * len(usual)] or usual
        functions = [_function(name, rounding, clip) for name in names[:2]]
        functions += [_function(name, rounding) for name in names[2:]]
        from_w, from_r = np.split(np.zeros(2 * W.shape[1]) if B is None else B[place], 2)
        peepholes = None if P is None else P[place]
        layer = _Direction(rounding, functions, R[place].T, from_r, peepholes, bool(linear_before_reset))
        from_x = rounding.product(x.reshape(steps * rows, -1), W[place].T)
        from_x = rounding.relative(from_x + from_w).reshape(steps, rows, -1)
        states = tuple(
            np.zeros((rows, width), x.dtype) if each is None else each[place]
            for each in (h_0, c_0)[: 1 + (kind == "LSTM")]
        )
        y = np.zeros((steps, rows, width), x.dtype)
        mark = rounding.mark()
        for time in reversed(range(steps)) if back else range(steps):
            rounding.go_back(mark)
            after = cell(layer, from_x[time], *states)
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


_BACKWARD = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class _Direction:
    """What acts on the states of a direction."""

    rounding: Rounding
    functions: Sequence[Function]
    weights: Array
    """``(H, G*H)``."""
    bias: Array
    peepholes: Array | None
    linear_before_reset: bool


def _lstm(layer: _Direction, from_x: Array, hidden: Array, cell: Array) -> tuple[Array, ...]:
    r, (f, g, h), width = layer.rounding, layer.functions, hidden.shape[-1]
    z = r.relative(from_x + r.relative(r.product(hidden, layer.weights) + layer.bias))
    gates, c = z[:, : 3 * width], g(z[:, 3 * width :])
    if layer.peepholes is None:
        gates = f(gates)
    i, o, forget = gates[:, :width], gates[:, width : 2 * width], gates[:, 2 * width :]
    p_i, p_o, p_f = (None,) * 3 if layer.peepholes is None else np.split(layer.peepholes, 3)

    def gate(z: Array, weight: Array | None) -> Array:
        return z if weight is None else f(r.relative(z + r.relative(weight * cell)))

    i, forget = gate(i, p_i), gate(forget, p_f)
    cell = r.relative(r.relative(forget * cell) + r.relative(i * c))
    return r.relative(gate(o, p_o) * h(cell)), cell


def _gru(layer: _Direction, from_x: Array, hidden: Array) -> tuple[Array, ...]:
    r, (f, g), two = layer.rounding, layer.functions, 2 * hidden.shape[-1]
    outer, inner, bias = layer.weights[:, :two], layer.weights[:, two:], layer.bias
    gates = r.relative(r.product(hidden, outer) + bias[:two])
    gates = f(r.relative(from_x[:, :two] + gates))
    z, reset = gates[:, : two // 2], gates[:, two // 2 :]
    if layer.linear_before_reset:
        new = r.relative(reset * r.relative(r.product(hidden, inner) + bias[two:]))
    else:
        new = r.relative(r.product(r.relative(reset * hidden), inner) + bias[two:])
    new = g(r.relative(from_x[:, two:] + new))
    kept = r.relative(z * hidden)
    return (r.relative(r.relative(r.relative(1 - z) * new) + kept),)


def _rnn(layer: _Direction, from_x: Array, hidden: Array) -> tuple[Array, ...]:
    r = layer.rounding
    from_h = r.relative(r.product(hidden, layer.weights) + layer.bias)
    return (layer.functions[0](r.relative(from_x + from_h)),)


CELLS: dict[str, tuple[tuple[str, ...], Callable[..., tuple[Array, ...]]]] = {
    "LSTM": (("Sigmoid", "Tanh", "Tanh"), _lstm),
    "GRU": (("Sigmoid", "Tanh"), _gru),
    "RNN": (("Tanh",), _rnn),
}
"""The usual activations, and one step: from the input's part of the gates ``(N, G*H)`` and the states to the
states, h first."""


def _function(name: str, rounding: Rounding, clip: float | None = None) -> Function:
    """Return an activation; what it is given is clipped at ``clip``."""
    known: dict[str, Function] = {
        "sigmoid": lambda x: rounding.absolute(1 / (1 + np.exp(-x))),
        "tanh": lambda x: rounding.absolute(np.tanh(x)),
        "relu": lambda x: np.maximum(x, 0.0),
    }
    if name.lower() not in known:
        raise NotImplementedError(f"activation {name}")
    found = known[name.lower()]
    return found if clip is None else lambda x: found(np.clip(x, -clip, clip))
