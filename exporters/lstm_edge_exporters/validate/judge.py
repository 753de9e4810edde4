"""Comparing a file with its reference on the same arrays, and counting it all.

A float file is held to the one tolerance policy, an int8 or fp16 file to the budgets that its gate held it
to. There differences count by their root mean square: a unit that switches one step early is off by its whole
range for that step, and right before and after.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.state import Runner
from lstm_edge_runtime.tolerance import MULTIPLE, POLICY, Comparison, compare

from ..numerics.cases import Feeds, case_size
from ..numerics.noise import (
    DRAWS,
    Expected,
    PerturbableReference,
    Procedure,
    compare_outputs,
    is_noise,
    noise_floors,
    unverified,
    whole,
)
from .config import ValidateConfig
from .report import Channel, Coverage, Histogram

if TYPE_CHECKING:
    from ..quantization.config import Budget

from lstm_edge_runtime.manifest import Array

__all__ = ["Budgets", "FileFailedError", "Judge", "Measured", "RefusedError", "usual_scale"]

_EDGES = np.arange(-20.0, 4.01, 0.25)
_BUDGETED = ("int8", "fp16")
_SNAPSHOT = 4.0
"""How many times the drift of a whole run the states of a single case may be away: it may end at a switch."""


def usual_scale(array: Array, *, state: bool) -> float:
    """Return what a budget is a share of: the root mean square of a state, the range of another output."""
    return _rms(array) if state else float(np.ptp(array.astype(np.float64)))


class Budgets:
    """Turns shares of the usual into limits."""

    def __init__(self, budget: "Budget | None", states: Collection[str], usual: Mapping[str, float]) -> None:
        """Take the shares (``quantize``'s by default), the states' outputs, and each ``usual_scale``."""
        from ..quantization.config import Budget

        self._budget = budget or Budget()
        self._states = states
        self._usual = usual

    def __str__(self) -> str:
        """Return the rule in words."""
        budget = self._budget
        return (
            f"budgets: root mean square within {budget.change:g} of an output's range and "
            f"{_SNAPSHOT * budget.drift:g} of a state's own, {budget.drift:g} over a run of your data; "
            f"{budget.agreement:.1%} of labels kept"
        )

    @property
    def agreement(self) -> float:
        """The least share of labels that must be kept."""
        return self._budget.agreement

    def allowed(self, name: str, expected: Array, *, over_a_run: bool = False) -> float:
        """Return what the root mean square of the difference from ``expected`` may be.

        Args:
            name: the output's.
            expected: what the reference gave.
            over_a_run: whether that is a whole run of real data, on which the gate judges states.
        """
        usual = self._usual.get(name, 0.0)
        if name in self._states:
            return self._budget.drift * (1.0 if over_a_run else _SNAPSHOT) * max(_rms(expected), usual)
        return self._budget.change * max(float(np.max(np.abs(expected), initial=0.0)), usual)

    def held(
        self,
        record: Comparison,
        got: Array,
        expected: Array,
        *,
        over_a_run: bool = False,
    ) -> Comparison:
        """Return ``record`` with a limit that its difference passes where the root mean square is too large.

        Args:
            record: the comparison of ``got`` with ``expected``.
            got: what the file gave.
            expected: what the reference gave.
            over_a_run: see ``allowed``.
        """
        allowed = self.allowed(record.name, expected, over_a_run=over_a_run)
        if not math.isfinite(record.max_abs) or record.max_abs == 0:
            return replace(record, limit=allowed)
        peak = record.max_abs / _rms(got.astype(np.float64) - expected.astype(np.float64))
        return replace(record, limit=allowed * peak)


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


class RefusedError(Exception):
    """The reference itself can't tell what is right for a case: it refuses it, or overflows on it."""


class FileFailedError(Exception):
    """The file can't run a case that its reference runs."""


@dataclass(frozen=True)
class Measured:
    """One case: what the file gave, what the reference gave, and how far apart they are."""

    got: Mapping[str, Array]
    known: Expected
    records: tuple[Comparison, ...]

    @property
    def worst(self) -> Comparison:
        """The output nearest to its limit."""
        return max(self.records, key=lambda each: each.ratio)

    @property
    def below_noise(self) -> str:
        """Return why the case tells nothing: rounding alone moves an output of the reference by much."""
        for name, exact in self.known.ref64.items():
            if is_noise(self.known.ref32[name], exact):
                return f"float32 and float64 runs of the reference give another {name} altogether"
        return ""


class Judge:
    """Holds the reference and the policy, and counts what it sees."""

    def __init__(
        self,
        reference: PerturbableReference,
        manifest: Manifest,
        config: ValidateConfig,
        scales: Mapping[str, float],
        values: Mapping[str, int],
    ) -> None:
        """Take what every comparison needs.

        Args:
            reference: what the file is compared with.
            manifest: the file's as it should be; its precision decides between the policy and the budgets.
            config: overrides and budgets.
            scales: each output's usual scale, for the budgets.
            values: how many values are valid, by the name of an input of indices.
        """
        self._reference = reference
        self._manifest = manifest
        self._values = values
        self._config = config
        states = {state.output for state in manifest.states}
        budgeted = manifest.precision in _BUDGETED
        self.budgets = Budgets(config.budget, states, scales) if budgeted else None
        """What an int8 or fp16 file is held to; None for one that must be exact."""
        self._applied = None if config.overridden else self.budgets
        self._file = np.zeros(len(_EDGES) - 1, np.int64)
        self._own = np.zeros(len(_EDGES) - 1, np.int64)
        self._exact = [0, 0]
        self._channels: dict[tuple[str, int | None], Channel] = {}
        self._cases = self._below_noise = self._rows = self._steps = 0
        self._sizes: dict[tuple[int, int], None] = {}
        self._tokens: dict[str, set[int]] = {}
        self._too_small: dict[str, list[float]] = {}

    @property
    def policy(self) -> str:
        """The rule in words."""
        if self._config.overridden:
            return f"limit = {self._config.atol or 0:g} + {self._config.rtol or 0:g} x max |reference|"
        return str(self.budgets) if self.budgets else POLICY

    @property
    def histogram(self) -> Histogram:
        """The absolute errors of every comparison so far."""
        return Histogram(
            tuple(map(float, _EDGES)),
            tuple(map(int, self._file)),
            tuple(map(int, self._own)),
            (self._exact[0], self._exact[1]),
        )

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The worst of every channel, over every comparison so far, in the order of the outputs."""
        return tuple(self._channels.values())

    @property
    def coverage(self) -> Coverage:
        """What was compared so far."""
        return Coverage(
            cases=self._cases,
            draws=DRAWS,
            below_noise=self._below_noise,
            rows=self._rows,
            steps=self._steps,
            sizes=tuple(sorted(self._sizes)),
            tokens={name: (len(used), self._values.get(name)) for name, used in self._tokens.items()},
            channels=dict(Counter(name for name, _ in self._channels)),
            unverified={
                name: max(limits) for name, limits in self._too_small.items() if len(limits) == self._cases
            },
        )

    def measure(
        self,
        run: Runner,
        feeds: Feeds,
        procedure: Procedure = whole,
        *,
        beginning: tuple[Feeds, Procedure] | None = None,
        over_a_run: bool = False,
    ) -> Measured:
        """Run one case on the file and on the reference, and compare every output.

        Args:
            run: the file.
            feeds: the case.
            procedure: how the case is run, on both sides.
            beginning: the first steps of a long case and how they are run. Their noise floors are at most
                the whole's; only where the file is not within those are the whole's worked out.
            over_a_run: whether it is a whole run of real data, for which budgets are tighter.

        Raises:
            RefusedError: the reference refuses the case, or its own dtype overflows on it.
            FileFailedError: the file can't run the case.
        """
        got, ref32, ref64 = self.run_both(run, feeds, procedure)
        records: tuple[Comparison, ...] = ()
        if beginning is not None:
            known = Expected(ref32, ref64, self.expected(*beginning).floors)
            records = self._compare(got, known, over_a_run=over_a_run)
        if not records or not all(record.ok for record in records):
            known = Expected(ref32, ref64, noise_floors(self._reference, feeds, ref64, procedure))
            records = self._compare(got, known, over_a_run=over_a_run)
        measured = Measured(got, known, records)
        self._count(measured)
        self._count_inputs(feeds)
        return measured

    def run_both(
        self, run: Runner, feeds: Feeds, procedure: Procedure = whole
    ) -> tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]]:
        """Return what the file gives, and the reference in its own dtype and in float64.

        Raises as ``measure`` does.
        """
        ref32, ref64 = self.reference(feeds, procedure)
        try:
            return procedure(run, feeds), ref32, ref64
        except Exception as error:
            raise FileFailedError(f"the file does not run: {first_line(error)}") from error

    def _compare(
        self, got: Mapping[str, Array], known: Expected, *, over_a_run: bool
    ) -> tuple[Comparison, ...]:
        if self._applied:
            return tuple(
                self._applied.held(
                    compare(name, got[name], exact, floor=known.floors[name].max(initial=0.0)),
                    got[name],
                    exact,
                    over_a_run=over_a_run,
                )
                for name, exact in known.ref64.items()
            )
        if self._config.overridden:
            return tuple(
                compare(name, got[name], exact, floor=known.floors[name], limit=self.limits(known, name))
                for name, exact in known.ref64.items()
            )
        return tuple(compare_outputs(got, known))

    def reference(
        self, feeds: Feeds, procedure: Procedure = whole
    ) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """Return the reference's outputs in its own dtype and in float64; raises as ``measure`` does."""
        try:
            ref32, ref64 = procedure(self._reference.run, feeds), procedure(self._reference.run64, feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusedError(f"the reference itself refuses this: {first_line(error)}") from error
        _check_range(ref32, ref64)
        return ref32, ref64

    def expected(self, feeds: Feeds, procedure: Procedure = whole) -> Expected:
        """Return what the reference gives, with noise floors; raises as ``measure`` does."""
        ref32, ref64 = self.reference(feeds, procedure)
        return Expected(ref32, ref64, noise_floors(self._reference, feeds, ref64, procedure))

    def limits(self, known: Expected, name: str) -> Array:
        """Return the limits of an output that must be exact; they broadcast against it."""
        if self._config.overridden:
            return np.asarray(self._config.own_limit(known.ref64[name]))
        return MULTIPLE * known.floors[name]

    def _count(self, measured: Measured) -> None:
        known = measured.known
        self._cases += 1
        if measured.below_noise:
            self._below_noise += 1
        else:
            for record in measured.records:
                self._count_channels(record, measured.got[record.name], known)
        for name, limit in unverified(known).items():
            self._too_small.setdefault(name, []).append(limit)
        for name, exact in known.ref64.items():
            self._count_errors(self._file, 0, measured.got[name], exact)
            self._count_errors(self._own, 1, known.ref32[name], exact)

    def _count_inputs(self, feeds: Feeds) -> None:
        rows, steps = case_size(self._manifest, feeds)
        self._sizes[rows, steps] = None
        self._rows += rows
        self._steps += rows * steps
        for spec in self._manifest.data_inputs:
            if np.dtype(spec.dtype).kind in "iu":
                self._tokens.setdefault(spec.name, set()).update(np.unique(feeds[spec.name]).tolist())

    def _count_channels(self, record: Comparison, got: Array, known: Expected) -> None:
        exact, floors = known.ref64[record.name], known.floors[record.name]
        if got.shape != exact.shape or not exact.size:
            return
        with np.errstate(invalid="ignore"):
            errors = np.nan_to_num(np.abs(got.astype(np.float64) - exact), nan=0.0, posinf=0.0)
        over = tuple(axis for axis, size in enumerate(floors.shape) if size == 1)
        errors = errors.max(axis=over).reshape(-1)
        for index, (error, floor) in enumerate(zip(errors, floors.reshape(-1), strict=True)):
            key = (record.name, index if floors.size > 1 else None)
            limit = record.limit if self._applied or self._config.overridden else MULTIPLE * floor
            before = self._channels.get(key)
            if before is None or error * before.limit > before.error * limit:
                self._channels[key] = Channel(*key, float(error), float(floor), float(limit))

    def _count_errors(self, counts: npt.NDArray[np.int64], place: int, one: Array, exact: Array) -> None:
        if one.shape != exact.shape:
            return
        with np.errstate(invalid="ignore"):
            errors = np.abs(one.astype(np.float64) - exact)
        errors = errors[np.isfinite(errors)]
        seen = errors >= 10.0 ** _EDGES[0]
        self._exact[place] += int((~seen).sum())
        counts += np.histogram(np.minimum(np.log10(errors[seen]), _EDGES[-1]), _EDGES)[0]


def _check_range(ref32: Mapping[str, Array], ref64: Mapping[str, Array]) -> None:
    if any((~np.isfinite(ref32[name]) & np.isfinite(ref64[name])).any() for name in ref32):
        raise RefusedError("the reference itself overflows here in its own dtype")
