"""States: where a stream may start from, and rows that must not know of each other."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.tolerance import Comparison

from .._judge import FileFailedError, Measured, RefusedError
from .._rows import take_row
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
    """Compare each row of a batch with the same row run alone."""
    name, contract = "rows of a batch are independent", subject.contract
    feeds = subject.draw(_ROWS, _STEPS, _SALT + 3)
    if contract.lengths is not None:  # shorter rows alone may give shorter outputs
        feeds[contract.lengths] = np.full_like(feeds[contract.lengths], feeds[contract.lengths].max())
    try:
        batch = subject.judge.measure(subject.run, feeds)
    except RefusedError as error:
        return Check(name, "skipped", str(error))
    except FileFailedError as error:
        return Check(name, "failed", str(error))
    records: list[Comparison] = []
    for row in range(_ROWS):
        taken = {each: take_row(contract, each, array, row, _ROWS) for each, array in feeds.items()}
        try:
            alone = subject.run(taken)
        except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
            return Check(name, "failed", f"row {row} alone does not run: {first_line(error)}")
        records += _compare_row(subject, batch, alone, row)
    if not records:
        return Check(name, "skipped", "no output has the batch axis")
    worst = max(records, key=lambda each: each.ratio)
    return Check(name, "passed" if worst.ok else "failed", "" if worst.ok else str(worst), worst)


def _compare_row(
    subject: Subject, batch: Measured, alone: Mapping[str, Array], row: int
) -> Iterator[Comparison]:
    for record in batch.records:
        got = batch.got[record.name]
        together = take_row(subject.contract, record.name, got, row, _ROWS)
        if together is not got:
            yield subject.judge.again(record, f"row {row} of {record.name}", alone[record.name], together)
