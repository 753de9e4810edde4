"""Stage 1: whether a file's graph is its reference's function. Both are evaluated in float64.

No rounding of float32 hides anything here: one weight that is off by one unit in the last place is seen. A
valid file agrees to 1e-12 of a channel's largest value or better, with two exceptions, which are looked for
only where the limit is passed:

* constants that the translation introduced, and rounded to float32, such as the 1/sqrt(2) of a GELU. They are
  moved by one unit in the last place, and what that does is allowed;
* cases on which float64 itself leaves few digits, as a chaotic network that runs for long. The graph is run
  once more with float64's own rounding modeled (``noise.Rounding``), and what that does is allowed. If it
  reaches the size of the largest output, the case says nothing about any of them: units that it switches on
  and off do not move in proportion.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.tolerance import Comparison, compare, distance

from .cases import Feeds, Procedure, whole
from .graph64 import Graph64, MeasuredGraph, introduced_constants, rounded_inverses, short_arrays
from .noise import Rounding

__all__ = [
    "EQUAL",
    "Agreement",
    "Compared",
    "Equality",
    "Function",
    "GraphError",
    "Reference",
    "fixed_axes",
    "largest",
    "reduce_free",
]

EQUAL = 1e-11
"""Largest difference between two float64 evaluations of one function, as a fraction of a channel's largest
value."""
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


class Reference(Protocol):
    """What a file is compared with."""

    def run64(self, feeds: Feeds) -> Mapping[str, Array]:
        """Return every output in float64; raises RuntimeError, ValueError or IndexError where it refuses."""

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
        if not found.records:
            return self
        if found.ill_conditioned:
            return replace(self, cases=self.cases + 1, ill_conditioned=self.ill_conditioned + 1)
        return Equality(
            self.cases + 1,
            max(self.largest, found.largest),
            tuple(dict.fromkeys((*self.constants, *found.constants))),
            self.ill_conditioned,
            self.equal and found.ok,
        )

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
    _graphs: dict[tuple[int, int], Graph64] = field(default_factory=dict)
    """With their constants moved, by how many and the seed."""

    @cached_property
    def constants(self) -> tuple[str, ...]:
        """Constants that the translation introduced, whether the reference is PyTorch or such a file."""
        if not isinstance(self.graph, Graph64):
            return ()
        introduced = introduced_constants(self.graph, self.reference.tensors)
        return tuple(dict.fromkeys((*introduced, *rounded_inverses(self.graph))))

    @cached_property
    def _perhaps(self) -> tuple[str, ...]:
        """The same, and those of short numbers, of which the file does not tell whether they were rounded."""
        assert isinstance(self.graph, Graph64)
        return (*self.constants, *short_arrays(self.graph, self.reference.tensors))

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

        Args:
            feeds: the case.
            procedure: how the graph is run.
            against: how the reference is run; as the graph by default.

        Raises:
            RuntimeError, ValueError, IndexError: the reference refuses the case.
            GraphError: the graph does not run on it.
        """
        expected = (against or procedure)(self.reference.run64, feeds)
        undefined = tuple(name for name, array in expected.items() if np.isnan(array).any())
        if not isinstance(self.graph, Graph64):
            return Agreement((), undefined=undefined)
        try:
            got = procedure(self.graph.run64, feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            raise GraphError(str(error)) from error
        shared = {name: array for name, array in expected.items() if name in got}
        limits = {name: EQUAL * reduce_free(array, self._fixed(name)) for name, array in shared.items()}
        found = Agreement(_compare(got, expected, limits), undefined=undefined)
        if found.ok or any(got[name].shape != array.shape for name, array in shared.items()):
            return found
        exact = limits
        for constants in filter(None, dict.fromkeys((self.constants, self._perhaps))):
            graphs = (self._moved(self.graph, constants, seed) for seed in range(_DRAWS[1]))
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

    def _moved(self, graph: Graph64, constants: Sequence[str], seed: int) -> Graph64:
        key = (len(constants), seed)
        if key not in self._graphs:
            self._graphs[key] = graph.moved(constants, seed)
        return self._graphs[key]

    def _fixed(self, name: str) -> tuple[int, ...]:
        return self.fixed.get(name, ())

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
                    apart = largest(distance(array, got[name]), self._fixed(name))
                    away[name] = np.maximum(away[name], apart)
            if draw in _DRAWS:
                limits = {name: before[name] + multiple * array for name, array in away.items()}
                found = replace(found, records=_compare(got, expected, limits))
                if found.ok or (found.ill_conditioned and found.worst.ratio > _FAR):
                    break
        return found, limits


class GraphError(Exception):
    """The graph does not run on a case that its reference runs on."""


def _anything(found: Agreement, limits: Mapping[str, Array], got: Feeds, expected: Feeds) -> Agreement:
    """Return ``found`` with limits that allow anything, where not a digit is left of any output."""
    sizes = {name: reduce_free(expected[name], ()) for name in limits}
    if max(limit.max(initial=0.0) for limit in limits.values()) < max(sizes.values()):
        return found
    anything = {name: reduce_free(got[name], ()) + size for name, size in sizes.items()}
    return replace(found, records=_compare(got, expected, anything))


def _compare(got: Feeds, expected: Feeds, limits: Mapping[str, Array]) -> tuple[Comparison, ...]:
    return tuple(
        compare(name, got[name], expected[name], floor=0.0, limit=limit, dtype="float64")
        for name, limit in limits.items()
    )
