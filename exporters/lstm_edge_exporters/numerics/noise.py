"""Noise floors: how far a correct float32 implementation may be from the exact result of one case.

The reference is run ``DRAWS`` times in float64, each time perturbed as float32 may round. The floor of a
channel is the largest deviation from the exact run over all draws, rows and steps, plus half a unit in the
last place at the channel's largest value, for the float32 that the result is stored in.
``compare_outputs`` gives the records of one case; the limits are multiples of the floors.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from lstm_edge_runtime.manifest import Array, Axes, Manifest
from lstm_edge_runtime.state import Runner
from lstm_edge_runtime.tolerance import MULTIPLE, Comparison, compare

__all__ = [
    "DRAWS",
    "EXACT",
    "MAX_RELATIVE_FLOOR",
    "TINY",
    "UNIT",
    "Exact",
    "Expected",
    "Layout",
    "PerturbableReference",
    "Procedure",
    "Rounding",
    "compare_outputs",
    "expected",
    "is_noise",
    "noise_floors",
    "unverified",
    "whole",
]

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
        return np.asarray(1.0 + units * UNIT * self.signs(shape))

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


@dataclass(frozen=True)
class Layout:
    """Axes by input or output name; what is left out has none."""

    batch: Mapping[str, int] = field(default_factory=dict)
    """Each input's batch axis."""
    channels: Mapping[str, int] = field(default_factory=dict)
    """Each output's axis of channels that may differ in scale or unit, counted from the end: -1 is the last.
    For an output it is the last axis of fixed size, for a state the one that counts layers and directions."""

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """Read the axes off a manifest."""
        channels = {spec.name: _fixed(spec.axes)[-1:] for spec in manifest.outputs}
        channels |= {state.output: _fixed(state.axes)[:-1] for state in manifest.states}
        batch = manifest.batch_axes
        return cls(
            {name: batch[name] for name in manifest.input_names if name in batch},
            {name: places[0] for name, places in channels.items() if places},
        )


def _fixed(axes: Axes) -> list[int]:
    """Return the places of fixed axes, counted from the end."""
    return [place - len(axes) for place, axis in enumerate(axes) if isinstance(axis, int)]


Procedure = Callable[[Runner, Mapping[str, Array]], Mapping[str, Array]]
"""How a case is run: whole, in chunks, row by row; the same way for a candidate and for its reference."""

MAX_RELATIVE_FLOOR = 0.1
"""Largest noise floor, as a fraction of a channel's largest value, at which a comparison is meaningful."""
DRAWS = 8
"""Perturbed runs of a case."""
_PLAUSIBLE = (1e-3, 1e-6)
"""Rows that are run together are independent of each other unless a draw deviates by more than this fraction
of an output's largest value, and this much."""


class PerturbableReference(Protocol):
    """What a candidate is compared with."""

    @property
    def layout(self) -> Layout:
        """Where rows and channels lie."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return every output in the reference's own dtype."""

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return every output in float64, from the same weights and inputs."""

    def perturbed(self, feeds: Mapping[str, Array], rounding: Rounding) -> Mapping[str, Array]:
        """Return every output in float64 as a correct float32 implementation may give it."""


@dataclass(frozen=True)
class Expected:
    """What a reference gives for one case."""

    ref32: Mapping[str, Array]
    """In the reference's own dtype."""
    ref64: Mapping[str, Array]
    """In float64."""
    floors: Mapping[str, Array]
    """Noise floors, float64, one a channel; each broadcasts against its output."""


def whole(run: Runner, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """Run a case in one call."""
    return run(feeds)


def expected(
    reference: PerturbableReference, feeds: Mapping[str, Array], procedure: Procedure = whole
) -> Expected:
    """Run the reference on one case in float32, in float64 and perturbed; raises what it raises."""
    ref32, ref64 = procedure(reference.run, feeds), procedure(reference.run64, feeds)
    return Expected(ref32, ref64, noise_floors(reference, feeds, ref64, procedure))


def noise_floors(
    reference: PerturbableReference,
    feeds: Mapping[str, Array],
    ref64: Mapping[str, Array],
    procedure: Procedure = whole,
) -> dict[str, Array]:
    """Return the noise floors of a case by output name; each array broadcasts against its output.

    Args:
        reference: what is perturbed.
        feeds: the case.
        ref64: the exact outputs.
        procedure: how the case is run.
    """
    layout = reference.layout
    deviations = _all_rows_at_once(reference, feeds, ref64, procedure) or _one_by_one(
        reference, feeds, ref64, procedure
    )
    return {name: _floor(array, deviations[name], layout.channels.get(name)) for name, array in ref64.items()}


def _floor(exact: Array, deviation: Array, channel: int | None) -> Array:
    """Return the floor of each channel, keeping the other axes with size 1."""
    if not exact.size:
        return np.zeros([1] * exact.ndim)
    axes = tuple(axis for axis in range(exact.ndim) if channel is None or axis != exact.ndim + channel)
    floor = np.asarray(deviation.max(axis=axes, keepdims=True))
    if exact.dtype.kind != "f":
        return floor
    size = np.abs(np.where(np.isfinite(exact), exact, 0.0))
    return np.asarray(floor + UNIT * size.max(axis=axes, keepdims=True) + TINY)


def _one_by_one(
    reference: PerturbableReference,
    feeds: Mapping[str, Array],
    ref64: Mapping[str, Array],
    procedure: Procedure,
) -> dict[str, Array]:
    """Return the largest deviation of each element over the draws."""
    found: dict[str, Array] = {}
    for draw in range(DRAWS):
        outputs = procedure(partial(reference.perturbed, rounding=Rounding(draw)), feeds)
        for name, exact in ref64.items():
            same = outputs[name].shape == exact.shape
            away = _apart(outputs[name], exact) if same else np.full(exact.shape, np.inf)
            found[name] = np.maximum(found.get(name, 0.0), away)
    return found


def _all_rows_at_once(
    reference: PerturbableReference,
    feeds: Mapping[str, Array],
    ref64: Mapping[str, Array],
    procedure: Procedure,
) -> dict[str, Array] | None:
    """Return the same from one run in which every row stands ``DRAWS`` times, each perturbed by its own draw.

    None where that can't be done: there is no batch axis, an output does not show it, or rows are not
    independent of each other.
    """
    axes = reference.layout.batch
    if not axes:
        return None
    repeated = {
        name: np.repeat(array, DRAWS, axes[name]) if name in axes else array for name, array in feeds.items()
    }
    try:
        outputs = procedure(partial(reference.perturbed, rounding=Rounding(0)), repeated)
    except (RuntimeError, ValueError, IndexError):
        return None
    found = {}
    for name, exact in ref64.items():
        draws = outputs[name]
        if draws.ndim != exact.ndim:
            return None
        longer = [axis for axis in range(exact.ndim) if draws.shape[axis] != exact.shape[axis]]
        if len(longer) != 1:
            return None
        (axis,) = longer
        if draws.shape[axis] != DRAWS * exact.shape[axis]:
            return None
        split = draws.reshape(*exact.shape[: axis + 1], DRAWS, *exact.shape[axis + 1 :])
        found[name] = _apart(split, np.expand_dims(exact, axis + 1)).max(axis=axis + 1)
        size = float(np.max(np.abs(exact), initial=0.0, where=np.isfinite(exact)))
        plausible = max(_PLAUSIBLE[0] * size, _PLAUSIBLE[1])
        if exact.dtype.kind == "f" and found[name].max(initial=0.0) > plausible:
            return None
    return found


def _apart(got: Array, exact: Array) -> Array:
    """Return absolute differences; equal infinities and NaN in both places agree, other NaN are infinite."""
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(got - exact)
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def compare_outputs(got: Mapping[str, Array], known: Expected) -> list[Comparison]:
    """Return one record an output of the reference, in its order."""
    return [
        compare(
            name,
            got[name],
            exact,
            floor=known.floors[name],
            dtype=known.ref32[name].dtype.name if exact.dtype.kind == "f" else "float64",
        )
        for name, exact in known.ref64.items()
    ]


def unverified(known: Expected) -> dict[str, float]:
    """Return the limits of channels that are too small to be verified; see ``Equivalence.unverified``."""
    found = {}
    for name, exact in known.ref64.items():
        if exact.dtype.kind != "f" or not exact.size:
            continue
        floors = known.floors[name]
        axes = tuple(axis for axis, size in enumerate(floors.shape) if size == 1)
        size = np.abs(np.where(np.isfinite(exact), exact, 0.0)).max(axis=axes, keepdims=True)
        for index in np.argwhere((floors > MAX_RELATIVE_FLOOR * size) & (size > 0)):
            channel = f"[{max(index)}]" if floors.size > 1 else ""
            found[f"{name}{channel}"] = float(MULTIPLE * floors[tuple(index)])
    return found


def is_noise(ref32: Array, ref64: Array) -> bool:
    """Return whether rounding moves the reference's own output by much of its largest value."""
    if ref64.dtype.kind != "f":
        return False
    record = compare("", ref32, ref64, floor=0.0, limit=np.inf)
    return record.max_abs > MAX_RELATIVE_FLOOR * max(record.scale, TINY)
