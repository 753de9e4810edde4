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
        return np.asarray(left @ right)


class Rounding(Exact):
    """Perturbs float64 values with random signs; every call uses signs of its own."""

    def __init__(self, seed: int) -> None:
        """Seed the signs."""
        self._rng = np.random.default_rng((seed, _POOL))
        self._pool = self._rng.choice([-1.0, 1.0], _POOL)
        self._next = 0

    def factors(self, shape: tuple[int, ...], units: float = 1.0) -> Array:
        """Return ``1 + units * 2^-24`` or ``1 - units * 2^-24`` at random, float64 of ``shape``."""
        return 1.0 + units * UNIT * self.signs(shape)

    def signs(self, shape: tuple[int, ...]) -> Array:
        """Return random signs, -1.0 or 1.0, float64 of ``shape``; not to be written to."""
        count = math.prod(shape)
        if count > _POOL // 2:
            return self._rng.choice([-1.0, 1.0], shape)
        if self._next + count > _POOL:
            self._next = int(self._rng.integers(_POOL // 2))
        start, self._next = self._next, self._next + count
        return self._pool[start : start + count].reshape(shape)

    def relative(self, value: Array, units: float = 1.0) -> Array:
        """Return ``value`` off by ``units`` times 2^-24 of itself."""
        return np.asarray(value * self.factors(value.shape, units))

    def absolute(self, value: Array, scale: float | Array = 1.0) -> Array:
        """Return ``value`` off by 2^-23 of ``scale``, the range of the function that gave it."""
        return np.asarray(value + 2 * UNIT * scale * self.signs(value.shape))

    def product(self, left: Array, right: Array) -> Array:
        """Return ``left @ right`` off by 2^-24 sqrt(K) (|left| @ |right|), K the terms of each sum."""
        exact = left @ right
        terms = np.abs(left) @ np.abs(right) + TINY
        return np.asarray(exact + (UNIT * math.sqrt(left.shape[-1])) * self.signs(exact.shape) * terms)


EXACT = Exact()
