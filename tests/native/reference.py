"""What a program computes, in float64 by numpy, a row and a step at a time, as ONNX
defines it."""

from collections.abc import Callable, Sequence
from math import erf
from typing import Any

import numpy as np

from lstm_edge_exporters.targets.native.program import Function

Array = Any

FUNCTIONS: dict[Function, Callable[[Array, float, float], Array]] = {
    Function.IDENTITY: lambda x, a, b: x,
    Function.RELU: lambda x, a, b: np.maximum(x, 0),
    Function.SIGMOID: lambda x, a, b: np.exp(-np.logaddexp(0, -x)),  # no overflow
    Function.TANH: lambda x, a, b: np.tanh(x),
    Function.AFFINE: lambda x, a, b: a * x + b,
    Function.LEAKY_RELU: lambda x, a, b: np.where(x < 0, a * x, x),
    Function.THRESHOLDED_RELU: lambda x, a, b: np.where(x > a, x, 0),
    Function.SCALED_TANH: lambda x, a, b: a * np.tanh(b * x),
    Function.HARD_SIGMOID: lambda x, a, b: np.clip(a * x + b, 0, 1),
    Function.ELU: lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    Function.SOFTSIGN: lambda x, a, b: x / (1 + np.abs(x)),
    Function.SOFTPLUS: lambda x, a, b: np.logaddexp(x, 0),
    Function.SELU: (
        lambda x, a, b: b * np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)
    ),
    Function.CLIP: lambda x, a, b: np.clip(x, a, b),
    Function.GELU: lambda x, a, b: x / 2 * (1 + np.vectorize(erf)(x / np.sqrt(2))),
    Function.ABS: lambda x, a, b: np.abs(x),
    Function.NEGATE: lambda x, a, b: -x,
    Function.EXP: lambda x, a, b: np.exp(x),
    Function.LOG: lambda x, a, b: np.log(x),
    Function.SQRT: lambda x, a, b: np.sqrt(x),
    Function.RECIPROCAL: lambda x, a, b: 1 / x,
    Function.GELU_TANH: (
        lambda x, a, b: (
            x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        )
    ),
    Function.ERF: lambda x, a, b: np.vectorize(erf)(x),
    Function.FLOOR: lambda x, a, b: np.floor(x),
    Function.CEIL: lambda x, a, b: np.ceil(x),
    Function.ROUND: lambda x, a, b: np.round(x),
    Function.SIN: lambda x, a, b: np.sin(x),
    Function.COS: lambda x, a, b: np.cos(x),
}


def quantize(x: Array) -> Array:
    """Return ``x`` through the 8 bits of DynamicQuantizeLinear."""
    x = x.astype("float32")
    low = min(x.min(), np.float32(0))
    high = max(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    scale = np.float32(1) if scale == 0 else scale
    zero = np.rint(np.clip(-low / scale, 0, 255))
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero).astype(
        "float64"
    ) * float(scale)


def product(x: Array, weights: Array, scales: Array | None) -> Array:
    if scales is None:
        return weights @ x
    return (weights * scales[:, None]) @ quantize(x)


class Layer:
    """One recurrent layer; the fields are the arguments of
    ``ProgramWriter.recurrent``."""

    def __init__(
        self,
        kind: str,
        W: Array,
        R: Array,
        bias: Array | None,
        scales: Sequence[Array] | None,
        flags: int,
        functions: Sequence[tuple[Function, float, float]],
    ) -> None:
        self.kind = kind
        self.W = W.astype("float64")
        self.R = R.astype("float64")
        self.bias = bias
        self.scales = scales
        self.flags = flags
        self.functions = functions

    def _gate(self, index: int, x: Array) -> Array:
        kind, alpha, beta = self.functions[index]
        return FUNCTIONS[kind](x, alpha, beta)

    def step(self, x: Array, states: list[Array]) -> list[Array]:
        h = states[0]
        scales = self.scales or (None, None)
        from_x = product(x, self.W, scales[0])
        if self.kind == "GRU":
            return [self._gru(from_x, h, scales[1])]
        total = (
            from_x
            + product(h, self.R, scales[1])
            + (0 if self.bias is None else self.bias)
        )
        if self.kind == "RNN":
            return [self._gate(0, total)]
        i, o, f, z = total.reshape(4, h.size)
        c = self._gate(0, f) * states[1] + self._gate(0, i) * self._gate(1, z)
        return [self._gate(0, o) * self._gate(2, c), c]

    def _gru(self, from_x: Array, h: Array, scales: Array | None) -> Array:
        H = h.size
        bias = np.zeros((6, H)) if self.bias is None else self.bias.reshape(6, H)
        x = from_x.reshape(3, H) + bias[:3]
        r = product(h, self.R, scales).reshape(3, H) + bias[3:]
        update = self._gate(0, x[0] + r[0])
        reset = self._gate(0, x[1] + r[1])
        if self.flags:
            new = x[2] + reset * r[2]
        else:
            part = None if scales is None else scales[2 * H :]
            new = x[2] + product(reset * h, self.R[2 * H :], part) + bias[5]
        return (1 - update) * self._gate(1, new) + update * h
