"""The cases that a file and its reference are compared on: sizes, states, lengths and tokens.

A ``CaseGenerator`` generates random inputs of any size for a model's inputs (``InputSpec``): signals at the
example's own scale, feature by feature; indices over their whole valid range where it is known; states at
their reset value or at random; lengths at random. The same seed, size and offset give the same case, whatever
was generated before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Axes, Manifest

__all__ = ["GRID", "Case", "CaseGenerator", "InputSpec"]

Array = npt.NDArray[Any]

GRID = ((1, 1), (1, 5), (3, 8), (4, 1), (2, 33), (5, 130))
"""The ``(N, L)`` of a verification; none is the traced one. Every third starts from the reset states."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the file and what to generate for it."""

    name: str
    dtype: str
    axes: Axes
    role: str = "signal"
    """``signal``, ``state`` or ``lengths``."""
    example: Array | None = None
    """Values as they really come: a float input is drawn at the mean and spread of each feature (its last
    axis), an integer one between the least and the greatest where ``values`` is unknown."""
    reset: float | Array = 0.0
    """For a state: its value at the start of a stream."""
    values: int | None = None
    """For an index: how many values are valid, from 0, such as the rows of an embedding's table."""


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison."""

    sizes: Mapping[str, int]
    """Each dynamic axis's size."""
    feeds: Mapping[str, Array]
    """Every input of the file by name."""
    at_reset: bool
    """Whether every state is at its reset value."""

    def __str__(self) -> str:
        """Say the sizes: ``N=1, L=5, states at reset``."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"{sizes or 'fixed sizes'}{', states at reset' if self.at_reset else ''}"


@dataclass(frozen=True)
class CaseGenerator:
    """Generates cases."""

    inputs: tuple[InputSpec, ...]
    batch: str | None
    """The name of the batch axis."""
    sequence: str | None
    """The name of the time axis; a further axis gets sizes of its own."""
    seed: int = 0
    sorted_lengths: bool = False
    """Whether lengths come in falling order, as ``enforce_sorted=True`` demands."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        examples: Mapping[str, Array] | None = None,
        values: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> "CaseGenerator":
        """Generate cases for the inputs that a manifest names.

        Args:
            manifest: names, dtypes, axes and reset values.
            examples: values as they really come, by input name.
            values: how many values are valid, for inputs that are indices.
            seed: of everything that is drawn.
        """
        plain = (
            InputSpec(
                spec.name,
                spec.dtype,
                spec.axes,
                "lengths" if spec.name == manifest.lengths else "signal",
                (examples or {}).get(spec.name),
                values=(values or {}).get(spec.name),
            )
            for spec in manifest.inputs
        )
        states = (
            InputSpec(state.input, state.dtype, state.axes, "state", reset=state.reset)
            for state in manifest.states
        )
        return cls((*plain, *states), manifest.batch, manifest.sequence, seed)

    def cases(self, grid: Sequence[tuple[int, int]] = GRID) -> Iterator[Case]:
        """Generate one case for every ``(N, L)`` of ``grid``."""
        for place, (n, length) in enumerate(grid):
            yield self.case(n, length, at_reset=place % 3 == 0, offset=place, full=place % 2 == 0)

    def case(self, n: int, length: int, *, at_reset: bool, offset: int = 0, full: bool = False) -> Case:
        """Generate one case.

        Args:
            n: the batch axis's size.
            length: the time axis's size.
            at_reset: states at their reset value instead of random ones.
            offset: added to the seed: another case for another number.
            full: let at least one row have ``length`` valid steps.
        """
        rng = np.random.default_rng((self.seed, offset, n, length))
        known = {self.batch: n, self.sequence: length}
        names = dict.fromkeys(axis for each in self.inputs for axis in each.axes if isinstance(axis, str))
        sizes = {name: known[name] if name in known else 2 + int(rng.integers(9)) for name in names}
        steps = sizes.get(str(self.sequence), min(self._fixed_steps(), length))
        feeds = {}
        for each in self.inputs:
            shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in each.axes)
            if each.role == "lengths":
                feeds[each.name] = self._lengths(each, shape, steps, rng, full)
            elif each.role == "state":
                feeds[each.name] = _state(each, shape, rng, at_reset)
            else:
                feeds[each.name] = _signal(each, shape, rng)
        return Case(sizes, feeds, at_reset)

    def with_sorted_lengths(self) -> "CaseGenerator":
        """Return the same generator with lengths in falling order."""
        return replace(self, sorted_lengths=True)

    def _fixed_steps(self) -> int:
        """Return what lengths may be at most where the time axis is fixed."""
        largest = [
            int(each.example.max())
            for each in self.inputs
            if each.role == "lengths" and each.example is not None
        ]
        return max(largest, default=1)

    def _lengths(
        self, spec: InputSpec, shape: tuple[int, ...], steps: int, rng: np.random.Generator, full: bool
    ) -> Array:
        lengths = rng.integers(1, steps + 1, shape)
        if full:
            lengths[rng.integers(len(lengths))] = steps
        if self.sorted_lengths:
            lengths = -np.sort(-lengths)
        return lengths.astype(spec.dtype)


def _state(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, at_reset: bool) -> Array:
    reset: Array = np.broadcast_to(np.asarray(spec.reset, spec.dtype), shape).copy()
    return reset if at_reset else np.asarray(reset + 0.7 * rng.standard_normal(shape), spec.dtype)


def _signal(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    example = spec.example
    if np.dtype(spec.dtype).kind in "iub":
        if spec.values:
            return _indices(spec.values, shape, rng).astype(spec.dtype)
        if example is None or example.size == 0:
            return np.zeros(shape, spec.dtype)
        return rng.integers(int(example.min()), int(example.max()) + 1, shape).astype(spec.dtype)
    noise = rng.standard_normal(shape)
    if example is None or example.size == 0:
        return np.asarray(noise, spec.dtype)
    by_feature = example.ndim > 1 and isinstance(spec.axes[-1], int) and example[..., 0].size > 1
    over = tuple(range(example.ndim - 1)) if by_feature else None
    center, spread = example.mean(axis=over, dtype=np.float64), example.std(axis=over, dtype=np.float64)
    return np.asarray(center + np.where(spread > 0, spread, 1.0) * noise, spec.dtype)


def _indices(values: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw indices below ``values``, each at most once where they suffice.

    As many as fit are the first two, which often stand for padding and for unknown tokens, and the last.
    """
    count = int(np.prod(shape))
    drawn = rng.choice(values, count, replace=count > values)
    edges = rng.permutation(list(dict.fromkeys((0, min(1, values - 1), values - 1))))[:count]
    drawn[rng.choice(count, len(edges), replace=False)] = edges
    return np.asarray(drawn.reshape(shape))
