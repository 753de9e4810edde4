"""The one tolerance policy: what counts as equal, derived from the reference's own rounding.

The reference is run twice, in its own dtype and in float64. Their largest difference is the *noise floor*
of that model and input: what the reference itself loses to rounding. A candidate in the same dtype sums the
same terms in another order, so it may differ from float64 by a small multiple of the floor, plus a few ULP
(unit in the last place) at the output's scale for cases where the reference happened to round luckily:

    limit = MULTIPLE * floor + ULPS * ulp(max |reference|)

Measured over 200 random healthy networks (8,493 checks, ``benchmarks/false_alarms.py``), files use a tenth of
this limit in the median and 0.83 of it at most, once the floor of the 13 cases in doubt was drawn anew. An
LSTM of 128 units whose weights are rounded to fp16 is 60 to 340 times over it, one with its forget gates off
by 1e-4 8 to 28 times, and with a single one of them off 2 to 4 times in most groups of checks.

Comparing returns records; asserting is another function's work.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MULTIPLE", "ULPS", "Comparison", "compare", "limit_for"]

MULTIPLE = 8.0
"""How many noise floors a candidate of the reference's dtype may be away from float64."""
ULPS = 8.0
"""How many units in the last place, at the scale of the output, are allowed on top."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """How far one output is from its reference."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    """The largest absolute difference; infinity where one side is not finite and the other differs."""
    max_rel: float
    """The same divided by the largest absolute reference value."""
    ulp: float
    """The same in units in the last place at that value."""
    where: tuple[int, ...]
    """The index of the worst element."""
    got: float
    expected: float
    floor: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within the limit."""
        return self.max_abs <= self.limit

    @property
    def ratio(self) -> float:
        """The difference as a share of the limit: 1.0 is at the limit."""
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self.limit if self.limit > 0 else float("inf")

    def __str__(self) -> str:
        """Say in one line what differs, where and by how much."""
        where = ", ".join(map(str, self.where))
        return (
            f"{self.name}{list(self.shape)} differs by {self.max_abs:.3g} at [{where}] "
            f"(got {self.got:.9g}, expected {self.expected:.9g}; limit {self.limit:.3g}, "
            f"noise floor {self.floor:.3g}, {self.ulp:.3g} ULP)"
        )


def limit_for(expected: Array, floor: float, dtype: str = "float32") -> float:
    """Return the policy's absolute limit for outputs like ``expected`` computed in ``dtype``.

    Args:
        expected: the float64 (or best known) reference, any shape.
        floor: the reference's own largest error in ``dtype`` against float64.
        dtype: the candidate's dtype by numpy name.
    """
    return MULTIPLE * floor + ULPS * _ulp(expected, dtype)


def compare(
    name: str, got: Array, expected: Array, *, floor: float, limit: float, dtype: str = "float32"
) -> Comparison:
    """Compare one output with its reference, in float64.

    A shape that differs counts as an infinite difference. Equal infinities and NaN in both places agree.
    """
    if got.shape != expected.shape:
        return Comparison(
            name, got.shape, np.inf, np.inf, np.inf, (), float("nan"), float("nan"), floor, limit
        )
    if got.size == 0:
        return Comparison(name, got.shape, 0.0, 0.0, 0.0, (), 0.0, 0.0, floor, limit)
    left, right = got.astype(np.float64), expected.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(left - right))
    difference = np.where(np.isnan(difference), np.inf, difference)
    where = tuple(int(index) for index in np.unravel_index(int(difference.argmax()), difference.shape))
    worst = float(difference[where])
    scale = _scale(right)
    return Comparison(
        name=name,
        shape=got.shape,
        max_abs=worst,
        max_rel=worst / scale if scale > 0 else (0.0 if worst == 0 else np.inf),
        ulp=worst / _ulp(right, dtype),
        where=where,
        got=float(left[where]),
        expected=float(right[where]),
        floor=floor,
        limit=limit,
    )


def _scale(expected: Array) -> float:
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max()) if finite.size else 0.0


def _ulp(expected: Array, dtype: str) -> float:
    kind = np.finfo(np.dtype(dtype))
    return max(float(kind.eps) * _scale(np.asarray(expected, dtype=np.float64)), float(kind.tiny))
