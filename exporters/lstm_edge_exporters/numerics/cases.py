"""The cases that a file and its reference are compared on: sizes, states and lengths.

A ``Drawing`` knows the inputs of a file (``Source``) and gives named arrays for any size: signals at the
example's own scale, feature by feature; indices between the example's least and greatest; states at their
reset value or at random; lengths at random. The same drawing gives the same cases, whatever was drawn before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Axes

__all__ = ["GRID", "Case", "Drawing", "Source"]

Array = npt.NDArray[Any]

GRID = ((1, 1), (1, 5), (3, 8), (4, 1), (2, 33), (5, 130))
"""The ``(N, L)`` of a proof; none is the traced one. Every third starts from the reset states."""
_LARGER = ((2, 64), (1, 257))
"""Added where the reference refuses short sequences."""


@dataclass(frozen=True)
class Source:
    """One input of the file and what to draw for it."""

    name: str
    dtype: str
    axes: Axes
    role: str = "signal"
    """``signal``, ``state`` or ``lengths``."""
    example: Array | None = None
    """Values as they really come: a float input is drawn at the mean and spread of each feature (its last
    axis), an integer one from between the least and the greatest."""
    reset: float | Array = 0.0
    """For a state: its value at the start of a stream."""


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison."""

    sizes: Mapping[str, int]
    """Each dynamic axis's size."""
    feeds: Mapping[str, Array]
    """Every input of the file by name."""
    fresh: bool
    """Whether every state is at its reset value."""

    def __str__(self) -> str:
        """Say the sizes: ``N=1, L=5, states at reset``."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"{sizes or 'fixed sizes'}{', states at reset' if self.fresh else ''}"


@dataclass(frozen=True)
class Drawing:
    """Draws cases."""

    sources: tuple[Source, ...]
    batch: str | None
    """The name of the batch axis."""
    sequence: str | None
    """The name of the time axis; a further axis gets sizes of its own."""
    seed: int = 0
    sorted_lengths: bool = False
    """Whether lengths come in falling order, as ``enforce_sorted=True`` demands."""

    def cases(self, grid: Sequence[tuple[int, int]] = GRID) -> Iterator[Case]:
        """Draw one case for every ``(N, L)`` of ``grid``."""
        for place, (n, length) in enumerate(grid):
            yield self.case(n, length, fresh=place % 3 == 0, salt=place, full=place % 2 == 0)

    def case(self, n: int, length: int, *, fresh: bool, salt: int = 0, full: bool = False) -> Case:
        """Draw one case.

        Args:
            n: the batch axis's size.
            length: the time axis's size.
            fresh: states at their reset value instead of random ones.
            salt: another draw for another number.
            full: let at least one row have ``length`` valid steps.
        """
        rng = np.random.default_rng((self.seed, salt, n, length))
        known = {self.batch: n, self.sequence: length}
        names = dict.fromkeys(axis for each in self.sources for axis in each.axes if isinstance(axis, str))
        sizes = {name: known[name] if name in known else 2 + int(rng.integers(9)) for name in names}
        steps = sizes.get(str(self.sequence), min(self._fixed_steps(), length))
        feeds = {}
        for each in self.sources:
            shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in each.axes)
            if each.role == "lengths":
                feeds[each.name] = self._lengths(each, shape, steps, rng, full)
            elif each.role == "state":
                feeds[each.name] = _state(each, shape, rng, fresh)
            else:
                feeds[each.name] = _signal(each, shape, rng)
        return Case(sizes, feeds, fresh)

    def with_sorted_lengths(self) -> "Drawing":
        """Return the same drawing with lengths in falling order."""
        return replace(self, sorted_lengths=True)

    def _fixed_steps(self) -> int:
        """Return what lengths may be at most where the time axis is fixed."""
        largest = [
            int(each.example.max())
            for each in self.sources
            if each.role == "lengths" and each.example is not None
        ]
        return max(largest, default=1)

    def _lengths(
        self, source: Source, shape: tuple[int, ...], steps: int, rng: np.random.Generator, full: bool
    ) -> Array:
        lengths = rng.integers(1, steps + 1, shape)
        if full:
            lengths[rng.integers(len(lengths))] = steps
        if self.sorted_lengths:
            lengths = -np.sort(-lengths)
        return lengths.astype(source.dtype)


def _state(source: Source, shape: tuple[int, ...], rng: np.random.Generator, fresh: bool) -> Array:
    reset: Array = np.broadcast_to(np.asarray(source.reset, source.dtype), shape).copy()
    return reset if fresh else np.asarray(reset + 0.7 * rng.standard_normal(shape), source.dtype)


def _signal(source: Source, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    example = source.example
    if np.dtype(source.dtype).kind in "iub":
        if example is None or example.size == 0:
            return np.zeros(shape, source.dtype)
        return rng.integers(int(example.min()), int(example.max()) + 1, shape).astype(source.dtype)
    noise = rng.standard_normal(shape)
    if example is None or example.size == 0:
        return np.asarray(noise, source.dtype)
    by_feature = example.ndim > 1 and isinstance(source.axes[-1], int) and example[..., 0].size > 1
    over = tuple(range(example.ndim - 1)) if by_feature else None
    center, spread = example.mean(axis=over, dtype=np.float64), example.std(axis=over, dtype=np.float64)
    return np.asarray(center + np.where(spread > 0, spread, 1.0) * noise, source.dtype)
