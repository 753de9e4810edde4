"""Noise floors: how far a correct float32 implementation may be from the exact result of one case.

The reference is run ``DRAWS`` times in float64, each time perturbed as float32 may round (see ``rounding``).
The floor of a channel is the largest deviation from the exact run over all draws, rows and steps, plus half
a unit in the last place at the channel's largest value, for the float32 that the result is stored in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .layout import Layout
from .rounding import TINY, UNIT, Rounding

__all__ = [
    "DRAWS",
    "Expected",
    "PerturbableReference",
    "Procedure",
    "Run",
    "expected",
    "noise_floors",
    "whole",
]

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Every input by name in, every output by name out."""
Procedure = Callable[[Run, Mapping[str, Array]], Mapping[str, Array]]
"""How a case is run: whole, in chunks, row by row; the same way for a candidate and for its reference."""

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


def whole(run: Run, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
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
