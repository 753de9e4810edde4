"""Comparing a file with its reference on the same arrays, by the one tolerance policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.tolerance import POLICY, Comparison, compare

from ..numerics.noise import Expected, PerturbableReference, Procedure, Run, expected, whole
from ..numerics.verify import compare_outputs, is_noise
from ._budgets import Budgets
from .config import ValidateConfig
from .report import Histogram

__all__ = ["Feeds", "FileFailedError", "Judge", "Measured", "Protocol", "RefusedError"]

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Protocol = Procedure

_EDGES = np.arange(-20.0, 4.01, 0.25)
_BUDGETED = ("int8", "fp16")


class RefusedError(Exception):
    """The reference itself can't tell what is right for a case: it refuses it, or overflows on it."""


class FileFailedError(Exception):
    """The file can't run a case that its reference runs."""


@dataclass(frozen=True)
class Measured:
    """One case: what the file gave, what the reference gave, and how far apart they are."""

    got: Mapping[str, Array]
    own: Mapping[str, Array]
    """The reference in its own dtype."""
    wide: Mapping[str, Array]
    """The reference in float64."""
    records: tuple[Comparison, ...]

    @property
    def worst(self) -> Comparison:
        """The output nearest to its limit."""
        return max(self.records, key=lambda each: each.ratio)


class Judge:
    """Holds the reference and the policy, and counts the errors it sees for the histogram."""

    def __init__(
        self,
        reference: PerturbableReference,
        contract: Manifest,
        config: ValidateConfig,
        scales: Mapping[str, float],
    ) -> None:
        """Take what every comparison needs.

        Args:
            reference: what the file is compared with.
            contract: the file's; its precision decides between the policy and the budgets.
            config: overrides and budgets.
            scales: each output's usual scale, for the budgets.
        """
        self._reference = reference
        self._config = config
        states = {state.output for state in contract.states}
        budgeted = contract.precision in _BUDGETED
        self.budgets = Budgets(config.budget, states, scales) if budgeted else None
        """What an int8 or fp16 file is held to; None for one that must be exact."""
        self._applied = None if config.overridden else self.budgets
        self._file = np.zeros(len(_EDGES) - 1, np.int64)
        self._own = np.zeros(len(_EDGES) - 1, np.int64)
        self._exact = [0, 0]
        self.redrawn = 0
        """Of how many cases the noise floor was drawn anew."""

    @property
    def policy(self) -> str:
        """The rule in words."""
        if self._config.overridden:
            return f"limit = {self._config.atol or 0:g} + {self._config.rtol or 0:g} x max |reference|"
        if self.budgets:
            return str(self.budgets)
        return POLICY

    @property
    def histogram(self) -> Histogram:
        """Every error seen so far."""
        return Histogram(
            tuple(map(float, _EDGES)),
            tuple(map(int, self._file)),
            tuple(map(int, self._own)),
            (self._exact[0], self._exact[1]),
        )

    def lost(self, measured: Measured) -> str:
        """Say why a case tells nothing: rounding alone moves an output of the reference by much."""
        for name, exact in measured.wide.items():
            if is_noise(measured.own[name], exact):
                return f"float32 and float64 runs of the reference give another {name} altogether"
        return ""

    def measure(
        self, run: Run, feeds: Feeds, protocol: Protocol = whole, *, over_a_run: bool = False
    ) -> Measured:
        """Run one case on the file and on the reference, and compare every output.

        Args:
            run: the file.
            feeds: the case.
            protocol: how it is run.
            over_a_run: see ``Budgets.allowed``.

        Raises:
            RefusedError: the reference refuses the case, or its own dtype overflows on it.
            FileFailedError: the file can't run the case.
        """
        known = self._expected(feeds, protocol)
        own, wide = known.ref32, known.ref64
        try:
            got = protocol(run, feeds)
        except Exception as error:
            raise FileFailedError(f"the file does not run: {first_line(error)}") from error
        records = tuple(compare_outputs(got, known))
        if self._applied:
            records = tuple(
                self._applied.held(each, got[each.name], wide[each.name], over_a_run=over_a_run)
                for each in records
            )
        elif self._config.overridden:
            records = tuple(
                compare(name, got[name], exact, floor=0.0, limit=self._config.own_limit(exact))
                for name, exact in wide.items()
            )
        for name in own:
            self._count(self._file, 0, got[name], wide[name])
            self._count(self._own, 1, own[name], wide[name])
        return Measured(got, own, wide, records)

    def reference(
        self, feeds: Feeds, protocol: Protocol = whole
    ) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """Return the reference's outputs in its own dtype and in float64; raises as ``measure`` does."""
        try:
            own, wide = protocol(self._reference.run, feeds), protocol(self._reference.run64, feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusedError(f"the reference itself refuses this: {first_line(error)}") from error
        _check_range(own, wide)
        return own, wide

    def floors(self, feeds: Feeds) -> dict[str, float]:
        """Return each float floor for the record."""
        floors = self._expected(feeds, whole).floors
        return {name: float(array.max(initial=0.0)) for name, array in floors.items()}

    def _expected(self, feeds: Feeds, protocol: Protocol) -> Expected:
        try:
            known = expected(self._reference, feeds, protocol)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusedError(f"the reference itself refuses this: {first_line(error)}") from error
        _check_range(known.ref32, known.ref64)
        return known

    def _count(self, counts: npt.NDArray[np.int64], place: int, one: Array, wide: Array) -> None:
        if one.shape != wide.shape:
            return
        with np.errstate(invalid="ignore"):
            errors = np.abs(one.astype(np.float64) - wide)
        errors = errors[np.isfinite(errors)]
        seen = errors >= 10.0 ** _EDGES[0]
        self._exact[place] += int((~seen).sum())
        counts += np.histogram(np.minimum(np.log10(errors[seen]), _EDGES[-1]), _EDGES)[0]


def _check_range(own: Mapping[str, Array], wide: Mapping[str, Array]) -> None:
    if any((~np.isfinite(own[name]) & np.isfinite(wide[name])).any() for name in own):
        raise RefusedError("the reference itself overflows here in its own dtype")
