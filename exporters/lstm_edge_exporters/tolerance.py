"""How far one array is from another, by a limit; ``verify/compare.py`` and golden cases have the limits.

Comparing returns records; asserting is another function's work.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Array

_MULTIPLE = 8.0


@dataclass(frozen=True)
class Comparison:
    """How far one output is from its reference; the worst element is the one nearest to its limit."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    """The largest absolute difference; infinity where one side is not finite and the other differs."""
    max_rel: float
    """The difference at the worst element divided by its channel's largest absolute reference value."""
    where: tuple[int, ...]
    """The index of the worst element."""
    got: float
    expected: float
    limit: float
    """Of the worst element."""
    error: float = 0.0
    """The absolute difference at the worst element."""

    @property
    def ok(self) -> bool:
        """Whether every element is within its limit."""
        return self.error <= self.limit

    @property
    def ratio(self) -> float:
        """The difference at the worst element as a fraction of the limit: 1.0 is at the limit."""
        if self.error == 0:
            return 0.0
        return self.error / self.limit if self.limit > 0 else float("inf")

    def __str__(self) -> str:
        """Return in one line what differs, where and by how much."""
        return (
            f"{self.name}{list(self.shape)} differs by {self.error:.3g} at {list(self.where)} (got "
            f"{self.got:.15g}, expected {self.expected:.15g}; limit {self.limit:.3g}, {self.max_rel:.3g} of "
            "the largest value)"
        )


def limit_for(expected: Array, floor: float) -> float:
    """Return 8 times a known error ``floor`` of an output, and 8 units in the last place of float32."""
    kind, scale = np.finfo(np.float32), _scale(np.asarray(expected, np.float64))
    return _MULTIPLE * (floor + max(float(kind.eps) * scale, float(kind.tiny)))


def compare(name: str, got: Array, expected: Array, limit: npt.ArrayLike) -> Comparison:
    """Compare one output with its reference, in float64.

    A shape that differs counts as an infinite difference. Equal infinities and NaN in both places agree.

    Args:
        name: the output's.
        got: what is compared, any shape.
        expected: the reference of the same shape.
        limit: a number, or an array that broadcasts against ``expected``.
    """
    limits = np.asarray(limit, np.float64)
    if got.shape != expected.shape:
        nan, most = float("nan"), float(limits.max(initial=0.0))
        return Comparison(name, got.shape, np.inf, np.inf, (), nan, nan, most, np.inf)
    if got.size == 0:
        return Comparison(name, got.shape, 0.0, 0.0, (), 0.0, 0.0, 0.0)
    left, right = got.astype(np.float64), expected.astype(np.float64)
    difference, limits = distance(left, right), np.broadcast_to(limits, right.shape)
    where = tuple(int(index) for index in np.unravel_index(_worst(difference, limits), right.shape))
    axes = [place for place, step in enumerate(limits.strides) if step and right.shape[place] > 1]
    channel = right[tuple(where[place] if place in axes else slice(None) for place in range(right.ndim))]
    scale, worst = _scale(np.asarray(channel)), float(difference[where])
    return Comparison(
        name=name,
        shape=got.shape,
        max_abs=float(difference.max()),
        max_rel=worst / scale if scale > 0 else (0.0 if worst == 0 else np.inf),
        where=where,
        got=float(left[where]),
        expected=float(right[where]),
        limit=float(limits[where]),
        error=worst,
    )


def distance(one: Array, other: Array) -> Array:
    """Return absolute differences in the shape of ``other``; of arrays of unlike shapes all are infinite.

    Equal infinities and NaN in both places agree, other NaN are infinite.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return np.full(other.shape, np.inf)
    with np.errstate(invalid="ignore"):
        difference = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _worst(difference: Array, limits: Array) -> int:
    """Return the flat index of the element nearest to its limit, of several the one that differs most."""
    ratio = np.where(difference > 0, np.inf, 0.0)
    np.divide(difference, limits, out=ratio, where=(limits > 0) & np.isfinite(difference))
    return int(np.where(ratio == ratio.max(), difference, -1.0).argmax())


def _scale(expected: Array) -> float:
    return float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
