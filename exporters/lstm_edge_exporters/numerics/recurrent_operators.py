"""ONNX's recurrent operators in numpy, at the precision of what they are given: float64 for a reference.

The formulas are those of the operators' specification (https://onnx.ai/onnx/operators/), with
``sequence_lens``, both directions, peepholes, clipping and ``linear_before_reset``, which onnx's own
reference evaluator leaves out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

__all__ = ["GRU", "LSTM", "RNN"]

Array = npt.NDArray[Any]
Step = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"sigmoid": _sigmoid, "tanh": np.tanh, "relu": _relu}


def _functions(
    names: Sequence[str] | None, usual: Sequence[str], direction: int
) -> list[Callable[[Array], Array]]:
    chosen = list(names or ())[direction * len(usual) : (direction + 1) * len(usual)] or usual
    unknown = [name for name in chosen if name.lower() not in _ACTIVATIONS]
    if unknown:
        raise NotImplementedError(f"activation {unknown[0]}")
    return [_ACTIVATIONS[name.lower()] for name in chosen]


def _unroll(
    x: Array,
    lengths: Array | None,
    direction: str,
    starts: Sequence[Array | None],
    widths: int,
    make: Callable[[int], Step],
    shake: np.random.Generator | None,
) -> tuple[Array, ...]:
    """Return ``Y (L, D, N, H)`` and each last state ``(D, N, H)``; rows stand still beyond their length."""
    steps, rows = x.shape[:2]
    valid = np.full(rows, steps) if lengths is None else np.asarray(lengths)
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    outputs, ends = [], []
    for place, back in enumerate(backward):
        step = make(place)
        states = tuple(
            np.zeros((rows, widths), x.dtype) if start is None else start[place] for start in starts
        )
        y = np.zeros((steps, rows, widths), x.dtype)
        for time in reversed(range(steps)) if back else range(steps):
            live = (time < valid)[:, None]
            after = step(x[time], states)
            if shake is not None:
                after = tuple(_shaken(new, states[-1], shake) for new in after)
            states = tuple(np.where(live, new, old) for new, old in zip(after, states, strict=True))
            y[time] = np.where(live, states[0], 0.0)
        outputs.append(y)
        ends.append(states)
    return np.stack(outputs, axis=1), *(np.stack(parts) for parts in zip(*ends, strict=True))


class _Recurrent(OpRun):
    """What the three have in common."""

    op_domain = ""
    shake: np.random.Generator | None = None
    """Where set, every step's states move by at most one float32 place, as gates and what they keep round."""

    def _finish(self, results: tuple[Array, ...]) -> tuple[Array, ...]:
        return results[: len(self.onnx_node.output)]

    def _clip(self, x: Array, clip: float | None) -> Array:
        return x if clip is None else np.clip(x, -clip, clip)


class LSTM(_Recurrent):
    """``LSTM``; gates in ONNX's order i o f c."""

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        P: Array | None = None,
        activation_alpha: Any = None,  # noqa: ARG002
        activation_beta: Any = None,  # noqa: ARG002
        activations: Sequence[str] | None = None,
        clip: float | None = None,
        direction: str = "forward",
        hidden_size: int | None = None,  # noqa: ARG002
        input_forget: int = 0,
        layout: int = 0,
    ) -> tuple[Array, ...]:
        _refuse(layout or input_forget)
        H = R.shape[-1]

        def make(place: int) -> Step:
            f, g, h = _functions(activations, ("Sigmoid", "Tanh", "Tanh"), place)
            bias = 0.0 if B is None else B[place, : 4 * H] + B[place, 4 * H :]
            p_i, p_o, p_f = np.split(P[place], 3) if P is not None else (0.0, 0.0, 0.0)

            def step(x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
                hidden, cell = states
                i, o, forget, c = np.split(x @ W[place].T + hidden @ R[place].T + bias, 4, axis=-1)
                i = f(self._clip(i + p_i * cell, clip))
                forget = f(self._clip(forget + p_f * cell, clip))
                cell = forget * cell + i * g(self._clip(c, clip))
                o = f(self._clip(o + p_o * cell, clip))
                return o * h(cell), cell

            return step

        return self._finish(_unroll(X, sequence_lens, direction, (initial_h, initial_c), H, make, self.shake))


class GRU(_Recurrent):
    """``GRU``; gates in ONNX's order z r h."""

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        activation_alpha: Any = None,  # noqa: ARG002
        activation_beta: Any = None,  # noqa: ARG002
        activations: Sequence[str] | None = None,
        clip: float | None = None,
        direction: str = "forward",
        hidden_size: int | None = None,  # noqa: ARG002
        layout: int = 0,
        linear_before_reset: int = 0,
    ) -> tuple[Array, ...]:
        _refuse(layout)
        H = R.shape[-1]

        def make(place: int) -> Step:
            f, g = _functions(activations, ("Sigmoid", "Tanh"), place)
            biases = np.zeros(6 * H, X.dtype) if B is None else B[place]
            from_x, from_h = biases[: 3 * H], biases[3 * H :]

            def step(x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
                (hidden,) = states
                x_z, x_r, x_h = np.split(x @ W[place].T + from_x, 3, axis=-1)
                h_z, h_r = np.split(hidden @ R[place][: 2 * H].T + from_h[: 2 * H], 2, axis=-1)
                z, r = f(self._clip(x_z + h_z, clip)), f(self._clip(x_r + h_r, clip))
                inner, bias = R[place][2 * H :].T, from_h[2 * H :]
                h_h = r * (hidden @ inner + bias) if linear_before_reset else (r * hidden) @ inner + bias
                return ((1 - z) * g(self._clip(x_h + h_h, clip)) + z * hidden,)

            return step

        return self._finish(_unroll(X, sequence_lens, direction, (initial_h,), H, make, self.shake))


class RNN(_Recurrent):
    """``RNN``."""

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        activation_alpha: Any = None,  # noqa: ARG002
        activation_beta: Any = None,  # noqa: ARG002
        activations: Sequence[str] | None = None,
        clip: float | None = None,
        direction: str = "forward",
        hidden_size: int | None = None,  # noqa: ARG002
        layout: int = 0,
    ) -> tuple[Array, ...]:
        _refuse(layout)
        H = R.shape[-1]

        def make(place: int) -> Step:
            (f,) = _functions(activations, ("Tanh",), place)
            bias = 0.0 if B is None else B[place, :H] + B[place, H:]
            return lambda x, states: (f(self._clip(x @ W[place].T + states[0] @ R[place].T + bias, clip)),)

        return self._finish(_unroll(X, sequence_lens, direction, (initial_h,), H, make, self.shake))


def _shaken(array: Array, before: Array, rng: np.random.Generator) -> Array:
    place = np.finfo(np.float32).eps * np.maximum(np.maximum(np.abs(array), np.abs(before)), 1.0)
    return np.asarray(array + place * rng.integers(-1, 2, array.shape))


def _refuse(option: int) -> None:
    if option:
        raise NotImplementedError("layout=1 and input_forget=1")
