"""The cases on which a file is compared with its reference, and the ways to run a case.

A ``CaseGenerator`` draws signals at the example's own scale, feature by feature,
indices over their whole valid range, states at reset or at random, and lengths. The
same seed, size and offset give the same case. A way to run a case is a ``Procedure``:
whole, in chunks with states carried, or row by row.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lstm_edge_runtime.axes import learn_sizes, parse_sum, resolve, row_axis
from lstm_edge_runtime.chunks import Runner, join_chunks, run_chunks
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array, Axes, AxisRange, Manifest

Feeds = Mapping[str, Array]
"""Every input by name."""
Procedure = Callable[[Runner, Feeds], Feeds]
"""A way to run a case, used for a file and for its reference."""

GRID = ((1, 1), (1, 5), (3, 8), (4, 1), (2, 33), (5, 130))
"""The ``(N, L)`` of a verification in addition to the example's, counted from the
smallest size of an axis. Every third starts from the reset states."""
_BEYOND = 2
"""Length of the longest case in multiples of the example's, if the grid does not reach
that far."""
_MANY = 300
"""Number of steps from which one row is compared."""
_LONGEST_CHUNK = 8
_CACHED = 24
"""Number of cases whose results are cached."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the file and its generated values."""

    name: str
    """Name in the graph."""
    dtype: str
    """NumPy's name of the element type."""
    axes: Axes
    """Size of each axis, or its name if it is dynamic."""
    role: str = "signal"
    """``signal``, ``state`` or ``lengths``."""
    example: Array | None = None
    """Typical values: a float input is drawn with the mean and spread of each feature
    (its last axis), an integer input between the smallest and the largest value if
    ``values`` is unknown."""
    reset: float | Array = 0.0
    """For a state: its value at the start of a stream."""
    values: int | None = None
    """For an index: number of valid values, from 0, such as the rows of an embedding's
    table."""
    is_fraction: bool = False
    """True for one fraction of the number of steps per row."""


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison."""

    sizes: Mapping[str, int]
    """Each dynamic axis's size."""
    feeds: Feeds
    """Every input of the file by name."""
    at_reset: bool
    """True if every state is at its reset value."""
    is_long: bool = False
    """True if rounding errors may have grown too far for a comparison in float32."""

    def __str__(self) -> str:
        """Return the sizes and the states: ``N=1, L=5, states at reset``."""
        sizes = [f"{name}={size}" for name, size in self.sizes.items()]
        text = ", ".join(sizes) if sizes else "fixed sizes"
        return f"{text}, states at reset" if self.at_reset else text


class UnsortedLengthsError(RuntimeError):
    """A network packs sequences with ``enforce_sorted=True``, and got other lengths."""


@dataclass(frozen=True)
class CaseGenerator:
    """Generates cases."""

    inputs: tuple[InputSpec, ...]
    """The inputs of the file."""
    batch: str | None
    """The name of the batch axis."""
    sequence: str | None
    """The name of the time axis; other axes get their own sizes."""
    seed: int = 0
    """Seed of all random values."""
    sorted_lengths: bool = False
    """True if lengths come in falling order, as ``enforce_sorted=True`` demands."""
    ranges: Mapping[str, AxisRange] = field(default_factory=dict)
    """The sizes that a named axis may have; any from 1 if left out."""
    held: frozenset[str] = frozenset()
    """States that are at reset in every case: frames of the past, from which no module
    can be started."""
    further_steps: tuple[int, ...] = ()
    """Further numbers of steps to compare at."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        examples: Mapping[str, Array] | None = None,
        values: Mapping[str, int] | None = None,
        seed: int = 0,
        fractions: Collection[str] = (),
    ) -> "CaseGenerator":
        """Return the generator for a manifest's inputs.

        Args:
            manifest: the contract.
            examples: typical values by input.
            values: number of valid values by input that is an index.
            seed: of all random numbers.
            fractions: inputs that are fractions of the number of steps.
        """
        examples = examples or {}
        values = values or {}
        data = [
            InputSpec(
                name=spec.name,
                dtype=spec.dtype,
                axes=spec.axes,
                role="lengths" if spec.name == manifest.lengths else "signal",
                example=examples.get(spec.name),
                values=values.get(spec.name),
                is_fraction=spec.name in fractions,
            )
            for spec in manifest.inputs
        ]
        states = [
            InputSpec(
                name=state.input,
                dtype=state.dtype,
                axes=state.axes,
                role="state",
                example=examples.get(state.input),
                reset=state.reset,
            )
            for state in manifest.states
        ]
        return cls(
            inputs=(*data, *states),
            batch=manifest.batch,
            sequence=manifest.sequence,
            seed=seed,
            ranges=manifest.ranges,
        )

    def cases(self) -> Iterator[Case]:
        """Generate the example, one case for every ``(N, L)`` of ``GRID``, and one well
        above the example.
        """
        example = self.example()
        if example is not None:
            yield example
        sizes = {} if example is None else example.sizes
        for number, (rows, steps) in enumerate(GRID):
            yield self._grid_case(number, rows, steps=steps, example=sizes)
        longest = max(steps for _, steps in GRID)
        others = [size for name, size in sizes.items() if name != self.batch]
        if any(_BEYOND * size > longest for size in others):
            yield self._beyond(sizes)
        for number, steps in enumerate(self.further_steps):
            offset = len(GRID) + 1 + number
            rows = 1 if steps > _MANY else 2
            case = self.case(rows, steps, at_reset=number % 2 == 0, offset=offset)
            yield replace(case, is_long=steps > longest)

    def _grid_case(
        self, number: int, rows: int, steps: int, example: Mapping[str, int]
    ) -> Case:
        """Return a case of ``GRID``; axes other than batch and time are about as long
        as in the example.
        """
        rng = np.random.default_rng((self.seed, number))
        others = {}
        for name, size in example.items():
            most = max(9, _BEYOND * size)
            others[name] = self._range(name).least + int(rng.integers(most))
        return self.case(
            rows + self._range(self.batch).least - 1,
            steps + self._range(self.sequence).least - 1,
            at_reset=number % 3 == 0,
            offset=number,
            full=number % 2 == 0,
            others=others,
        )

    def _beyond(self, example: Mapping[str, int]) -> Case:
        """Return a case well above the example, with two rows."""
        sizes = {name: _BEYOND * size + 1 for name, size in example.items()}
        if self.batch in sizes:
            sizes[self.batch] = 2
        return self.at(sizes, offset=len(GRID))

    def case(
        self,
        n: int,
        length: int,
        *,
        at_reset: bool,
        offset: int = 0,
        full: bool = False,
        others: Mapping[str, int] | None = None,
    ) -> Case:
        """Generate one case.

        Args:
            n: the batch axis's size; the nearest one that the axis takes.
            length: the time axis's size, likewise.
            at_reset: states at their reset value instead of random ones.
            offset: added to the seed: another case for another number.
            full: let at least one row have ``length`` valid steps.
            others: sizes of further axes; those left out are drawn.
        """
        rng = np.random.default_rng((self.seed, offset, n, length))
        known_sizes: dict[str, int] = {
            **(others or {}),
            str(self.batch): n,
            str(self.sequence): length,
        }
        sizes = {}
        for name in self._names():
            is_known = name in known_sizes
            sizes[name] = known_sizes[name] if is_known else 2 + int(rng.integers(9))
        return self._draw(sizes, rng, at_reset=at_reset, full=full)

    def at(self, sizes: Mapping[str, int], offset: int = 0) -> Case:
        """Generate one case from the reset states, with full rows, at a size for every
        named axis.
        """
        rng = np.random.default_rng((self.seed, offset, *sizes.values()))
        return self._draw(sizes, rng, at_reset=True, full=True)

    def count(self, sizes: Mapping[str, int]) -> int:
        """Return how many numbers a case of these sizes has."""
        shapes = (resolve(spec.axes, sizes) or () for spec in self.inputs)
        return sum(map(math.prod, shapes))

    def example(self) -> Case | None:
        """Return the example itself, with other states at reset; None if an input has
        no example.
        """
        if any(spec.example is None for spec in self.inputs if spec.role != "state"):
            return None
        sizes: dict[str, int] = {}
        feeds: dict[str, Array] = {}
        sums_last = sorted(self.inputs, key=lambda spec: "+" in str(spec.axes))
        try:
            for spec in sums_last:
                if spec.example is not None:
                    learn_sizes(
                        spec.name, spec.axes, shape=spec.example.shape, sizes=sizes
                    )
                    feeds[spec.name] = np.asarray(spec.example, spec.dtype)
        except InputError:
            return None
        resets = {spec.name: spec for spec in self.inputs if spec.name not in feeds}
        states = [spec.name for spec in self.inputs if spec.role == "state"]
        at_reset = all(name in resets for name in states)
        for name, state in resets.items():
            shape = resolve(state.axes, sizes) or ()
            feeds[name] = _at_reset(state, shape)
        return Case(sizes, feeds, at_reset)

    def fitted_to(self, run: Runner) -> "CaseGenerator":
        """Return the generator that ``run`` takes: it may pack with
        ``enforce_sorted=True``.
        """
        if not any(spec.role == "lengths" for spec in self.inputs):
            return self
        try:
            for offset in range(3):
                run(self.case(4, 9, at_reset=True, offset=offset).feeds)
        except UnsortedLengthsError:
            return replace(self, sorted_lengths=True)
        except Exception:  # noqa: BLE001, S110  a size that is refused tells nothing; the comparisons will
            pass
        return self

    def _names(self) -> list[str]:
        """Return the names of every axis, those inside sums and products included."""
        names: dict[str, None] = {}
        for spec in self.inputs:
            for axis in spec.axes:
                if isinstance(axis, str):
                    names.update(dict.fromkeys(parse_sum(axis)[0]))
        return [*names]

    def _range(self, name: str | None) -> AxisRange:
        """Return the sizes that an axis may have."""
        return self.ranges.get(name or "", AxisRange())

    def _draw(
        self,
        sizes: Mapping[str, int],
        rng: np.random.Generator,
        at_reset: bool,
        full: bool,
    ) -> Case:
        """Return a case of the nearest allowed sizes."""
        sizes = {name: self._range(name).nearest(size) for name, size in sizes.items()}
        examples = [spec.example for spec in self.inputs if spec.role == "lengths"]
        largest = [example.max() for example in examples if example is not None]
        # a fixed time axis has no size by name
        steps = sizes.get(str(self.sequence)) or int(max(largest, default=1))
        feeds = {}
        for spec in self.inputs:
            shape = resolve(spec.axes, sizes)
            assert shape is not None
            if spec.role == "lengths":
                lengths = _lengths(steps, shape, rng, full=full)
                if self.sorted_lengths:
                    lengths = -np.sort(-lengths)
                feeds[spec.name] = lengths.astype(spec.dtype)
            elif spec.role == "state":
                is_reset = at_reset or spec.name in self.held
                feeds[spec.name] = _state(spec, shape, rng=rng, at_reset=is_reset)
            else:
                feeds[spec.name] = _signal(spec, shape, rng=rng, full=full, steps=steps)
        return Case(sizes, feeds, at_reset)


def _lengths(
    steps: int, shape: tuple[int, ...], rng: np.random.Generator, *, full: bool
) -> Array:
    """Return lengths from 1 to ``steps``; with ``full`` at least one is ``steps``."""
    lengths = np.asarray(rng.integers(1, steps + 1, shape))
    if full:
        lengths.flat[rng.integers(lengths.size)] = steps
    return lengths


def _at_reset(spec: InputSpec, shape: tuple[int, ...]) -> Array:
    """Return a state at its reset value; floats are not rounded to the file's dtype."""
    reset = np.asarray(spec.reset)
    if reset.dtype.kind != "f" or np.dtype(spec.dtype).kind != "f":
        reset = reset.astype(spec.dtype)
    rows: Array = np.broadcast_to(reset, shape).copy()
    return rows


def _state(
    spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, at_reset: bool
) -> Array:
    """Return a random state, or the state at reset."""
    reset = _at_reset(spec, shape)
    if at_reset:
        return reset
    if reset.dtype.kind in "iub":  # counters and flags
        most = 2 if reset.dtype.kind == "b" else 4
        return np.asarray(reset + rng.integers(0, most, shape), spec.dtype)
    return np.asarray(reset + 0.7 * rng.standard_normal(shape), spec.dtype)


def _signal(
    spec: InputSpec,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    full: bool,
    steps: int,
) -> Array:
    """Return values of an input that is neither a state nor lengths."""
    example = spec.example
    if example is not None and not example.size:
        example = None
    kind = np.dtype(spec.dtype).kind
    if spec.is_fraction:
        drawn = np.ones(shape) if full else _fractions(steps, shape, rng)
        return drawn.astype(spec.dtype)
    if spec.values:
        return _indices(spec.values, shape, rng).astype(spec.dtype)
    if kind in "iub":
        low = 0 if example is None else int(example.min())
        high = 1 if example is None else int(example.max()) + 1
        return rng.integers(low, high, shape).astype(spec.dtype)
    noise = rng.standard_normal(shape)
    if example is None:
        return np.asarray(noise, spec.dtype)
    return _as_spread(example, spec, noise).astype(spec.dtype)


def _fractions(steps: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return fractions of ``steps``: whole steps plus a quarter, so that rounding never
    removes a step.
    """
    whole_steps = rng.integers(1, steps + 1, shape)
    return np.asarray(np.minimum(1.0, (whole_steps + 0.25) / steps))


def _as_spread(example: Array, spec: InputSpec, noise: Array) -> Array:
    """Return ``noise`` with mean and spread of an example, per feature if it has
    features.
    """
    has_features = example.ndim > 1 and isinstance(spec.axes[-1], int)
    over = None
    if has_features and example[..., 0].size > 1:
        over = tuple(range(example.ndim - 1))
    center = example.mean(axis=over, dtype=np.float64)
    spread = example.std(axis=over, dtype=np.float64)
    return np.asarray(center + np.where(spread > 0, spread, 1.0) * noise)


def _indices(values: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw indices; some are the first two, often padding and unknown tokens, and the
    last.
    """
    drawn = np.asarray(rng.integers(0, values, shape))
    edges = rng.permutation([0, min(1, values - 1), values - 1])[: drawn.size]
    drawn.flat[rng.choice(drawn.size, len(edges), replace=False)] = edges
    return drawn


def random_sizes(total: int, rng: np.random.Generator) -> list[int]:
    """Cut ``total`` steps into chunks at random, with a single step first and last.

    An output without a time axis comes from the last chunk only; a longer last chunk
    would hide a short look-back.
    """
    sizes = [1]
    while (rest := total - 1 - sum(sizes)) > 0:
        sizes.append(int(rng.integers(1, min(_LONGEST_CHUNK, rest) + 1)))
    return [*sizes, 1] if total > 1 else [1]


def whole(run: Runner, feeds: Feeds) -> Feeds:
    """Run a case in one call."""
    return run(feeds)


def remember(run: Runner) -> Runner:
    """Return ``run`` with its last results cached, as a case is compared in several
    ways.
    """
    results: dict[Any, Feeds] = {}

    def remembered(feeds: Feeds) -> Feeds:
        """Return the outputs of equal feeds without running again."""
        key = tuple(
            (name, array.dtype.str, array.shape, array.tobytes())
            for name, array in sorted(feeds.items())
        )
        outputs = results.pop(key) if key in results else run(feeds)
        results[key] = outputs  # the last used is the last
        if len(results) > _CACHED:
            oldest = next(iter(results))
            del results[oldest]
        return outputs

    return remembered


def in_chunks(manifest: Manifest, sizes: Sequence[int]) -> Procedure:
    """Carry the states from chunk to chunk; return the outputs of one call on the full
    sequence.
    """

    def procedure(run: Runner, feeds: Feeds) -> Feeds:
        """Run the chunks one after the other."""
        chunks = run_chunks(run, manifest, feeds=feeds, sizes=sizes)
        return join_chunks(manifest, list(chunks))

    return procedure


def case_size(manifest: Manifest, feeds: Feeds) -> tuple[int, int]:
    """Return a case's rows and time steps; 1 for an axis without a name."""
    steps = manifest.steps(feeds)
    for name, axes in manifest.axes.items():
        axis = manifest.batch_axis(axes)
        if name in feeds and axis is not None:
            return feeds[name].shape[axis], steps
    return 1, steps


def split_rows(
    manifest: Manifest, feeds: Feeds, count: int = 1
) -> Iterator[dict[str, Array]]:
    """Yield a case's inputs for ``count`` rows at a time.

    An axis of ``k*N`` holds k blocks of N, as a stacked read-out does.
    """
    rows, _ = case_size(manifest, feeds)
    for first in range(0, rows, count):
        rows_feeds = dict(feeds)
        for name, axis in _row_axes(manifest, feeds):
            indices = np.arange(feeds[name].shape[axis]).reshape(-1, rows)
            chosen = indices[:, first : first + count].ravel()
            rows_feeds[name] = feeds[name].take(chosen, axis=axis)
        yield rows_feeds


def _row_axes(manifest: Manifest, arrays: Feeds) -> Iterator[tuple[str, int]]:
    """Yield the name and the axis of rows of each array that has one."""
    for name in arrays:
        axis = row_axis(manifest.axes.get(name, ()), manifest.batch)
        if axis is not None:
            yield name, axis


def row_by_row(manifest: Manifest, run: Runner, count: int = 1) -> Runner:
    """Return a runner that runs ``count`` rows of a batch at a time and joins the
    outputs; see ``split_rows``.
    """

    def alone(feeds: Feeds) -> dict[str, Array]:
        """Run ``count`` rows at a time and join the outputs."""
        results = [run(rows) for rows in split_rows(manifest, feeds, count)]
        joined = dict(results[0])
        for name, axis in _row_axes(manifest, results[0]):
            joined[name] = _join_rows([result[name] for result in results], axis, count)
        return joined

    return alone


def _join_rows(arrays: Sequence[Array], axis: int, count: int) -> Array:
    """Join arrays with blocks of ``count`` rows: first all blocks that come first."""
    blocks = [np.split(array, array.shape[axis] // count, axis) for array in arrays]
    in_order = [np.concatenate(same, axis) for same in zip(*blocks, strict=True)]
    return np.concatenate(in_order, axis)


def full_length(manifest: Manifest, feeds: Feeds) -> dict[str, Array]:
    """Return a case with every row at its full length."""
    name = manifest.lengths
    if name is None:
        return {**feeds}
    return {**feeds, name: np.full_like(feeds[name], manifest.steps(feeds))}


def fill_rows(
    manifest: Manifest, feeds: Feeds, value: float, starts: Sequence[int] | Array
) -> dict[str, Array]:
    """Return a case with ``value`` from step ``starts[row]`` on, in every float input
    of data.

    Rows beyond ``starts`` stay as they are.
    """
    filled = dict(feeds)
    for spec in manifest.data_inputs:
        batch = manifest.batch_axis(spec.axes)
        time = manifest.time_axis(spec.axes)
        if batch is None or feeds[spec.name].dtype.kind != "f":
            continue
        filled[spec.name] = feeds[spec.name].copy()
        rows = np.moveaxis(filled[spec.name], batch, 0)  # a view
        for row, start in zip(range(len(rows)), starts, strict=False):
            if time is not None:
                np.moveaxis(rows[row], time - (batch < time), 0)[int(start) :] = value
            elif not start:
                rows[row] = value
    return filled
