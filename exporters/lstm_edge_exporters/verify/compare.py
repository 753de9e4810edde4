"""Whether two functions are the same: a graph and its reference in float64, and an engine in float32.

In float64 a graph may differ from its reference by ``EQUAL`` of a channel's largest value; where that is
exceeded, also by 16 times what one unit of float64 does, to the graph where inputs and weights move by it or
to the reference where inputs do: what cancels in the one may leave roundings in the other. A channel is an
element of the axes of fixed size.

An engine may differ from the graph by ``ROUNDED`` of a channel's largest value, plus ``FLOOR``, plus 8 times
what moving inputs and weights by one unit of float32 does. The units of a state share one channel per layer.
Where the effect of moving is over 10 % of a channel, the case leaves no digit of it and says nothing there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lstm_edge_runtime.manifest import Array, Manifest

from ..chunks import Runner
from ..tolerance import Comparison, compare, distance
from .cases import Feeds, Procedure, remember, whole
from .float64 import Graph64, nudged
from .reference import REFUSALS

EQUAL = 1e-11
"""Largest difference of two evaluations in float64, as a fraction of a channel's largest value."""
ROUNDED = 6e-5
"""Largest difference of an engine, likewise: 503 units in the last place of float32."""
FLOOR = 2.0**-22
"""What sigmoid and tanh are off by near 0 in any implementation."""
MOVES = 8.0
"""How many times the effect of moving inputs and weights by one unit in the last place is allowed."""
CHAOTIC = 0.1
"""Largest effect of moving, as a fraction of a channel, at which a comparison is meaningful."""
POLICY = (
    f"in float64 {EQUAL:g} of a channel's largest value; in float32 {ROUNDED:g} of it + {FLOOR:.2g} + "
    f"{MOVES:g} x the effect of one unit in the last place of inputs and weights"
)
_ULP, _ULP64 = 2.0**-23, 2.0**-52


@dataclass(frozen=True)
class Pair:
    """A file and what it is compared with, each a function of arrays by name."""

    manifest: Manifest
    """Gives the axes of outputs."""
    graph: Graph64
    """The graph in float64."""
    reference: Runner
    """What the graph must equal, in float64; raises one of ``REFUSALS`` where it refuses a case."""
    engine: Runner
    """onnxruntime on the file, in float32."""

    @cached_property
    def exact(self) -> Runner:
        """The graph, with its last results kept."""
        return remember(self.graph)

    @cached_property
    def _moved(self) -> Sequence[Runner]:
        return [self.graph.moved(seed, _ULP) for seed in range(2)]

    @cached_property
    def _moved64(self) -> Sequence[Runner]:
        return [self.graph.moved(seed, _ULP64) for seed in range(2)]

    def equal(
        self, feeds: Feeds, procedure: Procedure = whole, against: Procedure | None = None
    ) -> tuple[Comparison, ...]:
        """Compare the graph with its reference, both in float64, run by their procedures."""
        want = (against or procedure)(self.reference, feeds)
        got = procedure(self.exact if procedure is whole else self.graph, feeds)
        found = self.within(got, want, feeds, procedure)
        if all(each.ok or not np.isfinite(each.error) for each in found):
            return found
        wide = [{name: nudged(each, seed, _ULP64) for name, each in feeds.items()} for seed in range(2)]
        try:
            runs = [(against or procedure)(self.reference, each) for each in wide]
        except REFUSALS:
            return found
        return self.within(got, want, feeds, procedure, self._spread(want, runs))

    def within(
        self,
        got: Feeds,
        want: Feeds,
        feeds: Feeds,
        procedure: Procedure = whole,
        spread: Mapping[str, Array] | None = None,
    ) -> tuple[Comparison, ...]:
        """Compare two evaluations in float64; what float64 itself leaves open is allowed.

        Args:
            got: what the graph gives.
            want: what the reference gives.
            feeds: the inputs.
            procedure: how the graph was run.
            spread: how far what the reference gives moves with its inputs.
        """
        floor = FLOOR * _ULP64 / _ULP
        limits = {name: EQUAL * self.largest(name, array) + floor for name, array in want.items()}
        found = compare_all(got, want, limits, "float64")
        if all(each.ok or not np.isfinite(each.error) for each in found):
            return found
        moved = self._effect(feeds, self._moved64, procedure)
        for name in moved.keys() & limits.keys():
            effect = np.maximum(moved[name], (spread or {}).get(name, 0.0))
            limits[name] = _allowed(limits[name], 2 * MOVES * effect, self.largest(name, want[name]))
        return compare_all(got, want, limits, "float64")

    def rounding(self, feeds: Feeds, run: Runner | None = None) -> tuple[Comparison, ...]:
        """Compare an engine in float32, onnxruntime by default, with the graph."""
        exact = self.exact(feeds)
        got = (run or self.engine)(feeds)
        return compare_all(got, {name: exact[name] for name in got}, self.limits(feeds))

    def limits(self, feeds: Feeds, procedure: Procedure = whole) -> dict[str, Array]:
        """Return the limits of an engine; each broadcasts against its output."""
        exact = procedure(self.exact if procedure is whole else self.graph, feeds)
        limits = {name: np.zeros([1] * array.ndim) for name, array in exact.items()}
        for name, moved in self._effect(feeds, self._moved, procedure).items():
            largest = self.largest(name, exact[name], by_layer=True)
            limits[name] = _allowed(ROUNDED * largest + FLOOR, MOVES * moved, largest)
        return limits

    def largest(self, name: str, array: Array, *, by_layer: bool = False) -> Array:
        """Return the largest finite absolute value of each channel of an output.

        Args:
            name: the output.
            array: its values.
            by_layer: take the units of a state for one channel per layer: one may be near zero at the last
                step, and far from it before.
        """
        axes = self.manifest.axes.get(name, (None,) * array.ndim)
        free = {place for place, axis in enumerate(axes) if not isinstance(axis, int)}
        if by_layer and name in {state.output for state in self.manifest.states}:
            free.add(len(axes) - 1)
        if array.dtype.kind != "f":
            return np.zeros([1 if place in free else size for place, size in enumerate(array.shape)])
        finite = np.where(np.isfinite(array), np.abs(array), 0.0)
        return np.asarray(finite.max(axis=tuple(free), keepdims=True, initial=0.0))

    def _effect(self, feeds: Feeds, moved: Sequence[Runner], procedure: Procedure) -> dict[str, Array]:
        """Return how far outputs move where inputs and weights move by one unit in the last place."""
        exact = procedure(self.exact if procedure is whole else self.graph, feeds)
        return self._spread(exact, [procedure(run, feeds) for run in moved])

    def _spread(self, exact: Feeds, runs: Sequence[Feeds]) -> dict[str, Array]:
        """Return how far the outputs of runs are from ``exact`` at the most."""
        return {
            name: np.max(
                [
                    self.largest(name, distance(run[name], array), by_layer=True)
                    for run in runs
                    if run[name].shape == array.shape
                ]
                or [np.zeros([1] * array.ndim)],
                axis=0,
            )
            for name, array in exact.items()
            if array.dtype.kind == "f"
        }


def _allowed(limit: Array, moved: Array, largest: Array) -> Array:
    """Return ``limit`` and what moved numbers do; anything where that leaves no digit of a channel."""
    found = limit + np.nan_to_num(moved, nan=0.0)
    return np.asarray(np.where(moved > CHAOTIC * largest, np.maximum(found, 4.0 * largest), found))


def compare_all(
    got: Feeds, want: Feeds, limits: Mapping[str, Array], dtype: str = "float32"
) -> tuple[Comparison, ...]:
    """Compare every output in ``want``; one that ``got`` lacks is infinitely far away."""
    found = []
    for name, array in want.items():
        if name not in got:
            missing = compare(name, np.zeros(0), array, floor=0.0, limit=0.0, dtype=dtype)
            found.append(replace(missing, error=np.inf))
            continue
        mine = got[name]
        if mine.shape == array.shape and np.array_equal(mine, array, equal_nan=array.dtype.kind == "f"):
            limit = np.asarray(limits.get(name, 0.0))
            found.append(compare(name, array, array, floor=0.0, limit=limit, dtype=dtype))
        else:
            found.append(compare(name, mine, array, floor=0.0, limit=limits.get(name, 0.0), dtype=dtype))
    return tuple(found)
