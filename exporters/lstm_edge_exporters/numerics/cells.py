"""LSTM, GRU and RNN of ONNX, step by step in numpy: in float64, exactly or as float32 would round.

The formulas are those of the operators' specification (https://onnx.ai/onnx/operators/), with
``sequence_lens``, both directions, peepholes, clipping and ``linear_before_reset``, which onnx's reference
evaluator leaves out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array

from .noise import EXACT, Exact

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
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    rounding: Exact = EXACT,
) -> tuple[Array, Array, Array]:
    """Run an LSTM; gates in ONNX's order i o f c.

    Args:
        x: ``(L, N, I)``.
        W: ``(D, 4*H, I)``.
        R: ``(D, 4*H, H)``.
        B: ``(D, 8*H)``, the biases of W and of R.
        lengths: ``(N,)`` valid steps of each row; None for all.
        h_0: ``(D, N, H)``, zeros where None.
        c_0: ``(D, N, H)``, zeros where None.
        P: ``(D, 3*H)`` peephole weights i o f.
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
            return rounding.relative(o * h(cell)), cell

        return step

    y, hidden, cell = _unroll(x, W, B, width, lengths, direction, (h_0, c_0), make, rounding)
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

    y, hidden = _unroll(x, W, B, width, lengths, direction, (h_0,), make, rounding)
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

    y, hidden = _unroll(x, W, B, R.shape[-1], lengths, direction, (h_0,), make, rounding)
    return y, hidden


def _unroll(
    x: Array,
    W: Array,
    B: Array | None,
    width: int,
    lengths: Array | None,
    direction: str,
    starts: Sequence[Array | None],
    make: Callable[[int], StepFunction],
    rounding: Exact,
) -> tuple[Array, ...]:
    """Return ``Y (L, D, N, H)`` and each last state ``(D, N, H)``; rows stop at their length."""
    steps, rows = x.shape[:2]
    valid = None if lengths is None or (lengths >= steps).all() else np.asarray(lengths)
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    outputs, ends = [], []
    for place, back in enumerate(backward):
        step = make(place)
        bias = 0.0 if B is None else B[place, : B.shape[1] // 2]
        from_x = rounding.product(x.reshape(steps * rows, -1), W[place].T)
        from_x = rounding.relative(from_x + bias).reshape(steps, rows, -1)
        states = tuple(np.zeros((rows, width), x.dtype) if each is None else each[place] for each in starts)
        y = np.zeros((steps, rows, width), x.dtype)
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
