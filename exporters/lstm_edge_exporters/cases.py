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

__all__ = ["GRID", "Case", "Source", "draw_case", "draw_cases"]

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
    """Values as they really come: a float input is drawn at their mean and spread (of each feature, where
    the last axis is fixed), an integer one from between the least and the greatest of them."""
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
    for place, (n, length) in enumerate(grid):
        yield draw_case(
            sources,
            n,
            length,
            batch=batch,
            sequence=sequence,
            rng=np.random.default_rng((seed, place)),
            fresh=place % 3 == 0,
            full=place % 2 == 0,
            sort_lengths=sort_lengths,
        )


def draw_case(
    sources: Sequence[Source],
    n: int,
    length: int,
    *,
    batch: str,
    sequence: str,
    rng: np.random.Generator,
    fresh: bool = False,
    full: bool = True,
    sort_lengths: bool = False,
) -> Case:
    """Draw one case of ``n`` rows and ``length`` steps.

    Args:
        sources: the inputs.
        n: size of the batch axis.
        length: size of the time axis.
        batch: the name of the batch axis.
        sequence: the name of the time axis; any further axis gets a size of its own.
        rng: what to draw from.
        fresh: whether every state is at its reset value.
        full: whether one row has all the steps, where the file takes lengths.
        sort_lengths: give lengths in falling order, as ``enforce_sorted=True`` demands.
    """
    names = dict.fromkeys(axis for each in sources for axis in each.axes if isinstance(axis, str))
    sizes = {name: {batch: n, sequence: length}.get(name, 2 + int(rng.integers(9))) for name in names}
    steps = sizes.get(sequence, length)
    feeds = {each.name: _draw(each, sizes, rng, fresh, steps, full) for each in sources}
    if sort_lengths:
        feeds |= {each.name: -np.sort(-feeds[each.name]) for each in sources if each.role == "lengths"}
    return Case(sizes, feeds, fresh)


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
    if example is None or example.size == 0:
        return rng.standard_normal(shape).astype(source.dtype)
    each = tuple(range(example.ndim - isinstance(source.axes[-1], int)))
    centre, spread = example.mean(axis=each), example.std(axis=each)
    noise = rng.standard_normal(shape)
    return np.asarray(centre + np.where(spread > 0, spread, 1.0) * noise).astype(source.dtype)
