"""How float32 rounds: the primitives that every operator of a graph is decomposed into, exact and perturbed.

``EXACT`` computes in float64. Any other ``Rounding`` perturbs what it gives as a correct float32
implementation may differ, with signs of its own; docs/validate.md has the table, its reasons and sources.

Equal numbers round alike, so what repeats itself over time is off in the same direction at every step, and
its errors add up as T, not as sqrt(T). A rounding that keeps its signs shows that: its signs depend on the
place along the last axis alone, and are the same at every step and in every call.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array

UNIT = 2.0**-24
"""float32's unit roundoff, half a unit in the last place at 1."""
TINY = float(np.finfo(np.float32).tiny)
"""Below this float32 values are denormal or zero; rounding there is no longer relative."""
_POOL = 1 << 17
"""Random signs drawn at once."""
_ONE_THREAD = 1 << 18
"""Multiplications up to which numpy's OpenBLAS multiplies on one thread; its threads wait busily, which made
a small product 100 times as expensive on a machine with other work."""

Axes = int | tuple[int, ...]
Weights = dict[tuple[int, tuple[int, ...]], tuple[Array, Array, Array]]
"""By place in memory weights, so that they stay there, a contiguous copy of them and its absolute values."""


class Rounding:
    """Perturbs float64 values; every call uses signs of its own."""

    def __init__(self, seed: int = 0, *, keep: bool = False, unit: float = UNIT) -> None:
        """Seed the signs, which are the same at every step with ``keep``.

        ``unit`` is the unit roundoff; if it is 0, values stay as they are.
        """
        self._keep, self.unit, self._next = keep, unit, 0
        self.weights: Weights = {}
        """The caller's own, where it evaluates a graph more than once."""
        if unit:
            self._pool, self._factors, state = _signs(seed, unit)
            self._rng = np.random.default_rng()
            self._rng.bit_generator.state = state

    def mark(self) -> int:
        """Return the place to come back to at every step of a loop."""
        return self._next

    def go_back(self, mark: int) -> None:
        """Begin a step: a rounding that keeps its signs uses those of the step before."""
        if self._keep:
            self._next = mark

    def signs(self, shape: tuple[int, ...]) -> Array:
        """Return random signs, -1.0 or 1.0, float64 of ``shape``; not to be written to."""
        return self._take(self._pool, shape)

    def relative(self, value: Array, units: float = 1.0) -> Array:
        """Return ``value`` off by ``units`` times 2^-24 of itself."""
        if not self.unit:
            return value
        if units == 1.0:
            return np.asarray(value * self._take(self._factors, value.shape))
        return np.asarray(value * (1.0 + units * self.unit * self.signs(value.shape)))

    def absolute(self, value: Array, scale: float | Array = 1.0) -> Array:
        """Return ``value`` off by 2^-23 of ``scale``, the range of the function that gave it."""
        if not self.unit:
            return value
        return np.asarray(value + (2 * self.unit * scale) * self.signs(value.shape))

    def product(self, left: Array, right: Array) -> Array:
        """Return ``left @ right`` off by 2^-24 sqrt(K) (|left| @ |right|), K the terms of each sum."""
        if not self.unit:
            return _multiply(left, right)
        key = right.__array_interface__["data"][0], right.shape
        known = self.weights.get(key)
        if known is None:
            if len(self.weights) > 64:
                self.weights.clear()
            copied = np.ascontiguousarray(right)
            known = self.weights[key] = (right, copied, np.abs(copied).astype(np.float32))
        _, right, magnitude = known
        terms = _multiply(np.abs(left).astype(np.float32), magnitude)  # of which few digits are needed
        return self.summed(_multiply(left, right), terms, left.shape[-1])

    def summed(self, result: Array, terms: Array, count: float, *, alike: bool = False) -> Array:
        """Return sums off by 2^-24 sqrt(K) of the sum of their terms' absolute values.

        Args:
            result: the sums.
            terms: the same of the terms' absolute values.
            count: K, the terms of each sum.
            alike: whether terms may be equal, as those along time, and round alike where signs are kept.
        """
        factor = count if alike and self._keep else math.sqrt(count)
        return np.asarray(result + (self.unit * factor) * self.signs(result.shape) * (terms + TINY))

    def total(self, value: Array, axes: Axes) -> Array:
        """Return the sum over ``axes``, which stay with size 1, off by what ``summed`` says."""
        result = np.asarray(value.sum(axis=axes, keepdims=True))
        if not self.unit:
            return result
        terms = np.abs(value).sum(axis=axes, keepdims=True)
        return self.summed(result, terms, value.size / max(result.size, 1), alike=True)

    def running(self, value: Array, axis: int) -> Array:
        """Return the partial sums along ``axis``, each off by 2^-24 of all before it."""
        result = np.asarray(np.cumsum(value, axis))
        if not self.unit:
            return result
        signs = np.broadcast_to(self.signs(result.shape), result.shape)
        if self._keep:
            signs = signs.take([0], axis)
        return np.asarray(result + self.unit * np.cumsum(np.abs(result) * signs, axis))

    def _take(self, pool: Array, shape: tuple[int, ...]) -> Array:
        taken = (shape[-1:] or (1,)) if self._keep else shape
        count = math.prod(taken)
        if count > _POOL // 2:
            found = np.resize(pool[self._rng.integers(_POOL // 2) :], taken)
        else:
            if self._next + count > _POOL:
                self._next = 0 if self._keep else int(self._rng.integers(_POOL // 2))
            start, self._next = self._next, self._next + count
            found = pool[start : start + count].reshape(taken)
        return found if self._keep and shape else found.reshape(shape)


@lru_cache(8)
def _signs(seed: int, unit: float) -> tuple[Array, Array, Any]:
    """Return ``_POOL`` random signs, 1 off by ``unit`` in their directions, and the generator's state."""
    rng = np.random.default_rng((seed, _POOL))
    signs = rng.choice([-1.0, 1.0], _POOL)
    return signs, 1.0 + unit * signs, rng.bit_generator.state


def _multiply(left: Array, right: Array) -> Array:
    """Return ``left @ right``, in parts that one thread multiplies where that is worth it."""
    each = left.shape[-1] * right.shape[-1]
    rows = _ONE_THREAD // max(each, 1)
    if left.ndim != 2 or right.ndim != 2 or rows < 4 or len(left) <= rows:
        return np.asarray(left @ right)
    result = np.empty((len(left), right.shape[1]), left.dtype)
    for start in range(0, len(left), rows):
        np.matmul(left[start : start + rows], right, out=result[start : start + rows])
    return result


EXACT = Rounding(unit=0.0)
