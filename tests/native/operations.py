"""Every operation without weights, in a program and in numpy (float64)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from networks import PARAMETERS, copy
from reference import FUNCTIONS

from lstm_edge_exporters.targets.native.program import (
    NONE,
    Binary,
    Code,
    Function,
    ProgramWriter,
)

Array = Any
Cases = dict[str, tuple[int, Callable[[Array], Array]]]
"""By name: the buffer of a result, and the function of rows ``(L, width)`` that it
computes."""
PAIRS: dict[Binary, Callable[[Array, Array], Array]] = {
    Binary.ADD: np.add,
    Binary.SUBTRACT: np.subtract,
    Binary.MULTIPLY: np.multiply,
    Binary.DIVIDE: np.divide,
    Binary.MAXIMUM: np.maximum,
    Binary.MINIMUM: np.minimum,
    Binary.PRELU: lambda a, b: np.where(a < 0, a * b, a),
    Binary.POWER: np.power,
    Binary.LESS: np.less,
    Binary.LESS_EQUAL: np.less_equal,
    Binary.EQUAL: np.equal,
}
POSITIVE = (Function.LOG, Function.SQRT, Function.RECIPROCAL)


def samples(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def wide_samples(steps: int, width: int) -> Array:
    """Numbers from 1e-30 to 80, of either sign."""
    sizes = np.geomspace(1e-30, 80, steps * width) * np.where(
        np.arange(steps * width) % 3, 1, -1
    )
    return (
        np.random.default_rng(width)
        .permutation(sizes)
        .reshape(steps, width)
        .astype("float32")
    )


def operations(writer: ProgramWriter, x: int) -> Cases:
    """Add every operation on the row ``x``."""
    width = writer.width(x)
    stored = np.random.default_rng(width).uniform(0.2, 3, width).astype("float32")
    above, limits = np.float32(1e-30), tuple(map(float, np.float32([0.2, 3])))
    positive, small = (
        writer.binary(Binary.ADD, writer.unary(x, Function.ABS), above[None]),
        writer.unary(x, Function.CLIP, *limits),
    )
    single = writer.buffer(1)
    copy(writer, small, single, 1)
    cases: Cases = {}
    for kind in Function:
        numbers = tuple(map(float, np.float32(PARAMETERS.get(kind, (0, 0)))))
        of = (lambda v: np.abs(v) + above) if kind in POSITIVE else (lambda v: v)
        row = writer.unary(positive if kind in POSITIVE else x, kind, *numbers)
        cases[kind.name] = (
            row,
            lambda v, of=of, kind=kind, numbers=numbers: FUNCTIONS[kind](
                of(v), *numbers
            ),
        )
    clipped = lambda v: np.clip(v, *limits)  # noqa: E731
    operands: list[tuple[Any, Callable[[Array], Array]]] = [
        (stored, lambda v: stored), (stored[:1], lambda v: stored[:1]),
        (single, lambda v: clipped(v)[:, :1]), (small, clipped),
    ]  # fmt: skip
    for kind, function in PAIRS.items():
        base, of = (small, clipped) if kind is Binary.POWER else (x, lambda v: v)
        for number, (operand, value) in enumerate(operands):
            for swap in (False, True):
                if kind is Binary.DIVIDE and swap:
                    base, of = positive, lambda v: np.abs(v) + above
                row = writer.binary(kind, base, operand, swap=swap)
                cases[f"{kind.name} {number} {swap}"] = (
                    row,
                    lambda v, f=function, of=of, value=value, swap=swap: (
                        f(value(v), of(v)) if swap else f(of(v), value(v))
                    ),
                )
    _rows(writer, x, stored, cases)
    _whole(writer, x, cases)
    return cases


def _rows(writer: ProgramWriter, x: int, stored: Array, cases: Cases) -> None:
    width = writer.width(x)
    for length in {width, width // 3 if width % 3 == 0 else width}:
        soft = [writer.add(Code.SOFTMAX, x, length, logarithm) for logarithm in (0, 1)]
        scale, bias = stored[:length], stored[-length:]
        vectors = [(NONE, NONE), (writer.optional(scale), writer.optional(bias))]
        bare, norm = (
            writer.add(Code.NORMALIZE, x, length, 1e-3, *vector) for vector in vectors
        )

        def logs(v: Array, length: int = length) -> Array:
            wide = v.reshape(len(v), -1, length)
            shifted = wide - wide.max(-1, keepdims=True)
            return (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).reshape(
                v.shape
            )

        def flat(
            v: Array, scale: Array = 1, bias: Array = 0, length: int = length
        ) -> Array:
            wide = v.reshape(len(v), -1, length)
            centered = wide - wide.mean(-1, keepdims=True)
            return (
                centered / np.sqrt(wide.var(-1, keepdims=True) + 1e-3) * scale + bias
            ).reshape(v.shape)

        cases[f"softmax {length}"] = soft[0], lambda v, logs=logs: np.exp(logs(v))
        cases[f"log {length}"] = soft[1], logs
        cases[f"bare {length}"] = bare, flat
        cases[f"norm {length}"] = (
            norm,
            lambda v, flat=flat, scale=scale, bias=bias: flat(v, scale, bias),
        )
    choice = writer.buffer(width)
    writer.operation(
        Code.WHERE,
        writer.binary(Binary.LESS, x, stored),
        x,
        writer.filled(stored),
        choice,
    )
    cases["where"] = choice, lambda v: np.where(v < stored, v, stored)


def _whole(writer: ProgramWriter, x: int, cases: Cases) -> None:
    """Add every operation on whole numbers; a division by 0 gives 0."""
    whole, numbers = writer.cast(x, "int64"), np.arange(writer.width(x)) - 5
    functions = {
        kind: pair
        for kind, pair in PAIRS.items()
        if kind not in (Binary.PRELU, Binary.POWER)
    }
    functions[Binary.DIVIDE] = lambda a, b: np.where(
        b == 0, 0, np.trunc(a / np.where(b == 0, 1, b))
    )
    for kind, function in functions.items():
        for operand, value in (
            (numbers, lambda v: numbers),
            (numbers[:1], lambda v: numbers[:1]),
            (whole, np.trunc),
        ):
            for swap in (False, True):
                row = writer.cast(writer.binary(kind, whole, operand, swap=swap))
                cases[f"whole {kind.name} {len(cases)}"] = (
                    row,
                    lambda v, f=function, value=value, swap=swap: (
                        f(value(v), np.trunc(v)) if swap else f(np.trunc(v), value(v))
                    ),
                )
