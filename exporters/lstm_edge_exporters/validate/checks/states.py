"""States: where a stream may start from, and rows that must not know of each other."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...numerics.noise import Run
from .._judge import Feeds, RefusedError
from .._rows import row_by_row
from .._subject import Subject
from ..report import Check
from .inputs import BEYOND_BUDGET

__all__ = ["TITLE", "check"]

Array = npt.NDArray[Any]

_SALT = 2000
TITLE = "States"
_ROWS, _STEPS = 4, 9
_LARGE = 10.0
"""Beyond what gates give: h stays within 1, c grows by at most 1 a step."""
_WARM_STEPS = 200


def check(subject: Subject) -> Iterator[Check]:
    """Start from reset, random, large and long-run states; then take rows out of their batch."""
    contract = subject.contract
    if contract.states:
        yield subject.check("at reset", subject.draw(_ROWS, _STEPS, _SALT, fresh=True))
        feeds = subject.draw(_ROWS, _STEPS, _SALT + 1)
        yield subject.check("random", feeds)
        large = {
            state.input: feeds[state.input] * feeds[state.input].dtype.type(_LARGE)
            for state in contract.states
        }
        if subject.judge.budgets is None:
            yield subject.check("large", feeds | large)
        else:
            yield Check("large", "skipped", BEYOND_BUDGET)
        for state in contract.states:
            own = subject.draw(_ROWS, _STEPS, _SALT, fresh=True) | {state.input: feeds[state.input]}
            yield subject.check(f"only {state.input} away from reset", own)
        yield _after_long_run(subject, feeds)
    if contract.batch is not None:
        yield _independent(subject)


def _after_long_run(subject: Subject, feeds: dict[str, Array]) -> Check:
    name = f"after {_WARM_STEPS} steps"
    try:
        own, _ = subject.judge.reference(subject.draw(_ROWS, _WARM_STEPS, _SALT + 2, fresh=True))
    except RefusedError as error:
        return Check(name, "skipped", str(error))
    ends = {state.input: own[state.output].astype(state.dtype) for state in subject.contract.states}
    return subject.check(name, feeds | ends)


def _independent(subject: Subject) -> Check:
    """Run each row of a batch alone, on both sides."""
    contract = subject.contract
    feeds = subject.draw(_ROWS, _STEPS, _SALT + 3)
    if contract.lengths is not None:  # shorter rows alone may give shorter outputs
        feeds[contract.lengths] = np.full_like(feeds[contract.lengths], feeds[contract.lengths].max())

    def one_by_one(run: Run, feeds: Feeds) -> Mapping[str, Array]:
        return row_by_row(contract, run)(feeds)

    return subject.check("rows of a batch are independent", feeds, one_by_one)
