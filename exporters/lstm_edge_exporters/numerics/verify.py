"""Verification: a file run in onnxruntime beside its reference, case by case, by the one tolerance policy.

``verify`` raises on the first output out of its limit. A reference is a ``noise.PerturbableReference``; a
candidate is anything callable on named arrays. ``record_golden`` keeps a few kB of inputs and of the
reference's outputs, which travel in the file. ``run_in_chunks`` compares a file with itself: a sequence fed
in chunks, states carried, with the whole.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lstm_edge_runtime.errors import CheckFailedError, first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.state import Runner, run_chunks, take_steps
from lstm_edge_runtime.tolerance import MULTIPLE, Comparison, compare

from .cases import Case, CaseGenerator, closed_loop, in_chunks, random_sizes
from .noise import MAX_RELATIVE_FLOOR, PerturbableReference, compare_outputs, expected, is_noise, unverified

__all__ = [
    "ChunkRun",
    "ChunkedFile",
    "Equivalence",
    "StatesRefusedError",
    "compare_closed_loop",
    "find_counts",
    "golden_case",
    "record_golden",
    "rows_keep_states",
    "run_in_chunks",
    "states_stop_at_lengths",
    "verify",
]


class StatesRefusedError(CheckFailedError):
    """A module runs when it is called plainly, but not from the states that the file carries."""


@dataclass(frozen=True)
class Equivalence:
    """What a verification found."""

    comparisons: tuple[tuple[Case, Comparison], ...]
    skipped: tuple[tuple[Case, str], ...] = ()
    """Cases that the reference itself refuses, or where it gives NaN, with the reason."""
    noise: Mapping[str, int] = field(default_factory=dict)
    """By output: cases in which float32 leaves the reference itself no digit, and nothing was compared."""
    unverified: Mapping[str, float] = field(default_factory=dict)
    """Channels (``probability[2]``) whose values are below what float32 can tell in every case, with the
    absolute limit they were held to: a sigmoid's 1e-9 can't be verified tighter than about 4e-7."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case that was compared."""
        return tuple({id(case): case for case, _ in self.comparisons}.values())

    @property
    def worst(self) -> Comparison:
        """The comparison nearest to its limit."""
        return max((each for _, each in self.comparisons), key=lambda each: each.ratio)

    @property
    def max_abs(self) -> float:
        """The largest absolute difference from float64."""
        return max(each.max_abs for _, each in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        cases = list(dict.fromkeys(str(case) for case, _ in self.comparisons))
        return {
            "cases": cases,
            "skipped": [f"{case}: {reason}" for case, reason in self.skipped],
            "max_abs": self.max_abs,
            "max_rel": max(each.max_rel for _, each in self.comparisons),
            "floor": max(each.floor for _, each in self.comparisons),
            "ratio": self.worst.ratio,
            "worst": str(self.worst),
            "noise": dict(self.noise),
            "unverified": dict(self.unverified),
        }


def verify(
    candidate: Runner,
    reference: PerturbableReference,
    cases: Iterable[Case],
    plain: Runner | None = None,
) -> Equivalence:
    """Compare ``candidate`` with ``reference`` on every case.

    Args:
        candidate: runs the file.
        reference: what it is compared with.
        cases: the inputs.
        plain: calls the module without the states of the file; only what it refuses too is skipped.

    Raises:
        StatesRefusedError: ``plain`` runs where ``reference`` does not.
        CheckFailedError: an output out of its limit, with the size, the output and the difference; a case
            that the candidate can't run; no case that the reference can run; or an output that the reference
            itself computes to no digit in most cases.
    """
    comparisons: list[tuple[Case, Comparison]] = []
    skipped: list[tuple[Case, str]] = []
    limits: list[dict[str, float]] = []
    noise: Counter[str] = Counter()
    for case in cases:
        try:
            known = expected(reference, case.feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            if plain is not None and _runs(plain, case):
                raise StatesRefusedError(
                    f"at {case}: the module runs, but not from the states of the file ({first_line(error)})"
                ) from error
            skipped.append((case, first_line(error)))
            continue
        if undefined := [name for name, array in known.ref64.items() if np.isnan(array).any()]:
            skipped.append((case, f"the reference gives NaN in {', '.join(undefined)}"))
            continue
        try:
            got = candidate(case.feeds)
        except Exception as error:
            raise CheckFailedError(f"at {case}: the file does not run: {first_line(error)}") from error
        for each in compare_outputs(got, known):
            if is_noise(known.ref32[each.name], known.ref64[each.name]):
                noise[each.name] += 1
                continue
            if not each.ok:
                raise CheckFailedError(f"at {case}: {each}")
            comparisons.append((case, each))
        limits.append(unverified(known))
    for name, count in noise.items():
        if 2 * count > len(limits):
            raise CheckFailedError(
                f"float32 and float64 runs of the reference give {name} that differ by more than "
                f"{MAX_RELATIVE_FLOOR:.0%} in {count} of {len(limits)} cases; no difference can be told from "
                "such noise"
            )
    if not comparisons:
        reasons = "; ".join(f"{case}: {reason}" for case, reason in skipped[:2])
        raise CheckFailedError(f"the reference gives numbers at no size of the verification ({reasons})")
    always = {name: limit for name, limit in limits[0].items() if all(name in each for each in limits)}
    return Equivalence(tuple(comparisons), tuple(skipped), dict(noise), always)


def compare_closed_loop(
    run: Runner,
    states: Mapping[str, str],
    reference: PerturbableReference,
    own: Mapping[str, str],
    feeds: Mapping[str, Array],
) -> tuple[Comparison, ...]:
    """Compare a file with its reference, both called again and again from the states that they left.

    Two states that are swapped show here, as they do not in one call.

    Args:
        run: runs the file.
        states: the pairing that its manifest declares, input name to output name.
        reference: what it is compared with.
        own: the pairing of the reference.
        feeds: every input of the first call; all calls have the same data.

    Raises:
        RuntimeError, ValueError, IndexError: what the reference raises where it refuses the inputs.
    """
    known = expected(reference, feeds, closed_loop(own))
    return tuple(compare_outputs(closed_loop(states)(run, feeds), known))


def _runs(plain: Runner, case: Case) -> bool:
    try:
        plain(case.feeds)
    except Exception:  # noqa: BLE001  a module may raise anything at a size that it does not take
        return False
    return True


_SIZES = (((2, 12), (2, 6), (1, 4), (1, 2)), ((1, 5), (3, 3), (1, 3)))
"""``(N, L)`` of the first and of the second case, tried in this order for arrays that are small enough."""
_BYTES = (12_000, 4_000)
_AMPLIFIED = 4.0
"""How far signals of the second case are from their mean, in terms of what is usual: where a value is
clipped or saturates wrongly, it is seen there."""


def record_golden(
    reference: PerturbableReference, cases: CaseGenerator, verified: Sequence[Case] = ()
) -> Golden:
    """Record two cases of different sizes, with states and lengths that are not trivial.

    Args:
        reference: gives the outputs.
        cases: generates the inputs.
        verified: cases that the reference runs; the smallest of several steps is taken where it refuses the
            usual sizes.

    Raises:
        CheckFailedError: the reference gives numbers for no case.
    """
    usable = {case.sizes.get(str(cases.sequence), 2): case for case in verified}
    least = [usable[length] for length in sorted(usable) if length > 1] or list(usable.values())
    first = _choose(reference, (*_cases(cases, 0), *least[:1]), _BYTES[0])
    if first is None:
        raise CheckFailedError("the reference gives numbers for no golden case; none can be recorded")
    more = [case for case in _cases(cases, 1) if _shapes(case.feeds) != _shapes(first.inputs)]
    second = _choose(reference, [_amplify(case, cases) for case in more], _BYTES[1])
    return first._replace(more=() if second is None else (second,))


def golden_case(
    feeds: Mapping[str, Array], outputs: Mapping[str, Array], floors: Mapping[str, Array]
) -> Golden:
    """Return a case as files keep it: of each output's noise floors the largest."""
    return Golden(feeds, outputs, {name: float(array.max(initial=0.0)) for name, array in floors.items()})


def _cases(cases: CaseGenerator, place: int) -> Iterator[Case]:
    for n, length in _SIZES[place]:
        yield cases.case(n, length, at_reset=False, offset=97 + place, full=True)


def _choose(reference: PerturbableReference, cases: Iterable[Case], limit: int) -> Golden | None:
    """Return the first recorded case of at most ``limit`` bytes, else the last."""
    recorded = None
    for case in cases:
        recorded = _record(reference, case) or recorded
        if recorded is not None and _size(recorded) <= limit:
            break
    return recorded


def _record(reference: PerturbableReference, case: Case) -> Golden | None:
    try:
        known = expected(reference, case.feeds)
    except (RuntimeError, ValueError, IndexError):
        return None
    outputs = {name: np.asarray(known.ref64[name].astype(array.dtype)) for name, array in known.ref32.items()}
    if any(np.isnan(array).any() for array in outputs.values()):
        return None
    if not all(np.isfinite(array).all() for array in known.floors.values()):
        return None
    limits = {name: MULTIPLE * array for name, array in known.floors.items()}
    return golden_case(case.feeds, outputs, known.floors)._replace(limits=limits)


def _amplify(case: Case, cases: CaseGenerator) -> Case:
    feeds = dict(case.feeds)
    for spec in cases.inputs:
        array = feeds[spec.name]
        if spec.role == "signal" and array.dtype.kind == "f":
            center = array.mean(axis=tuple(range(array.ndim - 1)), dtype=np.float64)
            feeds[spec.name] = np.asarray(center + _AMPLIFIED * (array - center), array.dtype)
    return replace(case, feeds=feeds)


def _shapes(feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds.items()}


def _size(golden: Golden) -> int:
    return sum(array.nbytes for array in (*golden.inputs.values(), *golden.outputs.values()))


Floors = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Gives the outputs' noise floors for every input by name."""

_SHORT = 7
"""Steps of the rows that are compared with and without padding behind them."""
_PLANS = 3
"""Random ways to split the sequence."""


@dataclass(frozen=True)
class ChunkRun:
    """How a file fed in chunks compares with the whole."""

    sizes: tuple[int, ...]
    comparisons: tuple[Comparison, ...] = ()
    error: Exception | None = None
    """What a chunk ended in; nothing is compared then."""
    in_float: bool = False
    """Whether the file is quantized and its float twin was compared; see ``lift.quantized``."""

    @property
    def ok(self) -> bool:
        """Whether chunks equal the whole."""
        return self.error is None and self.worst.ok

    @property
    def worst(self) -> Comparison:
        """The output that is nearest to its limit, or farthest past it."""
        return max(self.comparisons, key=lambda each: each.ratio)


@dataclass(frozen=True)
class ChunkedFile:
    """A file that can be fed in chunks."""

    manifest: Manifest
    """Its states, axes and lengths."""
    run: Runner
    """Runs it."""
    lengths: tuple[str, ...]
    """Inputs that give each row's count of steps."""

    def full(self, run: Runner) -> Runner:
        """Return ``run`` with every row at the full length of its chunk."""

        def run_full(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            return run({**feeds, **self.with_lengths(feeds, self.manifest.steps(feeds))})

        return run_full

    def with_lengths(self, feeds: Mapping[str, Array], steps: int | Array) -> dict[str, Array]:
        """Return the inputs that are lengths, with ``steps`` for every row."""
        return {
            name: np.broadcast_to(np.asarray(steps, feeds[name].dtype), feeds[name].shape)
            for name in self.lengths
        }


def run_in_chunks(
    file: ChunkedFile, feeds: Mapping[str, Array], floors: Mapping[str, Array], rng: np.random.Generator
) -> ChunkRun:
    """Compare the whole sequence with chunks of several random sizes, and return the run farthest from it.

    Args:
        file: the file.
        feeds: every input for the whole sequence, states at their reset values.
        floors: noise floors of the outputs for ``feeds``; see ``numerics.noise``.
        rng: draws the sizes.
    """
    run, runs = file.full(file.run), []
    whole = run(feeds)
    for _ in range(_PLANS):
        sizes = tuple(random_sizes(file.manifest.steps(feeds), rng))
        try:
            chunks = in_chunks(file.manifest, sizes)(run, feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return ChunkRun(sizes, error=error)
        comparisons = tuple(
            compare(name, array, whole[name], floor=floors[name] if array.dtype.kind == "f" else 0.0)
            for name, array in chunks.items()
        )
        runs.append(ChunkRun(sizes, comparisons))
    return max(runs, key=lambda each: each.worst.ratio)


def find_counts(file: ChunkedFile, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the outputs of whole numbers whose values in two chunks add up to those of the whole.

    Args:
        file: the file.
        feeds: every input for the whole sequence, states at their reset values.
    """
    time = file.manifest.time_axes
    outputs = {spec.name: np.dtype(spec.dtype) for spec in file.manifest.outputs}
    names = [name for name, dtype in outputs.items() if dtype.kind in "iu" and name not in time]
    if not names:
        return ()
    run, steps = file.full(file.run), file.manifest.steps(feeds)
    try:
        whole = run(feeds)
        first, last = run_chunks(run, file.manifest, feeds, [steps // 3, steps - steps // 3])
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return ()
    return tuple(
        name
        for name in names
        if first[name].shape == whole[name].shape
        and np.all(first[name] > 0)
        and np.array_equal(first[name] + last[name], whole[name])
    )


def states_stop_at_lengths(file: ChunkedFile, feeds: Mapping[str, Array], floors: Floors) -> bool:
    """Return whether what stands behind a row's length leaves its last states alone, as packing has it.

    Args:
        file: the file.
        feeds: every input for ``2 * _SHORT`` steps or more, states at their reset values.
        floors: gives the outputs' noise floors.
    """
    if not file.lengths or not file.manifest.states:
        return True
    lengths = file.with_lengths(feeds, _SHORT)
    cut = {**take_steps(file.manifest, feeds, 0, _SHORT), **lengths}
    try:
        padded, alone = file.run({**feeds, **lengths}), file.run(cut)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return False
    return _states_agree(file, padded, alone, floors(cut))


def rows_keep_states(
    file: ChunkedFile, feeds: Mapping[str, Array], batch_axes: Mapping[str, int], floors: Floors
) -> bool:
    """Return whether a row's state stays its own when rows of unequal length change places from call to call.

    Two chunks are run in which the rows' lengths rise and fall, and each row's steps by themselves.

    Args:
        file: the file; padding leaves its states alone.
        feeds: every input for two rows and ``2 * _SHORT`` steps or more, states at their reset values.
        batch_axes: input name, states among them, to its batch axis.
        floors: gives the outputs' noise floors.
    """
    if not file.lengths or not file.manifest.states:
        return True
    (rows,) = feeds[file.lengths[0]].shape
    rising = np.linspace(1, _SHORT, rows).astype(np.int64)
    states = {state.input: state.output for state in file.manifest.states}
    results: Mapping[str, Array] = {}
    start: dict[str, Array] = {}
    time = file.manifest.time_axes
    for place, lengths in enumerate((rising, rising[::-1])):
        chunk = take_steps(file.manifest, feeds, place * _SHORT, (place + 1) * _SHORT)
        results = file.run({**chunk, **file.with_lengths(feeds, lengths), **start})
        start = {name: results[output] for name, output in states.items()}
    for row in range(rows):
        own = {
            name: array.take([row], batch_axes[name]) if name in batch_axes else array
            for name, array in feeds.items()
        }
        first, second = int(rising[row]), int(rising[rows - 1 - row])
        kept = [*range(first), *range(_SHORT, _SHORT + second)]
        own |= {name: own[name].take(kept, axis) for name, axis in time.items() if name in own}
        own |= file.with_lengths(own, len(kept))
        alone = file.run(own)
        mine = {output: results[output].take([row], batch_axes[name]) for name, output in states.items()}
        if not _states_agree(file, mine, alone, floors(own)):
            return False
    return True


def _states_agree(
    file: ChunkedFile, one: Mapping[str, Array], other: Mapping[str, Array], floors: Mapping[str, Array]
) -> bool:
    names = [state.output for state in file.manifest.states]
    return all(compare(name, one[name], other[name], floor=floors[name]).ok for name in names)
