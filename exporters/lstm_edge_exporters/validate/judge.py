"""Comparing a file with its reference on the same arrays, and counting it all.

A float file's graph is compared with the reference in float64 (``Judge.agree``), and each engine with the
graph (``Judge.measure``). An int8 or fp16 file is held to the budgets that its gate held it to
(``quantization.judge.Budgets``).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.tolerance import MULTIPLE, POLICY

from ..numerics.cases import Feeds, Procedure, case_size, remember, whole
from ..numerics.floors import (
    DRAWS,
    FEW_DRAWS,
    MANY_DRAWS,
    Expected,
    Measured,
    Strength,
    measure,
    noise_floors,
)
from ..numerics.function import EQUAL, Agreement, Equality, Function, GraphError, reduce_free
from .config import ValidateConfig
from .report import Channel, Coverage, Histogram

if TYPE_CHECKING:
    from ..quantization.judge import Budgets

__all__ = ["REFUSALS", "FileFailedError", "Judge", "RefusedError"]

_EDGES = np.arange(-20.0, 4.01, 0.25)


REFUSALS = (RuntimeError, ValueError, IndexError)
"""What a reference raises that refuses a case."""


class RefusedError(Exception):
    """The reference itself can't tell what is right for a case: it refuses it, or gives NaN."""

    def __str__(self) -> str:
        return f"the reference itself refuses this: {first_line(self.args[0])}"


class FileFailedError(Exception):
    """The file can't run a case that its reference runs."""

    def __str__(self) -> str:
        return f"the file does not run: {first_line(self.args[0])}"


class Judge:
    """Holds the reference and the policy, and counts what it sees."""

    def __init__(
        self,
        function: Function,
        manifest: Manifest,
        config: ValidateConfig,
        budgets: "Budgets | None",
        values: Mapping[str, int],
    ) -> None:
        """Take what every comparison needs.

        Args:
            function: the file's graph and what it is compared with.
            manifest: the file's as it should be.
            config: its ``rtol`` and ``atol`` replace every limit.
            budgets: what an int8 or fp16 file is held to; None for one that must be exact.
            values: how many values are valid, by the name of an input of indices.
        """
        self._function, self._manifest, self._config, self._values = function, manifest, config, values
        self.budgets = budgets
        self._few = remember(
            lambda feeds: noise_floors(function.graph, feeds, function.fixed, draws=FEW_DRAWS)
        )
        self._errors = np.zeros(len(_EDGES) - 1, np.int64)
        self._exact = 0
        self._channels: dict[tuple[str, tuple[int, ...]], Channel] = {}
        self._compared: list[tuple[int, int]] = []
        """Rows and steps of every case."""
        self._tokens: dict[str, set[int]] = {}
        self._overflows: Counter[str] = Counter()
        self._strength = Strength()
        self._equality = Equality()

    @property
    def policy(self) -> str:
        """The rule in words."""
        if self._config.overridden:
            return f"limit = {self._config.atol or 0:g} + {self._config.rtol or 0:g} x max |reference|"
        if self.budgets:
            return str(self.budgets)
        return f"in float64 {EQUAL:g} of a channel's largest value; in float32 {POLICY}"

    @property
    def equality(self) -> Equality | None:
        """How equal the graph and its reference are in float64; None where they were not compared."""
        return self._equality if self._equality.cases else None

    @property
    def histogram(self) -> Histogram:
        """The absolute errors of every engine so far."""
        return Histogram(tuple(map(float, _EDGES)), tuple(map(int, self._errors)), self._exact)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The worst of every channel so far, in the order of the outputs, with what the task calls them."""
        task = self._manifest.task
        if task is None:
            return tuple(self._channels.values())
        return tuple(
            replace(
                each,
                label="".join(task.labels[each.index[-1] :][:1]),
                unit="".join(task.units[each.index[-1] :][:1]),
            )
            if each.output == task.output and each.index
            else each
            for each in self._channels.values()
        )

    @property
    def coverage(self) -> Coverage:
        """What was compared so far."""
        return Coverage(
            cases=len(self._compared),
            draws=FEW_DRAWS,
            overflows=dict(self._overflows),
            rows=sum(rows for rows, _ in self._compared),
            steps=sum(rows * steps for rows, steps in self._compared),
            sizes=tuple(sorted({*self._compared})),
            tokens={name: (len(used), self._values.get(name)) for name, used in self._tokens.items()},
            channels=dict(Counter(name for name, _ in self._channels)),
            weakest=self._strength.weakest,
            unverified=self._strength.unverified,
        )

    def agree(
        self, feeds: Feeds, procedure: Procedure = whole, against: Procedure | None = None
    ) -> Agreement:
        """Compare the graph with the reference in float64; arguments as of ``Function.compare``.

        Raises:
            RefusedError: the reference refuses the case.
            FileFailedError: the graph does not run on it.
        """
        try:
            found = self._function.compare(feeds, procedure, against)
        except GraphError as error:
            raise FileFailedError(error) from error
        except REFUSALS as error:
            raise RefusedError(error) from error
        if self._config.overridden:
            records = [
                replace(each, limit=self._config.own_limit(each.scale), error=each.max_abs)
                for each in found.records
            ]
            found = replace(found, records=tuple(records))
        self._count_inputs(feeds)
        self._equality = self._equality.with_case(found)
        return found

    def measure(
        self,
        run: Runner,
        feeds: Feeds,
        procedure: Procedure = whole,
        *,
        beginning: tuple[Feeds, Procedure] | None = None,
        over_a_run: bool = False,
        draws: int = FEW_DRAWS,
    ) -> Measured:
        """Run one case in an engine and compare every output with what it should be in float64.

        Args:
            run: the engine.
            feeds: the case.
            procedure: how the case is run, on both sides.
            beginning: the first steps of a long case and how they are run. Their noise floors are at most
                the whole's; only where the file is not within those are the whole's worked out.
            over_a_run: whether it is a whole run of real data, for which budgets are tighter.
            draws: perturbed runs that the floors are found with at first.

        Raises:
            RefusedError: the reference refuses the case.
            FileFailedError: the file can't run the case.
        """
        exact = self.exact(feeds, procedure)
        got = _given(run, feeds, procedure)
        ways = [(feeds, procedure, draws), (feeds, procedure, MANY_DRAWS)]
        ways = [(*beginning, draws), (feeds, procedure, DRAWS)] if beginning else ways
        measured = measure(
            got,
            exact,
            (self._floors(*way) for way in (ways[:1] if self.budgets else ways)),
            lambda name, known: self._limit(name, got[name], known, over_a_run=over_a_run),
            lambda: self._function.graph.overflow(feeds),
        )
        self._count_inputs(feeds)
        if measured.overflow:
            self._overflows[measured.overflow] += 1
        else:
            for name, array in exact.items():
                if got[name].shape == array.shape:
                    self._count_channels(name, measured)
                    self._count_errors(got[name], array)
        return measured

    def run_both(self, run: Runner, feeds: Feeds) -> tuple[Feeds, Feeds]:
        """Return what an engine gives, and the reference in float64; raises as ``measure`` does."""
        exact = _told(self._function.reference.run64, feeds, whole)
        return _given(run, feeds, whole), exact

    def exact(self, feeds: Feeds, procedure: Procedure = whole) -> Mapping[str, Array]:
        """Return the graph's outputs in float64, the reference's where it has none; raises as ``measure``."""
        return _told(self._function.exact, feeds, procedure)

    def expected(self, feeds: Feeds, procedure: Procedure = whole, draws: int = DRAWS) -> Expected:
        """Return what an engine should give, with noise floors; raises as ``measure`` does."""
        return Expected(self.exact(feeds, procedure), self._floors(feeds, procedure, draws))

    def _floors(self, feeds: Feeds, procedure: Procedure, draws: int) -> Mapping[str, Array]:
        if self.budgets:
            axes = self._manifest.axes
            return {name: np.zeros([1] * len(axes[name])) for name in self._manifest.output_names}
        if procedure is whole and draws == FEW_DRAWS:
            return self._few(feeds)
        return noise_floors(self._function.graph, feeds, self._function.fixed, procedure, draws)

    def _limit(self, name: str, got: Array, known: Expected, *, over_a_run: bool = False) -> Array:
        """Return how far each element of an output may be away; arguments as of ``measure``."""
        if self._config.overridden:
            return np.asarray(self._config.own_limit(known.ref64[name]))
        if self.budgets:
            return np.asarray(self.budgets.limit(name, got, known.ref64[name], over_a_run=over_a_run))
        return MULTIPLE * known.floors[name]

    def _count_inputs(self, feeds: Feeds) -> None:
        self._compared.append(case_size(self._manifest, feeds))
        for spec in self._manifest.data_inputs:
            if np.dtype(spec.dtype).kind in "iu":
                self._tokens.setdefault(spec.name, set()).update(np.unique(feeds[spec.name]).tolist())

    def _count_channels(self, name: str, measured: Measured) -> None:
        got, exact, floors = measured.got[name], measured.known.ref64[name], measured.known.floors[name]
        kept = [axis for axis, size in enumerate(floors.shape) if size > 1]
        fixed = [axis - exact.ndim for axis in kept]
        with np.errstate(invalid="ignore"):
            errors = reduce_free(got.astype(np.float64) - exact, fixed)
        limits, floors = (np.broadcast_to(each, errors.shape) for each in (measured.limits[name], floors))
        if exact.dtype.kind == "f" and not self.budgets and not self._config.overridden:
            shape = limits.shape[-len(self._manifest.axes[name]) :]  # without the axis of chunks
            self._strength.add(name, limits.reshape(shape), reduce_free(exact, fixed).reshape(shape))
        state = any(name == each.output for each in self._manifest.states)
        for index in np.ndindex(errors.shape):
            place = tuple(index[axis] for axis in kept)
            error, floor, limit = (float(each[index]) for each in (errors, floors, limits))
            key = (name, place[:-1] if state else place)  # of a layer's units the worst
            known = self._channels.get(key)
            if known is None or error * known.limit > known.error * limit:
                self._channels[key] = Channel(name, place, error, floor, limit)

    def _count_errors(self, got: Array, exact: Array) -> None:
        with np.errstate(invalid="ignore"):
            errors = np.abs(got.astype(np.float64) - exact)
        errors = errors[np.isfinite(errors)]
        seen = errors >= 10.0 ** _EDGES[0]
        self._exact += int((~seen).sum())
        self._errors += np.histogram(np.minimum(np.log10(errors[seen]), _EDGES[-1]), _EDGES)[0]


def _told(run: Runner, feeds: Feeds, procedure: Procedure) -> Feeds:
    try:
        return procedure(run, feeds)
    except REFUSALS as error:
        raise RefusedError(error) from error


def _given(run: Runner, feeds: Feeds, procedure: Procedure) -> Feeds:
    try:
        return procedure(run, feeds)
    except Exception as error:
        raise FileFailedError(error) from error
