"""Comparing a file with its reference on the same arrays, by the one tolerance policy."""

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.tolerance import MULTIPLE, ULPS, Comparison, compare, limit_for

from ..numerics.noise import DRAWS, apart, near, raised
from ..numerics.verify import Reference
from ._budgets import Budgets
from ._file import Runner
from .config import ValidateConfig
from .report import Histogram

__all__ = ["Feeds", "FileFailedError", "Judge", "Measured", "Protocol", "RefusedError", "Shakeable", "whole"]

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Protocol = Callable[[Runner, Feeds], Mapping[str, Array]]
"""How a case is run: whole, in chunks, row by row; the same way for the file and for its reference."""

_EDGES = np.arange(-20.0, 4.01, 0.25)
_BUDGETED = ("int8", "fp16")

_LOST = 0.1
"""A noise floor of this share of an output is no yardstick for it."""
_HOPELESS = 4.0
"""A difference still so many limits away, which one more draw has not halved, is not drawn for again."""


def whole(run: Runner, feeds: Feeds) -> Mapping[str, Array]:
    """Run a case in one call."""
    return run(feeds)


class Shakeable(Reference, typing.Protocol):
    """A reference that can show what a kernel's own rounding may do."""

    def shaken(self, draw: int) -> Reference:
        """Return a copy whose recurrent layers err in float64 by one float32 place; another for each draw."""


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
        reference: Shakeable,
        contract: Manifest,
        config: ValidateConfig,
        scales: Mapping[str, float],
        units: Mapping[str, Array],
    ) -> None:
        """Take what every comparison needs.

        Args:
            reference: what the file is compared with.
            contract: the file's; its precision decides between the policy and the budgets.
            config: overrides and budgets.
            scales: each output's usual scale, for the budgets.
            units: the usual scale of each signal, by feature where its features have scales of their own;
                that of states is 1, the range of the gates.
        """
        self._reference = reference
        self._config = config
        self._units = dict(units) | {state.input: np.float64(1) for state in contract.states}
        states = {state.output for state in contract.states}
        budgeted = contract.precision in _BUDGETED
        self.budgets = Budgets(config.budget, states, scales) if budgeted else None
        """What an int8 or fp16 file is held to; None for one that must be exact."""
        self._applied = None if config.overridden else self.budgets
        self._file = np.zeros(len(_EDGES) - 1, np.int64)
        self._own = np.zeros(len(_EDGES) - 1, np.int64)
        self._exact = [0, 0]
        self._shaken: dict[int, Reference] = {}
        self.redrawn = 0
        """Of how many cases the noise floor was drawn anew."""

    @property
    def policy(self) -> str:
        """The rule in words."""
        if self._config.overridden:
            return f"limit = {self._config.atol or 0:g} + {self._config.rtol or 0:g} x max |reference|"
        if self.budgets:
            return str(self.budgets)
        return (
            f"limit = {MULTIPLE:g} x noise floor + {ULPS:g} ULP; the floor is the reference's own error "
            "against its float64 run of the same case"
        )

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
        for each in measured.records:
            scale = _scale(measured.wide[each.name])
            if each.floor > _LOST * scale and scale > np.finfo(np.float32).eps:
                by = f"{each.floor:.2g}, of at most {scale:.2g}"
                return f"rounding alone moves {each.name} of the reference by {by}"
        return ""

    def measure(
        self, run: Runner, feeds: Feeds, protocol: Protocol = whole, *, over_a_run: bool = False
    ) -> Measured:
        """Run one case on the file and on the reference, and compare every output.

        A floor is itself one draw of rounding errors; where a difference passes the limit, it is drawn again
        from nearby inputs (see ``floors``) before that counts as an alarm.

        Args:
            run: the file.
            feeds: the case.
            protocol: how it is run.
            over_a_run: see ``Budgets.allowed``.

        Raises:
            RefusedError: the reference refuses the case, or its own dtype overflows on it.
            FileFailedError: the file can't run the case.
        """
        own, wide = self.reference(feeds, protocol)
        try:
            got = protocol(run, feeds)
        except Exception as error:
            raise FileFailedError(f"the file does not run: {first_line(error)}") from error
        floors = {name: apart(own[name], wide[name]) for name in own}
        records = self._records(got, own, wide, floors)
        if self._applied:
            records = tuple(
                self._applied.held(each, got[each.name], wide[each.name], over_a_run=over_a_run)
                for each in records
            )
        elif not self._config.overridden:
            records = self._drawn_anew(records, feeds, protocol, (got, own, wide), floors)
        for name in own:
            self._count(self._file, 0, got[name], wide[name])
            self._count(self._own, 1, own[name], wide[name])
        return Measured(got, own, wide, records)

    def again(self, record: Comparison, title: str, got: Array, expected: Array) -> Comparison:
        """Compare two other arrays of the output that ``record`` is of, by its limit."""
        found = compare(title, got, expected, floor=record.floor, limit=record.limit)
        return self._applied.held(found, got, expected, name=record.name) if self._applied else found

    def reference(
        self, feeds: Feeds, protocol: Protocol = whole
    ) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """Return the reference's outputs in its own dtype and in float64; raises as ``measure`` does."""
        return self._both(feeds, protocol, self._reference.run64)

    def _both(
        self, feeds: Feeds, protocol: Protocol, run64: Runner
    ) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        try:
            own, wide = protocol(self._reference.run, feeds), protocol(run64, feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusedError(f"the reference itself refuses this: {first_line(error)}") from error
        if any((~np.isfinite(own[name]) & np.isfinite(wide[name])).any() for name in own):
            raise RefusedError("the reference itself overflows here in its own dtype")
        return own, wide

    def _drawn_anew(
        self,
        records: tuple[Comparison, ...],
        feeds: Feeds,
        protocol: Protocol,
        sides: tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]],
        floors: Mapping[str, float],
    ) -> tuple[Comparison, ...]:
        """Draw the floors again while a difference is in doubt."""
        for draw in range(DRAWS):
            worst = max(each.ratio for each in records)
            if not 1.0 < worst < math.inf:
                break
            self.redrawn += draw == 0
            try:
                floors = dict(floors) | self._raised(floors, sides[2], feeds, protocol, draw)
            except RefusedError:
                break
            records = self._records(*sides, floors)
            if max(each.ratio for each in records) > max(_HOPELESS, worst / 2):
                break
        return records

    def floors(self, feeds: Feeds, own: Mapping[str, Array], wide: Mapping[str, Array]) -> dict[str, float]:
        """Return each float floor for the record, from several draws: a device can't draw its own."""
        floors = {name: apart(own[name], wide[name]) for name in own if own[name].dtype.kind == "f"}
        for draw in range(DRAWS):
            floors = self._raised(floors, wide, feeds, whole, draw)
        return floors

    def _raised(
        self,
        floors: Mapping[str, float],
        wide: Mapping[str, Array],
        feeds: Feeds,
        protocol: Protocol,
        draw: int,
    ) -> dict[str, float]:
        if draw not in self._shaken:
            self._shaken[draw] = self._reference.shaken(draw)
        nearby = near(feeds, draw, self._units)
        return raised(floors, wide, *self._both(nearby, protocol, self._shaken[draw].run64))

    def _records(
        self,
        got: Mapping[str, Array],
        own: Mapping[str, Array],
        wide: Mapping[str, Array],
        floors: Mapping[str, float],
    ) -> tuple[Comparison, ...]:
        return tuple(
            compare(
                name,
                got[name],
                wide[name],
                floor=floors[name],
                limit=self._limit(wide[name], floors[name], own[name].dtype),
                dtype=own[name].dtype.name if own[name].dtype.kind == "f" else "float64",
            )
            for name in own
        )

    def _limit(self, wide: Array, floor: float, dtype: np.dtype[Any]) -> float:
        if dtype.kind != "f":
            return 0.0
        if self._config.overridden:
            return self._config.own_limit(wide)
        return limit_for(wide, floor, dtype.name)

    def _count(self, counts: npt.NDArray[np.int64], place: int, one: Array, wide: Array) -> None:
        if one.shape != wide.shape:
            return
        with np.errstate(invalid="ignore"):
            errors = np.abs(one.astype(np.float64) - wide)
        errors = errors[np.isfinite(errors)]
        seen = errors >= 10.0 ** _EDGES[0]
        self._exact[place] += int((~seen).sum())
        counts += np.histogram(np.minimum(np.log10(errors[seen]), _EDGES[-1]), _EDGES)[0]


def _scale(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))
