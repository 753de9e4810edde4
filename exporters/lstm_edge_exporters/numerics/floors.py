"""Stage 2: how far a correct float32 engine may be from the graph in float64, on one case.

The graph is run ``DRAWS`` times in float64, each time perturbed as float32 may round (``noise``); half of the
draws keep their signs over time. The *noise floor* of an element of the fixed axes is the largest deviation
from the exact run over all draws, rows and steps, plus half a unit in the last place at its largest value,
for the float32 that the result is stored in. The limit is ``tolerance.MULTIPLE`` floors.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.tolerance import MULTIPLE, Comparison, compare, distance

from .cases import Feeds, Procedure, whole
from .function import Compared, largest, reduce_free
from .graph64 import Graph64, MeasuredGraph
from .noise import TINY, UNIT, Rounding

__all__ = [
    "DRAWS",
    "FEW_DRAWS",
    "MANY_DRAWS",
    "WEAK",
    "Expected",
    "Measured",
    "Strength",
    "compare_outputs",
    "expected",
    "measure",
    "noise_floors",
]

DRAWS = 8
"""Perturbed runs of a case."""
FEW_DRAWS = 4
"""With these an engine is compared first: what is within few draws' floors is within those of more."""
MANY_DRAWS = 32
"""Of a case that is beyond its limit: of a single number the largest of few deviations may be small."""
WEAK = 0.1
"""Largest limit, as a fraction of a channel's largest value, at which a comparison verifies the channel."""


@dataclass(frozen=True)
class Expected:
    """What an engine should give on one case."""

    ref64: Mapping[str, Array]
    """The outputs in float64."""
    floors: Mapping[str, Array]
    """Noise floors, float64; each broadcasts against its output."""


def expected(
    graph: Graph64 | MeasuredGraph,
    feeds: Feeds,
    fixed: Mapping[str, tuple[int, ...]],
    procedure: Procedure = whole,
    draws: int = DRAWS,
) -> Expected:
    """Run a graph on one case, exactly and perturbed; arguments as of ``noise_floors``."""
    return Expected(procedure(graph.run64, feeds), noise_floors(graph, feeds, fixed, procedure, draws))


def noise_floors(
    graph: Graph64 | MeasuredGraph,
    feeds: Feeds,
    fixed: Mapping[str, tuple[int, ...]],
    procedure: Procedure = whole,
    draws: int = DRAWS,
) -> dict[str, Array]:
    """Return the noise floors of a case by output name; raises what the graph raises.

    Args:
        graph: the file's.
        feeds: the case.
        fixed: each output's axes of fixed size; see ``function.fixed_axes``.
        procedure: how the case is run.
        draws: perturbed runs.
    """
    exact = procedure(graph.run64, feeds)
    floors = {name: np.zeros(()) for name in exact}
    for draw in range(draws):
        outputs = procedure(partial(graph.perturbed, rounding=Rounding(draw, keep=draw % 2 == 1)), feeds)
        for name, array in exact.items():
            same = outputs[name].shape == array.shape
            away = distance(outputs[name], array) if same else np.full(array.shape, np.inf)
            floors[name] = np.maximum(floors[name], largest(away, fixed.get(name, ())))
    for name, array in exact.items():
        if array.dtype.kind == "f":
            floors[name] = floors[name] + UNIT * reduce_free(array, fixed.get(name, ())) + TINY
    return floors


def compare_outputs(
    got: Mapping[str, Array], known: Expected, limits: Mapping[str, Array] | None = None
) -> list[Comparison]:
    """Return one record an output, in the graph's order; without ``limits`` those of the policy hold."""
    return [
        compare(
            name,
            got[name],
            exact,
            floor=known.floors[name],
            limit=limits[name] if limits else None,
            dtype="float32" if exact.dtype.kind == "f" else "float64",
        )
        for name, exact in known.ref64.items()
    ]


@dataclass(frozen=True)
class Measured(Compared):
    """One case: what an engine gave, what it should give, and how far apart they are."""

    got: Feeds
    known: Expected
    limits: Mapping[str, Array]
    """They broadcast against the outputs."""
    records: tuple[Comparison, ...]
    overflow: str = ""
    """The node at which the case is beyond float32's range, where an output is out of its limit."""


def measure(
    got: Feeds,
    exact: Feeds,
    floors: Iterable[Mapping[str, Array]],
    limit: Callable[[str, Expected], Array] = lambda name, known: MULTIPLE * known.floors[name],
    overflow: Callable[[], str] = str,
) -> Measured:
    """Compare an engine with the graph on one case, by the first noise floors that it is within.

    Args:
        got: what the engine gave.
        exact: what the graph gives in float64.
        floors: those of few draws, then of more; of a single number the largest of few may be small.
        limit: gives the limits of an output.
        overflow: gives the node at which the case is beyond float32's range, if it is.
    """
    for each in floors:
        known = Expected(exact, each)
        limits = {name: limit(name, known) for name in exact}
        measured = Measured(got, known, limits, tuple(compare_outputs(got, known, limits)))
        if measured.ok:
            return measured
    return replace(measured, overflow=overflow())


class Strength:
    """How much comparisons in float32 can show: each channel's largest limit and its largest value."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Array, Array]] = {}

    def add(self, name: str, limits: Array, sizes: Array) -> None:
        """Count one case of an output: arrays of one shape, free axes of size 1."""
        before = self._seen.get(name, (limits, sizes))
        self._seen[name] = np.maximum(before[0], limits), np.maximum(before[1], sizes)

    @property
    def weakest(self) -> dict[str, float]:
        """By output the largest limit of a verified channel, as a fraction of the channel."""
        found = {}
        for name, (limits, sizes) in self._seen.items():
            verified = limits <= WEAK * sizes
            if verified.any():
                shares = np.divide(limits, sizes, out=np.zeros_like(limits), where=verified & (sizes > 0))
                found[name] = float(shares.max())
        return found

    @property
    def unverified(self) -> dict[str, float]:
        """Channels whose limit is more than ``WEAK`` of them, and the limit."""
        found = {}
        for name, (limits, sizes) in self._seen.items():
            for index in np.argwhere((limits > WEAK * sizes) & (sizes > 0)):
                kept = ", ".join(str(index[axis]) for axis in range(limits.ndim) if limits.shape[axis] > 1)
                found[f"{name}[{kept}]" if kept else name] = float(limits[tuple(index)])
        return found
