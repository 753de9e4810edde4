"""Lengths: rows of different length in one batch, and padding whose content must not matter."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .._file import Runner
from .._judge import Feeds, Protocol
from .._subject import Subject
from ..report import Check

__all__ = ["TITLE", "check"]

Array = npt.NDArray[Any]

_SALT = 4000
TITLE = "Lengths"
_ROWS, _STEPS = 5, 23


def check(subject: Subject) -> Iterator[Check]:
    """Compare at random, full and single-step lengths, in every order, and with rubbish as padding."""
    name = subject.contract.lengths
    if name is None:
        yield Check("lengths", "skipped", "the file takes no lengths")
        return
    feeds = subject.draw(_ROWS, _STEPS, _SALT)
    kinds = {
        "random, one row full": feeds[name],
        "random, no row full": np.minimum(feeds[name], _STEPS - 2),
        "all full": np.full(_ROWS, _STEPS),
        "all one": np.ones(_ROWS),
        "falling": -np.sort(-feeds[name]),
        "rising": np.sort(feeds[name]),
    }
    for about, lengths in kinds.items():
        yield subject.check(about, feeds | {name: lengths.astype(feeds[name].dtype)})
    for about, rubbish in (("NaN", np.nan), ("1e30", 1e30)):
        yield subject.check(f"padding of {about}", feeds, _padded(subject, rubbish))


def _padded(subject: Subject, rubbish: float) -> Protocol:
    contract = subject.contract

    def protocol(run: Runner, feeds: Feeds) -> dict[str, Array]:
        padded = dict(feeds)
        for spec in contract.inputs:
            if spec.name in subject.signals() and {contract.batch, contract.sequence} <= set(spec.axes):
                batch, time = spec.axes.index(contract.batch or ""), spec.axes.index(contract.sequence or "")
                moved = np.moveaxis(feeds[spec.name].copy(), (batch, time), (0, 1))
                for row, length in enumerate(feeds[contract.lengths or ""]):
                    moved[row, int(length) :] = rubbish
                padded[spec.name] = np.moveaxis(moved, (0, 1), (batch, time))
        return dict(run(padded))

    return protocol
