"""States: where a stream may start from, and rows that must not know of each other."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

from ...numerics.cases import row_by_row
from ...numerics.noise import Run
from ..judge import Feeds, RefusedError
from ..report import Check
from ..subject import Subject
from .inputs import BEYOND_BUDGET

__all__ = ["TITLE", "check"]

Array = npt.NDArray[Any]

_OFFSET = 2000
TITLE = "States"
_ROWS, _STEPS = 4, 9
_LARGE = 10.0
"""Beyond what gates give: h stays within 1, c grows by at most 1 a step."""
_WARM_STEPS = 200


def check(subject: Subject) -> Iterator[Check]:
    """Start from reset, random, large and long-run states; then take rows out of their batch."""
    manifest = subject.manifest
    if manifest.states:
        yield subject.check("at reset", subject.draw(_ROWS, _STEPS, _OFFSET, at_reset=True))
        feeds = subject.draw(_ROWS, _STEPS, _OFFSET + 1)
        yield subject.check("random", feeds)
        large = {
            state.input: feeds[state.input] * feeds[state.input].dtype.type(_LARGE)
            for state in manifest.states
        }
        if subject.judge.budgets is None:
            yield subject.check("large", feeds | large)
        else:
            yield Check("large", "skipped", BEYOND_BUDGET)
        for state in manifest.states:
            own = subject.draw(_ROWS, _STEPS, _OFFSET, at_reset=True) | {state.input: feeds[state.input]}
            yield subject.check(f"only {state.input} away from reset", own)
        yield _after_long_run(subject, feeds)
    if manifest.batch is not None:
        yield _independent(subject)


def _after_long_run(subject: Subject, feeds: dict[str, Array]) -> Check:
    name = f"after {_WARM_STEPS} steps"
    try:
        own, _ = subject.judge.reference(subject.draw(_ROWS, _WARM_STEPS, _OFFSET + 2, at_reset=True))
    except RefusedError as error:
        return Check(name, "skipped", str(error))
    ends = {state.input: own[state.output].astype(state.dtype) for state in subject.manifest.states}
    return subject.check(name, feeds | ends)


def _independent(subject: Subject) -> Check:
    """Run each row of a batch alone, on both sides."""
    feeds = subject.full(subject.draw(_ROWS, _STEPS, _OFFSET + 3))  # short rows alone may give short outputs

    def one_by_one(run: Run, feeds: Feeds) -> Mapping[str, Array]:
        return row_by_row(subject.manifest, run)(feeds)

    return subject.check("rows of a batch are independent", feeds, one_by_one)
