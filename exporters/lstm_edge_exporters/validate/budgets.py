"""What an int8 or fp16 file may be away from its reference: the budgets that its gate held it to.

Differences count by their root mean square: a unit that switches one step early is off by its whole range for
that step, and right before and after.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.tolerance import Comparison

from ..quantization import Budget

__all__ = ["Budgets", "usual_scale"]

Array = npt.NDArray[Any]

_SNAPSHOT = 4.0
"""How many times the drift of a whole run the states of a single case may be away: it may end at a switch."""


def usual_scale(array: Array, *, state: bool) -> float:
    """Return what a budget is a share of: the root mean square of a state, the range of another output."""
    return _rms(array) if state else float(np.ptp(array.astype(np.float64)))


class Budgets:
    """Turns shares of the usual into limits."""

    def __init__(self, budget: Budget, states: Collection[str], usual: Mapping[str, float]) -> None:
        """Take the shares, the outputs that are states, and each output's ``usual_scale``."""
        self._budget = budget
        self._states = states
        self._usual = usual

    def __str__(self) -> str:
        """Say the rule in words."""
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
