"""Comparing two functions on a case: a file's graph with its reference, and an engine with the graph.

Stage 1, the function: both are evaluated in float64. A valid file agrees to 1e-12 of a channel's largest
value or better, with two exceptions, which are looked for only where the limit is passed:

* constants that the translation introduced, and rounded to float32, are moved by one unit in the last place,
  and what that does is allowed;
* on cases on which float64 itself leaves few digits, what its own rounding does (``noise.Rounding``) is
  allowed. If that reaches the size of the largest output, the case says nothing about any of them: units that
  it switches on and off do not move in proportion.

Stage 2, rounding: the graph is run several times in float64, perturbed as float32 may round. The *noise
floor* of an element of the fixed axes is its largest deviation over all draws, rows and steps, plus half a
unit in the last place. The limit is ``tolerance.MULTIPLE`` floors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from types import MappingProxyType
from typing import Protocol

import numpy as np

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.tolerance import MULTIPLE, Comparison, compare, distance

from ..verify.cases import Feeds, Procedure, whole
from .graph64 import Constants, Graph64, MeasuredGraph, rounded_inverses
from .noise import TINY, Rounding

EQUAL = 1e-11
"""Largest difference between two float64 evaluations of one function, as a fraction of a channel's largest
value."""
DRAWS = 8
"""Perturbed runs of a case."""
FEW_DRAWS = 4
"""With these an engine is compared first: what is within few draws' floors is within those of more."""
MANY_DRAWS = 32
"""Of a case that is beyond its limit: of a single number the largest of few deviations may be small."""
WEAK = 0.1
"""Largest limit, as a fraction of a channel's largest value, at which a comparison verifies the channel."""
_CONSTANTS = 1.5
"""How many times what moving the introduced constants by a unit in the last place does is allowed."""
_ROUNDINGS = 64.0
"""How many times what float64's own rounding does is allowed."""
_DRAWS = (4, 16)
"""Perturbed runs of a case, and where a single number is beyond its limit still: of few draws the largest
deviation may be small."""
_FAR = 30.0
"""So many limits away no further draw of rounding helps; one of constants may, whose effects can cancel."""
_SHOWN = 3
"""Constants that are named in words."""
REFUSALS = (RuntimeError, ValueError, IndexError)
"""What a reference raises that refuses a case."""


class RefusedError(Exception):
    """The reference can't tell what is right for a case: it refuses it. Takes what it raised."""

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return first_line(self.args[0])

    def __str__(self) -> str:
        return f"the reference itself refuses this: {self.reason}"


class GraphError(Exception):
    """The file, or its graph in float64, does not run on a case that its reference runs on."""

    def __str__(self) -> str:
        return f"the file does not run: {first_line(self.args[0])}"


def ask(reference: Runner, feeds: Feeds, procedure: Procedure) -> Feeds:
    """Run a case on a reference; raises ``RefusedError`` if it refuses the case."""
    try:
        return procedure(reference, feeds)
    except REFUSALS as error:
        raise RefusedError(error) from error


def run_file(run: Runner, feeds: Feeds, procedure: Procedure = whole) -> Feeds:
    """Run a case on the file or its graph; raises ``GraphError`` if it does not run."""
    try:
        return procedure(run, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise GraphError(error) from error


class Reference(Protocol):
    """What a file is compared with."""

    def run64(self, feeds: Feeds) -> Mapping[str, Array]:
        """Return every output in float64; raises one of ``REFUSALS`` where it refuses."""

    @property
    def tensors(self) -> Iterable[Array]:
        """Every float tensor that it holds."""


def fixed_axes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return each output's axes of fixed size, counted from the end: -1 is the last.

    Each element of those has a limit of its own.
    """
    axes = {spec.name: spec.axes for spec in manifest.outputs}
    axes |= {state.output: state.axes for state in manifest.states}
    return {
        name: tuple(place - len(each) for place, axis in enumerate(each) if isinstance(axis, int))
        for name, each in axes.items()
    }


def reduce_free(array: Array, fixed: Sequence[int]) -> Array:
    """Return the largest absolute finite value along all other axes, which stay with size 1."""
    finite = np.where(np.isfinite(array), array, 0.0) if array.dtype.kind == "f" else array
    return largest(np.abs(finite.astype(np.float64)), fixed)


def largest(array: Array, fixed: Sequence[int]) -> Array:
    """Return the largest value along all axes but ``fixed``; they stay with size 1."""
    axes = tuple(axis for axis in range(array.ndim) if axis - array.ndim not in fixed)
    return np.asarray(array.max(axis=axes, keepdims=True, initial=0.0))


def channel_limits(
    expected: Feeds, share: float, fixed: Mapping[str, tuple[int, ...]] = MappingProxyType({})
) -> dict[str, Array]:
    """Return ``share`` of each channel's largest value; of an output that is not ``fixed`` it is one."""
    return {name: share * reduce_free(array, fixed.get(name, ())) for name, array in expected.items()}


def compare_within(
    got: Feeds, expected: Feeds, limits: Mapping[str, Array], dtype: str = "float32"
) -> tuple[Comparison, ...]:
    """Compare every output that has limits; ``dtype`` is the one whose last place is the unit."""
    return tuple(
        compare(name, got[name], expected[name], floor=0.0, limit=limit, dtype=dtype)
        for name, limit in limits.items()
    )


class Compared:
    """The outputs of a case, each compared with what it should be."""

    records: tuple[Comparison, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is within its limit."""
        return all(each.ok for each in self.records)

    @property
    def worst(self) -> Comparison:
        """The output nearest to its limit."""
        return max(self.records, key=lambda each: each.ratio)


@dataclass(frozen=True)
class Agreement(Compared):
    """One case in float64: how far apart the graph and its reference are."""

    records: tuple[Comparison, ...]
    constants: tuple[str, ...] = ()
    """Introduced constants, where the difference is within what they explain and not without."""
    ill_conditioned: bool = False
    """Whether the difference is one that float64's own rounding makes."""
    undefined: tuple[str, ...] = ()
    """Outputs in which the reference gives NaN."""

    @property
    def largest(self) -> float:
        """The largest difference, as a fraction of its channel's largest value."""
        return max((each.max_rel for each in self.records), default=0.0)


@dataclass(frozen=True)
class Equality:
    """How equal a graph and its reference are in float64, over every case."""

    cases: int = 0
    largest: float = 0.0
    """The largest difference, as a fraction of its channel's largest value."""
    constants: tuple[str, ...] = ()
    """Constants that the translation introduced, where outputs differ by as much as they explain."""
    ill_conditioned: int = 0
    """Cases on which float64's own rounding makes a larger difference; they do not count above."""
    equal: bool = True
    """Whether every case was within its limit."""

    def with_case(self, found: Agreement) -> "Equality":
        """Return the same with one more case; one that has no float64 run does not count."""
        ill = self.ill_conditioned + found.ill_conditioned
        if not found.records or found.ill_conditioned:
            return replace(self, cases=self.cases + bool(found.records), ill_conditioned=ill)
        constants = tuple(dict.fromkeys((*self.constants, *found.constants)))
        largest = max(self.largest, found.largest)
        return Equality(self.cases + 1, largest, constants, ill, self.equal and found.ok)

    def __str__(self) -> str:
        """Return how equal in words: ``in float64 to 3e-16``."""
        if not self.cases:
            return "in float32 alone"
        if not self.constants:
            return f"in float64 to {self.largest:.1g}"
        plural = "s" if len(self.constants) > 1 else ""
        shown = ", ".join(self.constants[:_SHOWN]) + (", ..." if len(self.constants) > _SHOWN else "")
        return (
            f"in float64 except for {len(self.constants)} constant{plural} introduced by the translation "
            f"({shown}): {self.largest:.2g}"
        )


@dataclass(frozen=True)
class Function:
    """A file's graph and its reference."""

    graph: Graph64 | MeasuredGraph
    """A measured one where it can't be evaluated in float64; only its rounding can be asked then."""
    reference: Reference
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """See ``fixed_axes``."""

    @cached_property
    def constants(self) -> tuple[str, ...]:
        """Constants that the translation introduced, whether the reference is PyTorch or such a file."""
        if not isinstance(self.graph, Graph64):
            return ()
        return tuple(dict.fromkeys((*self._known.introduced(), *rounded_inverses(self.graph))))

    @cached_property
    def _known(self) -> Constants:
        assert isinstance(self.graph, Graph64)
        return Constants(self.graph, self.reference.tensors)

    @property
    def in_float64(self) -> bool:
        """Whether graph and reference can be compared in float64."""
        return isinstance(self.graph, Graph64)

    @property
    def exact(self) -> Runner:
        """What an engine should give: the graph in float64, the reference where the graph has no such run."""
        return (self.graph if self.in_float64 else self.reference).run64

    def compare(
        self, feeds: Feeds, procedure: Procedure = whole, against: Procedure | None = None
    ) -> Agreement:
        """Compare the graph with the reference on one case; of a measured graph nothing is compared.

        The graph is run by ``procedure``, the reference by ``against``, or as the graph is.

        Raises:
            RefusedError: the reference refuses the case.
            GraphError: the graph does not run on it.
        """
        expected = ask(self.reference.run64, feeds, against or procedure)
        undefined = tuple(name for name, array in expected.items() if np.isnan(array).any())
        if not isinstance(self.graph, Graph64):
            return Agreement((), undefined=undefined)
        got = run_file(self.graph.run64, feeds, procedure)
        shared = {name: array for name, array in expected.items() if name in got}
        limits = channel_limits(shared, EQUAL, self.fixed)
        found = Agreement(compare_within(got, expected, limits, dtype="float64"), undefined=undefined)
        if found.ok or any(got[name].shape != array.shape for name, array in shared.items()):
            return found
        exact = limits
        perhaps = (*self.constants, *self._known.short())  # which the file does not tell from others
        for constants in filter(None, dict.fromkeys((self.constants, perhaps))):
            graphs = (self._moved(constants, seed) for seed in range(_DRAWS[1]))
            moved = (procedure(each.run64, feeds) for each in graphs)
            known = replace(found, constants=constants)
            found, limits = self._allow(known, moved, got, expected, exact, _CONSTANTS)
            if found.ok:
                return found
        draws = (Rounding(seed, unit=2.0**-53) for seed in range(_DRAWS[1]))
        rounded = (procedure(partial(self.graph.perturbed, rounding=each), feeds) for each in draws)
        unsure = replace(found, ill_conditioned=True)
        ill = _anything(*self._allow(unsure, rounded, got, expected, limits, _ROUNDINGS), got, expected)
        return ill if ill.ok else found

    @cached_property
    def _moved(self) -> Callable[[tuple[str, ...], int], Graph64]:
        """Gives the graph with constants moved, which more than one case needs."""
        assert isinstance(self.graph, Graph64)
        return cache(self.graph.moved)

    def _allow(
        self,
        found: Agreement,
        others: Iterable[Feeds],
        got: Feeds,
        expected: Feeds,
        before: Mapping[str, Array],
        multiple: float,
    ) -> tuple[Agreement, dict[str, Array]]:
        """Return ``found`` with limits that allow ``multiple`` times what other runs of the graph differ."""
        away, limits = {name: np.zeros(()) for name in before}, dict(before)
        for draw, outputs in enumerate(others, 1):
            for name, array in outputs.items():
                if name in limits and array.shape == got[name].shape:
                    apart = largest(distance(array, got[name]), self.fixed.get(name, ()))
                    away[name] = np.maximum(away[name], apart)
            if draw in _DRAWS:
                limits = {name: before[name] + multiple * array for name, array in away.items()}
                found = replace(found, records=compare_within(got, expected, limits, dtype="float64"))
                if found.ok or (found.ill_conditioned and found.worst.ratio > _FAR):
                    break
        return found, limits


def _anything(found: Agreement, limits: Mapping[str, Array], got: Feeds, expected: Feeds) -> Agreement:
    """Return ``found`` with limits that allow anything, where not a digit is left of any output."""
    sizes = {name: reduce_free(expected[name], ()) for name in limits}
    if max(limit.max(initial=0.0) for limit in limits.values()) < max(sizes.values()):
        return found
    anything = {name: reduce_free(got[name], ()) + size for name, size in sizes.items()}
    return replace(found, records=compare_within(got, expected, anything, dtype="float64"))


@dataclass(frozen=True)
class Expected:
    """What an engine should give on one case."""

    ref64: Mapping[str, Array]
    """The outputs in float64."""
    floors: Mapping[str, Array]
    """Noise floors, float64; each broadcasts against its output."""

    def compare(self, got: Feeds, limits: Mapping[str, Array] | None = None) -> tuple[Comparison, ...]:
        """Return one record an output, in the graph's order; without ``limits`` those of the policy hold."""
        return tuple(
            compare(
                name,
                got[name],
                exact,
                floor=self.floors[name],
                limit=None if limits is None else limits[name],
            )
            for name, exact in self.ref64.items()
        )


def expected(
    graph: Graph64 | MeasuredGraph,
    feeds: Feeds,
    fixed: Mapping[str, tuple[int, ...]],
    procedure: Procedure = whole,
    draws: int = DRAWS,
) -> Expected:
    """Run a graph on one case: exactly and, for the noise floors, perturbed as often as ``draws``.

    ``fixed`` are each output's axes of fixed size; see ``fixed_axes``. Raises what the graph raises.
    """
    exact = procedure(graph.run64, feeds)
    floors = {name: np.zeros(()) for name in exact}
    for draw in range(draws):
        rounding = Rounding(draw, keep=draw % 2 == 1, unit=graph.unit)
        outputs = procedure(partial(graph.perturbed, rounding=rounding), feeds)
        for name, array in exact.items():
            away = distance(outputs[name], array)
            floors[name] = np.maximum(floors[name], largest(away, fixed.get(name, ())))
    for name, array in exact.items():
        if array.dtype.kind == "f":
            floors[name] = floors[name] + graph.unit * reduce_free(array, fixed.get(name, ())) + TINY
    return Expected(exact, floors)


def floors_of(
    graph: Graph64 | MeasuredGraph,
    feeds: Feeds,
    fixed: Mapping[str, tuple[int, ...]],
    procedure: Procedure = whole,
) -> Iterator[Mapping[str, Array]]:
    """Yield the noise floors of few draws, then of many; arguments as of ``expected``."""
    for draws in (FEW_DRAWS, MANY_DRAWS):
        yield expected(graph, feeds, fixed, procedure, draws).floors


@dataclass(frozen=True)
class Measured(Compared):
    """One case: what an engine gave, what it should give, and how far apart they are."""

    got: Feeds
    known: Expected
    limits: Mapping[str, Array]
    """They broadcast against the outputs."""
    records: tuple[Comparison, ...]
    overflow: str = ""
    """The node at which a case that is out of its limit is beyond float32's range."""


def measure(
    got: Feeds,
    exact: Feeds,
    floors: Iterable[Mapping[str, Array]],
    limit: Callable[[str, Expected], Array] = lambda name, known: MULTIPLE * known.floors[name],
) -> Measured:
    """Compare what an engine gave with the graph in float64, by the first noise floors that it is within.

    ``floors`` are those of few draws, then of more; see ``floors_of``. ``limit`` gives an output's limits.
    """
    for each in floors:
        known = Expected(exact, each)
        limits = {name: limit(name, known) for name in exact}
        measured = Measured(got, known, limits, known.compare(got, limits))
        if measured.ok:
            break
    return measured


class Strength:
    """How much comparisons in float32 can show: each channel's largest limit and its largest value."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Array, Array]] = {}

    def add(self, measured: Measured, fixed: Mapping[str, tuple[int, ...]]) -> None:
        """Count one case; ``fixed`` as of ``fixed_axes``."""
        for name, exact in measured.known.ref64.items():
            if exact.dtype.kind == "f":
                sizes = reduce_free(exact, fixed.get(name, ()))
                limits = np.broadcast_to(measured.limits[name], sizes.shape)
                before = self._seen.get(name, (limits, sizes))
                self._seen[name] = np.maximum(before[0], limits), np.maximum(before[1], sizes)

    def found(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return how weak the limits are.

        Returns:
            By output the largest limit of a verified channel, as a fraction of the channel; and the channels
            whose limit is more than ``WEAK`` of them, with the limit.
        """
        weakest, unverified = dict[str, float](), dict[str, float]()
        for name, (limits, sizes) in self._seen.items():
            weak = limits > WEAK * sizes
            if not weak.all():
                verified = ~weak & (sizes > 0)
                weakest[name] = float((limits[verified] / sizes[verified]).max(initial=0.0))
            for index in np.argwhere(weak & (sizes > 0)):
                kept = ", ".join(str(index[axis]) for axis in range(limits.ndim) if limits.shape[axis] > 1)
                unverified[f"{name}[{kept}]" if kept else name] = float(limits[tuple(index)])
        return weakest, unverified
