"""The cases that a file and its reference are compared on: sizes, states and lengths.

``draw_cases`` gives named arrays for each size of the grid: signals at the example's own scale, indices
from the example's own values, states at their reset value or at random, lengths at random with one row full
in every other case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Axes

__all__ = ["GRID", "Case", "Source", "draw_cases"]

Array = npt.NDArray[Any]

GRID = ((1, 1), (1, 5), (3, 8), (4, 1), (2, 33), (5, 130))
"""The ``(N, L)`` of a proof; none is the traced one."""


@dataclass(frozen=True)
class Source:
    """One input of the file and what to draw for it."""

    name: str
    dtype: str
    axes: Axes
    role: str = "signal"
    """``signal``, ``state`` or ``lengths``."""
    example: Array | None = None
    """Values as they really come: a float input is drawn at their mean and spread, an integer one from
    between the least and the greatest of them."""
    reset: float | Array = 0.0
    """For a state: its value at the start of a stream."""


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison."""

    sizes: Mapping[str, int]
    """Each dynamic axis's size."""
    feeds: Mapping[str, Array]
    fresh: bool
    """Whether every state is at its reset value."""

    def __str__(self) -> str:
        """Say the sizes: ``N=1, L=5, states at reset``."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"{sizes or 'fixed sizes'}{', states at reset' if self.fresh else ''}"


def draw_cases(
    sources: Sequence[Source],
    *,
    batch: str,
    sequence: str,
    seed: int,
    grid: Sequence[tuple[int, int]] = GRID,
    sort_lengths: bool = False,
) -> Iterator[Case]:
    """Draw one case for every ``(N, L)`` of ``grid``, the same ones for the same ``seed``.

    Args:
        sources: the inputs.
        batch: the name of the batch axis.
        sequence: the name of the time axis; any further axis gets sizes of its own.
        seed: seed of the draw.
        grid: sizes of the batch and time axes.
        sort_lengths: give lengths in falling order, as ``enforce_sorted=True`` demands.
    """
    names = dict.fromkeys(axis for each in sources for axis in each.axes if isinstance(axis, str))
    for place, (n, length) in enumerate(grid):
        rng = np.random.default_rng((seed, place))
        sizes = {name: {batch: n, sequence: length}.get(name, 2 + int(rng.integers(9))) for name in names}
        fresh = place % 3 == 0
        feeds = {
            each.name: _draw(each, sizes, rng, fresh, sizes.get(sequence, length), place % 2 == 0)
            for each in sources
        }
        if sort_lengths:
            feeds |= {each.name: -np.sort(-feeds[each.name]) for each in sources if each.role == "lengths"}
        yield Case(sizes, feeds, fresh)


def _draw(
    source: Source, sizes: Mapping[str, int], rng: np.random.Generator, fresh: bool, steps: int, full: bool
) -> Array:
    shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in source.axes)
    if source.role == "lengths":
        lengths = rng.integers(1, steps + 1, shape)
        if full:
            lengths[rng.integers(len(lengths))] = steps
        return lengths.astype(source.dtype)
    if source.role == "state":
        reset: Array = np.broadcast_to(np.asarray(source.reset, source.dtype), shape).copy()
        return reset if fresh else np.asarray(reset + 0.7 * rng.standard_normal(shape), source.dtype)
    example = source.example
    if np.dtype(source.dtype).kind in "iub":
        if example is None or example.size == 0:
            return np.zeros(shape, source.dtype)
        low, high = int(example.min()), int(example.max())
        return rng.integers(low, high + 1, shape).astype(source.dtype)
    centre, spread = (0.0, 1.0) if example is None else (float(example.mean()), float(example.std()))
    return (centre + (spread if spread > 0 else 1.0) * rng.standard_normal(shape)).astype(source.dtype)
