"""Comparisons of two functions: a graph with its reference in float64, and an engine in
float32.

In float64 a graph may differ from its reference by ``EQUAL`` of a channel's largest
value; where that is exceeded, also by 16 times what one unit of float64 does, to the
graph where inputs and weights move by it or to the reference where inputs do: what
cancels in the one may leave roundings in the other. A channel is an element of the axes
of fixed size. Elements that such a move changes by ``CHAOTIC`` of their channel say
nothing; the others of the channel are compared.

An engine may differ from the graph by ``ROUNDED`` of a channel's largest value, plus
``FLOOR``, plus 8 times what moving inputs and weights by one unit of float32 does. The
units of a state share one channel per layer. Where the effect of moving is over 10 % of
a channel, the case leaves no digit of it and says nothing there. A move that ends in NaN
or infinity has no size and allows nothing.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.selftest import Comparison, compare

from .cases import Feeds, Procedure, remember, whole
from .float64 import Graph64, nudged

REFUSALS = (RuntimeError, ValueError, IndexError)
"""Exceptions of a reference that refuses a case."""
EQUAL = 1e-11
"""Largest difference of two evaluations in float64, as a fraction of a channel's
largest value."""
ROUNDED = 6e-5
"""Largest difference of an engine, as such a fraction: 503 units in the last place of
float32."""
FLOOR = 2.0**-22
"""Error of sigmoid and tanh near 0 in any implementation."""
MOVES = 8.0
"""How many times the effect of moving inputs and weights by one unit in the last place
is allowed."""
CHAOTIC = 0.1
"""Largest effect of the perturbation, as a fraction of a channel, at which a comparison
is meaningful."""
POLICY = (
    f"in float64 {EQUAL:g} of a channel's largest value; in float32 {ROUNDED:g} of it +"
    f" {FLOOR:.2g} + {MOVES:g} x the effect of one unit in the last place of inputs and"
    " weights"
)
_ULP = 2.0**-23
_ULP64 = 2.0**-52
_DRAWS = 3
"""Moves in float64 of graph and reference each."""


@dataclass(frozen=True)
class Pair:
    """A file and its reference, as functions of arrays by name."""

    manifest: Manifest
    """Gives the axes of outputs."""
    graph: Graph64
    """The graph in float64."""
    reference: Runner
    """The function that the graph must equal; raises one of ``REFUSALS`` for a case
    that it refuses."""
    engine: Runner
    """onnxruntime on the file, in float32."""

    @cached_property
    def exact(self) -> Runner:
        """The graph, with its last results cached."""
        return remember(self.graph)

    @cached_property
    def _moved(self) -> Sequence[Runner]:
        """Return the graph with weights moved by one ULP, twice."""
        return [remember(self.graph.moved(seed, _ULP)) for seed in range(2)]

    def equal(
        self, feeds: Feeds, procedure: Procedure = whole
    ) -> tuple[Comparison, ...]:
        """Compare the graph with its reference, both in float64, run by a procedure."""
        want = procedure(self.reference, feeds)
        got = self._run(feeds, procedure)
        return self.within(
            got, want, feeds=feeds, procedure=procedure, reference=self.reference
        )

    def within(
        self,
        got: Feeds,
        want: Feeds,
        feeds: Feeds,
        procedure: Procedure = whole,
        reference: Runner | None = None,
    ) -> tuple[Comparison, ...]:
        """Compare results of the graph and of its reference in float64, both run by a
        procedure.

        Rounding errors of float64 are allowed, measured on the graph, and on
        ``reference`` if it is given.
        """
        floor = FLOOR * _ULP64 / _ULP
        limits = {
            name: EQUAL * self.largest(name, array) + floor
            for name, array in want.items()
        }
        comparisons = compare_all(got, want, limits)
        if all(
            comparison.ok or not np.isfinite(comparison.max_abs)
            for comparison in comparisons
        ):
            return comparisons
        for name, moved in self._moves64(
            want, feeds, procedure=procedure, reference=reference
        ).items():
            largest = self.largest(name, want[name])
            moved = 2 * MOVES * moved
            wild = moved > CHAOTIC * largest
            calm = self.largest(name, np.where(wild, 0.0, moved), by_layer=True)
            limits[name] = np.where(
                wild, np.maximum(4.0 * largest, 2.0 * moved), limits[name] + calm
            )
        return compare_all(got, want, limits)

    def _moves64(
        self, want: Feeds, feeds: Feeds, procedure: Procedure, reference: Runner | None
    ) -> dict[str, Array]:
        """Return the change of each element if inputs and weights change by one ULP of
        float64.
        """
        exact = self._run(feeds, procedure)
        moves = [self.graph.moved(seed, _ULP64) for seed in range(_DRAWS)]
        runs = [(exact, moved) for moved in _completed(moves, feeds, procedure)]
        if reference is not None:
            for seed in range(_DRAWS):
                moved_feeds = {
                    name: nudged(feed, seed, _ULP64) for name, feed in feeds.items()
                }
                with contextlib.suppress(*REFUSALS):
                    runs.append((want, procedure(reference, moved_feeds)))
        moves_by_name = {}
        for name, array in want.items():
            if array.dtype.kind != "f" or name not in exact:
                continue
            if exact[name].shape == array.shape:
                pairs = [(base[name], run[name]) for base, run in runs if name in run]
                moves_by_name[name] = _largest_move(pairs, array.shape)
        return moves_by_name

    def relative(self, got: Feeds, want: Feeds) -> float:
        """Return the largest difference as a fraction of its channel's largest
        value.
        """
        shares = [
            distance(got[name], array) / np.maximum(self.largest(name, array), FLOOR)
            for name, array in want.items()
        ]
        return max((float(share.max(initial=0.0)) for share in shares), default=0.0)

    def rounding(
        self, feeds: Feeds, run: Runner | None = None
    ) -> tuple[Comparison, ...]:
        """Compare an engine in float32, onnxruntime by default, with the graph."""
        exact = self.exact(feeds)
        got = (run or self.engine)(feeds)
        return compare_all(got, {name: exact[name] for name in got}, self.limits(feeds))

    def limits(self, feeds: Feeds, procedure: Procedure = whole) -> dict[str, Array]:
        """Return the limits of an engine; each broadcasts against its output."""
        exact = self._run(feeds, procedure)
        runs = _completed(self._moved, feeds, procedure)
        limits = {}
        for name, array in exact.items():
            limits[name] = np.zeros([1] * array.ndim)
            if array.dtype.kind == "f":
                move = _largest_move([(array, run[name]) for run in runs], array.shape)
                moved = MOVES * self.largest(name, move, by_layer=True)
                largest = self.largest(name, array, by_layer=True)
                limit = ROUNDED * largest + FLOOR + moved
                chaotic = moved > CHAOTIC * largest
                limits[name] = np.asarray(
                    np.where(chaotic, np.maximum(limit, 4.0 * largest), limit)
                )
        return limits

    def _run(self, feeds: Feeds, procedure: Procedure) -> Feeds:
        """Run the procedure on the graph in float64; whole runs are remembered."""
        return procedure(self.exact if procedure is whole else self.graph, feeds)

    def largest(self, name: str, array: Array, *, by_layer: bool = False) -> Array:
        """Return the largest finite absolute value of each channel of an output.

        With ``by_layer`` the units of a state are one channel per layer: one may be
        near zero at the last step, and far from it before.
        """
        axes = self.manifest.axes.get(name, (None,) * array.ndim)
        free = {index for index, axis in enumerate(axes) if not isinstance(axis, int)}
        if by_layer and name in {state.output for state in self.manifest.states}:
            free.add(len(axes) - 1)
        if array.dtype.kind != "f":
            return np.zeros(
                [1 if index in free else size for index, size in enumerate(array.shape)]
            )
        finite = np.where(np.isfinite(array), np.abs(array), 0.0)
        return np.asarray(finite.max(axis=tuple(free), keepdims=True, initial=0.0))


def _completed(
    runs: Sequence[Runner], feeds: Feeds, procedure: Procedure
) -> list[Feeds]:
    """Return the results of the runs that do not raise: a moved index may leave its
    table.
    """
    results = []
    for run in runs:
        with contextlib.suppress(*REFUSALS):
            results.append(procedure(run, feeds))
    return results


def _largest_move(
    pairs: Sequence[tuple[Array, Array]], shape: tuple[int, ...]
) -> Array:
    """Return the largest finite distance of each element from its base."""
    largest = np.zeros(shape)
    for base, moved in pairs:
        away = distance(moved, base)
        largest = np.maximum(largest, np.where(np.isfinite(away), away, 0.0))
    return largest


def compare_all(
    got: Feeds, want: Feeds, limits: Mapping[str, Array]
) -> tuple[Comparison, ...]:
    """Compare every output in ``want``; one that ``got`` lacks is infinitely far
    away.
    """
    comparisons = []
    for name, array in want.items():
        if name in got:
            limit = limits.get(name, np.zeros(()))
            comparisons.append(compare(name, got[name], expected=array, limits=limit))
        else:
            missing = Comparison(
                name=name, max_abs=np.inf, ratio=np.inf, where=(), problem="is missing"
            )
            comparisons.append(missing)
    return tuple(comparisons)


def distance(first: Array, other: Array) -> Array:
    """Return absolute differences in the shape of ``other``; of arrays of unlike shapes
    all are infinite.

    Equal infinities and NaN in both places agree, other NaN are infinite.
    """
    first = np.asarray(first, np.float64)
    other = np.asarray(other, np.float64)
    if first.shape != other.shape:
        return np.full(other.shape, np.inf)
    with np.errstate(invalid="ignore"):
        difference = np.nan_to_num(np.abs(first - other), nan=np.inf, posinf=np.inf)
    return np.where(
        (first == other) | (np.isnan(first) & np.isnan(other)), 0.0, difference
    )


def limit_for(expected: Array) -> float:
    """Return 8 units in the last place of an output's largest value in float32."""
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    return MOVES * max(_ULP * float(largest), float(np.finfo(np.float32).tiny))
