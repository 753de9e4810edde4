"""Verification: a file's graph against its reference in float64, and an engine in float32 against the graph.

``record_golden`` keeps a few kB of inputs and of the graph's outputs, which travel in the file.
``run_in_chunks`` compares a sequence fed in chunks, states carried, with the whole.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lstm_edge_runtime.axes import row_factor
from lstm_edge_runtime.chunks import Runner, run_chunks, take_steps
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.tolerance import MULTIPLE, Comparison

from ..verify.cases import Case, CaseGenerator, Feeds, in_chunks, random_sizes, whole
from .compare import (
    REFUSALS,
    Agreement,
    Compared,
    Equality,
    Expected,
    Function,
    GraphError,
    Measured,
    RefusedError,
    Strength,
    channel_limits,
    compare_within,
    expected,
    fixed_axes,
    floors_of,
    largest,
    measure,
    run_file,
)

_ROUNDED = 24
"""Rows times steps up to which an engine's rounding is verified; of larger cases that float64 compared
only that they run, unless all are larger: then it is verified on the smallest."""
_SAME = 1e-9
"""How far apart two float64 evaluations of a graph may be that add in another order."""


class StatesRefusedError(CheckFailedError):
    """A module runs when it is called plainly, but not from the states that the file carries."""


@dataclass(frozen=True)
class Equivalence(Compared):
    """What a verification found; its records are those of the engine beside the graph in float64."""

    records: tuple[Comparison, ...]
    cases: tuple[Case, ...]
    """Every case that was compared."""
    equality: Equality
    """The graph compared with its reference, both in float64."""
    skipped: tuple[tuple[Case, str], ...]
    """Cases that the reference itself refuses, or where it gives NaN, with the reason."""
    unverified: Mapping[str, float]
    """Channels that float32 can't verify (``probability[2]``), and their limit: a sigmoid's 1e-9 can't be
    verified tighter than 4e-7."""

    @property
    def max_abs(self) -> float:
        """The engine's largest absolute difference from float64."""
        return max(each.max_abs for each in self.records)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        return {
            "cases": list(dict.fromkeys(map(str, self.cases))),
            "skipped": [f"{case}: {reason}" for case, reason in self.skipped],
            "float64": self.equality.largest,
            "constants": list(self.equality.constants),
            "max_abs": self.max_abs,
            "max_rel": max(each.max_rel for each in self.records),
            "floor": _bound(max(each.floor for each in self.records)),
            "ratio": self.worst.ratio,
            "worst": str(self.worst),
            "unverified": {name: _bound(limit) for name, limit in self.unverified.items()},
        }


def _bound(value: float) -> float | None:
    """Return a limit for JSON: None where rounding has no bound, as if it may add a step to a row."""
    return value if np.isfinite(value) else None


def verify(file: Function, engine: Runner, cases: Iterable[Case], plain: Runner | None = None) -> Equivalence:
    """Compare a graph with its reference on every case, and an engine with the graph on the smaller ones.

    Args:
        file: the graph and its reference.
        engine: runs the file in float32.
        cases: the inputs.
        plain: calls the module without the states of the file; only what it refuses too is skipped.

    Raises:
        StatesRefusedError: ``plain`` runs where the reference does not.
        CheckFailedError: an output out of its limit, with the size, the output and the difference; a case
            that the file can't run; or no case that the reference can run.
        GraphError: the graph can't be evaluated in float64 on a case that the engine runs.
    """
    agreed, rounded, skipped = list[Case](), list[Measured](), list[tuple[Case, str]]()
    equality, strength = Equality(), Strength()
    for case in cases:
        found = _agree(file, engine, case, plain)
        if isinstance(found, str):
            skipped.append((case, found))
            continue
        agreed.append(case)
        equality = equality.with_case(found)
        got = _run(engine, case)
        _check_shapes(case, got, file.exact(case.feeds))
        if _extent(case) <= _ROUNDED or not file.in_float64:
            rounded.append(_measure(file, case, got))
    if agreed and not rounded:  # the file takes no small ones
        case = min(agreed, key=_extent)
        rounded.append(_measure(file, case, _run(engine, case)))
    if not rounded:
        reasons = "; ".join(f"{case}: {reason}" for case, reason in skipped[:2])
        raise CheckFailedError(f"the reference gives numbers at no size of the verification ({reasons})")
    for measured in rounded:
        strength.add(measured, file.fixed)
    records = tuple(each for measured in rounded for each in measured.records)
    return Equivalence(records, tuple(agreed), equality, tuple(skipped), strength.found()[1])


def _agree(file: Function, engine: Runner, case: Case, plain: Runner | None) -> Agreement | str:
    """Compare the graph with its reference; return why the reference tells nothing, where it does not."""
    try:
        found = file.compare(case.feeds)
    except GraphError:
        _run(engine, case)
        raise
    except RefusedError as error:
        if plain is not None and _runs(plain, case):
            raise StatesRefusedError(
                f"at {case}: the module runs, but not from the states of the file ({error.reason})"
            ) from error
        return error.reason
    if found.undefined:
        return f"the reference gives NaN in {', '.join(found.undefined)}"
    if not found.ok:
        raise CheckFailedError(f"at {case}: {found.worst}")
    return found


def _runs(plain: Runner, case: Case) -> bool:
    try:
        plain(case.feeds)
    except Exception:  # noqa: BLE001  a module may raise anything at a size that it does not take
        return False
    return True


def _check_shapes(case: Case, got: Feeds, expected: Feeds) -> None:
    for name, array in expected.items():
        if got[name].shape != array.shape:
            raise CheckFailedError(f"at {case}: {name} is {got[name].shape}, expected {array.shape}")


def _extent(case: Case) -> int:
    return math.prod(case.sizes.values())


def _run(engine: Runner, case: Case) -> Feeds:
    try:
        return run_file(engine, case.feeds)
    except GraphError as error:
        raise CheckFailedError(f"at {case}: {error}") from error


def _measure(file: Function, case: Case, got: Feeds) -> Measured:
    exact = file.exact(case.feeds)
    equal = not file.in_float64 and all(np.array_equal(got[name], array) for name, array in exact.items())
    none = {name: np.zeros([1] * array.ndim) for name, array in exact.items()}
    floors = [none] if equal else floors_of(file.graph, case.feeds, file.fixed)
    found = measure(got, exact, floors)
    if not found.ok and not file.graph.overflow(case.feeds):
        raise CheckFailedError(f"at {case}: {next(each for each in found.records if not each.ok)}")
    return found


_SIZES = (((2, 12), (2, 6), (1, 4), (1, 2)), ((1, 5), (3, 3), (1, 3)))
"""``(N, L)`` of the first and of the second case, tried in this order for arrays that are small enough."""
_BYTES = (12_000, 4_000)
_AMPLIFIED = 4.0
"""How far signals of the second case are from their mean, in terms of what is usual: where a value is
clipped or saturates wrongly, it is seen there."""


def record_golden(
    expect: Callable[[Feeds], Expected],
    manifest: Manifest,
    cases: CaseGenerator,
    verified: Sequence[Case] = (),
) -> Golden:
    """Record two cases of different sizes, with states and lengths that are not trivial.

    Args:
        expect: gives the outputs and their noise floors.
        manifest: the file's.
        cases: generates the inputs.
        verified: cases that ``expect`` takes, for where it refuses the usual sizes.

    Raises:
        CheckFailedError: there are numbers for no case.
    """
    usable = {case.sizes.get(str(cases.sequence), 2): case for case in verified}
    least = [usable[length] for length in sorted(usable) if length > 1] or list(usable.values())
    first = _choose(expect, manifest, (*_cases(cases, 0), *least[:1]), _BYTES[0])
    if first is None:
        raise CheckFailedError("the reference gives numbers for no golden case; none can be recorded")
    shapes = {name: array.shape for name, array in first.inputs.items()}
    more = (
        _amplify(case, cases)
        for case in _cases(cases, 1)
        if any(array.shape != shapes[name] for name, array in case.feeds.items())
    )
    second = _choose(expect, manifest, more, _BYTES[1])
    return first._replace(more=() if second is None else (second,))


def golden_case(manifest: Manifest, feeds: Mapping[str, Array], known: Expected) -> Golden:
    """Return a case as files keep it: outputs in the file's dtypes, and a limit for each fixed element.

    Of a state's units the largest limit is kept, one a layer: their number would fill the file.
    """
    dtypes = {spec.name: spec.dtype for spec in manifest.outputs}
    dtypes |= {state.output: state.dtype for state in manifest.states}
    floors, units = dict(known.floors), fixed_axes(manifest)
    for state in manifest.states:
        floors[state.output] = largest(floors[state.output], units[state.output][:-1])
    return Golden(
        feeds,
        {name: np.asarray(array.astype(dtypes[name])) for name, array in known.ref64.items()},
        {name: float(array.max(initial=0.0)) for name, array in floors.items()},
        limits={name: MULTIPLE * array for name, array in floors.items()},
    )


def _cases(cases: CaseGenerator, place: int) -> Iterator[Case]:
    for n, length in _SIZES[place]:
        yield cases.case(n, length, at_reset=False, offset=97 + place, full=True)


def _choose(
    expect: Callable[[Feeds], Expected], manifest: Manifest, cases: Iterable[Case], limit: int
) -> Golden | None:
    """Return the first recorded case of at most ``limit`` bytes, else the last."""
    golden = None
    for case in cases:
        try:
            found = golden_case(manifest, case.feeds, expect(case.feeds))
        except REFUSALS:
            continue
        numbers = not any(np.isnan(array).any() for array in found.outputs.values())
        if numbers and all(np.isfinite(array).all() for array in found.limits.values()):
            golden = found
            if sum(array.nbytes for array in (*found.inputs.values(), *found.outputs.values())) <= limit:
                break
    return golden


def _amplify(case: Case, cases: CaseGenerator) -> Case:
    feeds = dict(case.feeds)
    for spec in cases.inputs:
        array = feeds[spec.name]
        if spec.role == "signal" and array.dtype.kind == "f":
            center = array.mean(axis=tuple(range(array.ndim - 1)), dtype=np.float64)
            feeds[spec.name] = np.asarray(center + _AMPLIFIED * (array - center), array.dtype)
    return replace(case, feeds=feeds)


_STEPS = 24
"""Steps that are fed in chunks, beside those that the states of operators along time hold."""
_MOST_REACHED = 256
"""Of these at the most."""
_SHORT = 7
"""Steps of the rows that are compared with and without padding behind them."""
_PLANS = 3
"""Random ways to split the sequence."""


@dataclass(frozen=True)
class ChunkRun(Compared):
    """How a file fed in chunks compares with the whole."""

    sizes: tuple[int, ...]
    records: tuple[Comparison, ...] = ()
    error: Exception | None = None
    """What a chunk ended in; nothing is compared then."""
    in_float: bool = False
    """Whether the file is quantized and its float twin was compared; see ``lift.quantized``."""

    @property
    def ok(self) -> bool:
        """Whether chunks equal the whole."""
        return self.error is None and super().ok


def chunked_steps(reach: int) -> int:
    """Return how many steps are fed in chunks; ``reach`` is what states of operators along time hold."""
    return _STEPS + min(reach, _MOST_REACHED)


@dataclass(frozen=True)
class ChunkedFile:
    """A file that can be fed in chunks."""

    manifest: Manifest
    """Its states, axes and lengths."""
    run: Runner
    """Runs it."""
    lengths: tuple[str, ...]
    """Inputs that give each row's count of steps."""
    function: Function | None = None
    """Its graph, and whose whole it is; None where ``run`` is in float64, and gives its own."""

    @property
    def itself(self) -> "ChunkedFile":
        """The same, compared with its own whole."""
        return replace(self, function=self.function and replace(self.function, reference=self.function.graph))

    @property
    def exact(self) -> Runner:
        """Runs it in float64 where that can be."""
        return self.function.graph.run64 if self.function else self.run

    def compare(self, one: Feeds, other: Feeds, feeds: Feeds) -> tuple[Comparison, ...]:
        """Compare two runs of ``exact`` on every output of the first; ``feeds`` gave the second."""
        if self.function and not self.function.in_float64:
            floors = expected(self.function.graph, feeds, self.function.fixed).floors
            limits = {name: MULTIPLE * array for name, array in floors.items()}
        else:
            limits = channel_limits({name: other[name] for name in one}, _SAME, fixed_axes(self.manifest))
        return compare_within(one, other, {name: limits[name] for name in one})

    def full(self, run: Runner) -> Runner:
        """Return ``run`` with every row at the full length of its chunk."""
        return lambda feeds: run({**feeds, **self.with_lengths(feeds, self.manifest.steps(feeds))})

    def with_lengths(self, feeds: Mapping[str, Array], steps: int | Array) -> dict[str, Array]:
        """Return the inputs that are lengths, with ``steps`` for every row."""
        return {
            name: np.broadcast_to(np.asarray(steps, feeds[name].dtype), feeds[name].shape)
            for name in self.lengths
        }


def run_in_chunks(file: ChunkedFile, feeds: Mapping[str, Array], rng: np.random.Generator) -> ChunkRun:
    """Compare chunks of several random sizes with the whole sequence, and return the run farthest from it.

    ``feeds`` holds every input for the whole sequence, states at their reset values.
    """
    runs = []
    for _ in range(_PLANS):
        unit = file.manifest.unit
        sizes = tuple(unit * units for units in random_sizes(file.manifest.steps(feeds) // unit, rng))
        chunked = partial(_chunked, file, sizes)
        try:
            chunks = chunked(file.run, feeds)
            if file.function and file.function.in_float64:
                comparisons = file.function.compare(feeds, chunked, whole).records
            else:
                comparisons = file.compare(chunks, file.full(file.run)(feeds), feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return ChunkRun(sizes, error=error)
        runs.append(ChunkRun(sizes, comparisons))
    return max(runs, key=lambda each: each.worst.ratio)


def _chunked(file: ChunkedFile, sizes: Sequence[int], run: Runner, feeds: Feeds) -> Feeds:
    return in_chunks(file.manifest, sizes)(file.full(run), feeds)


def find_counts(file: ChunkedFile, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the outputs of whole numbers whose values in two chunks add up to those of the whole.

    ``feeds`` holds every input for the whole sequence, states at their reset values.
    """
    time = file.manifest.time_axes
    outputs = {spec.name: np.dtype(spec.dtype) for spec in file.manifest.outputs}
    names = [name for name, dtype in outputs.items() if dtype.kind in "iu" and name not in time]
    if not names:
        return ()
    run, steps = file.full(file.run), file.manifest.steps(feeds)
    try:
        whole = run(feeds)
        early = steps // 3 // file.manifest.unit * file.manifest.unit
        first, last = run_chunks(run, file.manifest, feeds, [early, steps - early])
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return ()
    return tuple(
        name
        for name in names
        if first[name].shape == whole[name].shape
        and np.all(first[name] > 0)
        and np.array_equal(first[name] + last[name], whole[name])
    )


def states_stop_at_lengths(file: ChunkedFile, feeds: Mapping[str, Array]) -> bool:
    """Return whether what stands behind a row's length leaves its last states alone, as packing has it.

    ``feeds`` holds every input for 14 steps or more, states at their reset values.
    """
    if not file.lengths or not file.manifest.states:
        return True
    lengths = file.with_lengths(feeds, _SHORT)
    cut = {**take_steps(file.manifest.time_axes, feeds, 0, _SHORT), **lengths}
    try:
        padded, alone = file.exact({**feeds, **lengths}), file.exact(cut)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return False
    return _states_agree(file, padded, alone, cut)


def take_rows(manifest: Manifest, arrays: Feeds, row: int, rows: int) -> dict[str, Array]:
    """Return what of inputs or outputs belongs to one of their ``rows``, and what has no batch axis."""
    taken = dict(arrays)
    for name, array in arrays.items():
        for place, axis in enumerate(manifest.axes.get(name, ())):
            if row_factor(axis, manifest.batch) is not None:
                taken[name] = array.take(range(row, array.shape[place], rows), axis=place)
    return taken


def rows_keep_states(file: ChunkedFile, feeds: Feeds) -> bool:
    """Return whether a row's state stays its own when rows of unequal length change places from call to call.

    Two chunks are run in which the rows' lengths rise and fall, and each row's steps by themselves. Padding
    leaves states alone, and each has a batch axis; ``feeds`` holds two rows of 14 steps or more, from reset.
    """
    manifest = file.manifest
    if not file.lengths or not manifest.states:
        return True
    rows = feeds[file.lengths[0]].size
    rising = np.linspace(1, _SHORT, rows).astype(np.int64)
    ends: dict[str, Array] = {}
    for place, lengths in enumerate((rising, rising[::-1])):
        chunk = take_steps(manifest.time_axes, feeds, place * _SHORT, (place + 1) * _SHORT)
        start = {state.input: ends[state.output] for state in manifest.states if ends}
        results = file.exact({**chunk, **file.with_lengths(feeds, lengths), **start})
        ends = {state.output: results[state.output] for state in manifest.states}
    for row in range(rows):
        own = take_rows(manifest, feeds, row, rows)
        first, second = int(rising[row]), int(rising[rows - 1 - row])
        kept = [*range(first), *range(_SHORT, _SHORT + second)]
        own |= {name: own[name].take(kept, axis) for name, axis in manifest.time_axes.items() if name in own}
        own |= file.with_lengths(own, len(kept))
        if not _states_agree(file, take_rows(manifest, ends, row, rows), file.exact(own), own):
            return False
    return True


def _states_agree(file: ChunkedFile, one: Feeds, other: Feeds, feeds: Feeds) -> bool:
    """Return whether the states of two runs agree; ``feeds`` gave the second."""
    states = {state.output: one[state.output] for state in file.manifest.states}
    return all(each.ok for each in file.compare(states, other, feeds))
