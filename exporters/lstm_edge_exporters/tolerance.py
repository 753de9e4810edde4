"""The one tolerance policy: a result passes if it is within a few noise floors of the exact one.

The *noise floor* of a value is how far a correct float32 implementation may be from its exact (float64)
value. Each channel of an output has its own, since channels may differ in scale and unit: a channel is an
element of all axes of fixed size. ``lstm_edge_exporters.verify`` models it when a file is exported or
validated; the golden case in a file carries it. The limit is

    limit = MULTIPLE * floor

Over healthy networks of many forms (``benchmarks/proof/false_alarms.py``) onnxruntime and PyTorch stay below
two floors; ``docs/validate.md`` has the model, its sources and the figures.

Comparing returns records; asserting is another function's work.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Array

MULTIPLE = 3.0
"""How many noise floors a candidate may be away from the exact result."""
POLICY = (
    f"limit = {MULTIPLE:g} x noise floor, per channel; the floor is how far a correct float32 implementation "
    "may be from the exact result"
)
"""The rule in words."""
ULPS = 8.0
_MULTIPLE_BEFORE = 8.0
"""The policy of records made before floors were modeled: see ``limit_for``."""


@dataclass(frozen=True)
class Comparison:
    """How far one output is from its reference; the worst element is the one nearest to its limit."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    """The largest absolute difference; infinity where one side is not finite and the other differs."""
    max_rel: float
    """The difference at the worst element divided by its channel's largest absolute reference value."""
    ulp: float
    """The same in units in the last place at that value."""
    where: tuple[int, ...]
    """The index of the worst element."""
    got: float
    expected: float
    floor: float
    """The noise floor of the worst element's channel."""
    limit: float
    """Its limit."""
    error: float = 0.0
    """The absolute difference at the worst element."""
    scale: float = 0.0
    """The largest absolute reference value of its channel."""
    axes: tuple[int, ...] = ()
    """Axes of channels; none if the output has one limit."""

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

    @property
    def channel(self) -> tuple[int, ...]:
        """The worst element's channel; empty where the output has one limit."""
        return tuple(self.where[axis] for axis in self.axes)

    def __str__(self) -> str:
        """Return in one line what differs, where and by how much."""
        where = ", ".join(map(str, self.where))
        measure, digits = f"noise floor {self.floor:.3g}, {self.ulp:.3g} ULP", 9
        if not self.floor:  # of float64
            measure, digits = f"{self.max_rel:.3g} of the largest value", 15
        got, expected = (f"{value:.{digits}g}" for value in (self.got, self.expected))
        return (
            f"{self.name}{list(self.shape)} differs by {self.error:.3g} at [{where}] "
            f"(got {got}, expected {expected}; limit {self.limit:.3g}, {measure})"
        )


def limit_for(expected: Array, floor: float, dtype: str = "float32") -> float:
    """Return the limit of a golden case that records one floor an output, as files made before do.

    Its floor is PyTorch's own largest error, of which a file may be 8 away, and 8 units in the last place.

    Args:
        expected: the recorded output, any shape.
        floor: its recorded floor.
        dtype: the output's dtype by numpy name.
    """
    return _MULTIPLE_BEFORE * floor + ULPS * _ulp(_scale(np.asarray(expected, np.float64)), dtype)


def compare(
    name: str,
    got: Array,
    expected: Array,
    *,
    floor: npt.ArrayLike,
    limit: npt.ArrayLike | None = None,
    dtype: str = "float32",
) -> Comparison:
    """Compare one output with its reference, in float64.

    A shape that differs counts as an infinite difference. Equal infinities and NaN in both places agree.

    Args:
        name: the output's.
        got: what is compared, any shape.
        expected: the reference of the same shape.
        floor: noise floors, a number or an array that broadcasts against ``expected``.
        limit: limits of the same kind; None for the policy's.
        dtype: the one that units in the last place are counted in.
    """
    floors = np.asarray(floor, np.float64)
    limits = MULTIPLE * floors if limit is None else np.asarray(limit, np.float64)
    if got.shape != expected.shape:
        nan = float("nan")
        return Comparison(
            name, got.shape, np.inf, np.inf, np.inf, (), nan, nan,
            float(floors.max(initial=0.0)), float(limits.max(initial=0.0)), np.inf,
        )  # fmt: skip
    if got.size == 0:
        return Comparison(name, got.shape, 0.0, 0.0, 0.0, (), 0.0, 0.0, 0.0, 0.0)
    left, right = got.astype(np.float64), expected.astype(np.float64)
    difference = distance(left, right)
    floors, limits = np.broadcast_to(floors, right.shape), np.broadcast_to(limits, right.shape)
    where = tuple(int(index) for index in np.unravel_index(_worst(difference, limits), right.shape))
    axes = [place for place, step in enumerate(limits.strides) if step and right.shape[place] > 1]
    channel = right[tuple(where[place] if place in axes else slice(None) for place in range(right.ndim))]
    scale, worst = _scale(np.asarray(channel)), float(difference[where])
    return Comparison(
        name=name,
        shape=got.shape,
        max_abs=float(difference.max()),
        max_rel=worst / scale if scale > 0 else (0.0 if worst == 0 else np.inf),
        ulp=worst / _ulp(scale, dtype),
        where=where,
        got=float(left[where]),
        expected=float(right[where]),
        floor=float(floors[where]),
        limit=float(limits[where]),
        error=worst,
        scale=scale,
        axes=tuple(axes),
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
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max()) if finite.size else 0.0


def _ulp(scale: float, dtype: str) -> float:
    kind = np.finfo(np.dtype(dtype))
    return max(float(kind.eps) * scale, float(kind.tiny))
