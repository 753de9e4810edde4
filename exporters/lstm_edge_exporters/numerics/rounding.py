"""The model of float32 rounding: how far a correct float32 implementation may be from the exact result.

A ``Rounding`` perturbs float64 values as such an implementation may differ, with random signs:

* ``relative``: 2^-24 of the value, half a unit in the last place, after an arithmetic operation;
* ``absolute``: 2^-23 of the function's own range after sigmoid, tanh and functions built on them.
  onnxruntime's vectorized kernels are accurate absolutely and not relatively: at x = -16 its sigmoid is off
  by as much as the value itself;
* ``product``: 2^-24 sqrt(K) (|x| @ |W|) after a sum of K products, in whatever order it is added up.

The last is the probabilistic form of the classical bound K u (|x| @ |W|): where rounding errors are
independent with mean zero, K becomes a small multiple of sqrt(K) (N. J. Higham and T. Mary, "A New Approach
to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019; the classical bound is section
3.1 of Higham's "Accuracy and Stability of Numerical Algorithms", 2002).
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EXACT", "TINY", "UNIT", "Exact", "Rounding"]

Array = npt.NDArray[Any]

UNIT = 2.0**-24
"""float32's unit roundoff, half a unit in the last place at 1."""
TINY = float(np.finfo(np.float32).tiny)
"""Below this float32 values are denormal or zero; rounding there is no longer relative."""
_POOL = 1 << 17
"""Random signs drawn at once."""
_ONE_THREAD = 1 << 18
"""Multiplications up to which numpy's OpenBLAS multiplies on one thread; its threads wait busily, which made
a small product 100 times as expensive on a machine with other work."""


class Exact:
    """No rounding: float64 values stay as they are."""

    def relative(self, value: Array, units: float = 1.0) -> Array:  # noqa: ARG002
        """Return ``value``."""
        return value

    def absolute(self, value: Array, scale: float | Array = 1.0) -> Array:  # noqa: ARG002
        """Return ``value``."""
        return value

    def product(self, left: Array, right: Array) -> Array:
        """Return ``left @ right``."""
        return _multiply(left, right)


class Rounding(Exact):
    """Perturbs float64 values with random signs; every call uses signs of its own."""

    def __init__(self, seed: int) -> None:
        """Seed the signs."""
        self.seed = seed
        self._rng = np.random.default_rng((seed, _POOL))
        self._pool = self._rng.choice([-1.0, 1.0], _POOL)
        self._factors = 1.0 + UNIT * self._pool
        self._next = 0
        self._weights: dict[int, tuple[Array, Array, Array]] = {}
        """Of weights seen lately: themselves, a contiguous copy and its absolute values."""

    def signs(self, shape: tuple[int, ...]) -> Array:
        """Return random signs, -1.0 or 1.0, float64 of ``shape``; not to be written to."""
        return self._take(self._pool, shape)

    def factors(self, shape: tuple[int, ...], units: float = 1.0) -> Array:
        """Return ``1 + units * 2^-24`` or ``1 - units * 2^-24`` at random; not to be written to."""
        if units == 1.0:
            return self._take(self._factors, shape)
        return 1.0 + units * UNIT * self.signs(shape)

    def relative(self, value: Array, units: float = 1.0) -> Array:
        """Return ``value`` off by ``units`` times 2^-24 of itself."""
        return np.asarray(value * self.factors(value.shape, units))

    def absolute(self, value: Array, scale: float | Array = 1.0) -> Array:
        """Return ``value`` off by 2^-23 of ``scale``, the range of the function that gave it."""
        return np.asarray(value + (2 * UNIT * scale) * self.signs(value.shape))

    def product(self, left: Array, right: Array) -> Array:
        """Return ``left @ right`` off by 2^-24 sqrt(K) (|left| @ |right|), K the terms of each sum."""
        known = self._weights.get(id(right))
        if known is None:
            if len(self._weights) > 64:
                self._weights.clear()
            copied = np.ascontiguousarray(right)
            known = self._weights[id(right)] = (right, copied, np.abs(copied))
        _, right, magnitude = known
        error = _multiply(np.abs(left), magnitude)
        error += TINY
        error *= UNIT * math.sqrt(left.shape[-1])
        error *= self.signs(error.shape)
        error += _multiply(left, right)
        return error

    def _take(self, pool: Array, shape: tuple[int, ...]) -> Array:
        count = math.prod(shape)
        if count > _POOL // 2:
            return np.resize(pool[self._rng.integers(_POOL // 2) :], shape)
        if self._next + count > _POOL:
            self._next = int(self._rng.integers(_POOL // 2))
        start, self._next = self._next, self._next + count
        return pool[start : start + count].reshape(shape)


def _multiply(left: Array, right: Array) -> Array:
    """Return ``left @ right``, in parts that one thread multiplies where that is worth it."""
    each = left.shape[-1] * right.shape[-1]
    rows = _ONE_THREAD // max(each, 1)
    if left.ndim != 2 or right.ndim != 2 or rows < 4 or len(left) <= rows:
        return np.asarray(left @ right)
    result = np.empty((len(left), right.shape[1]))
    for start in range(0, len(left), rows):
        np.matmul(left[start : start + rows], right, out=result[start : start + rows])
    return result


EXACT = Exact()
