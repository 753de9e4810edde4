"""Lengths: rows of different length in one batch, and padding whose content must not matter."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ...numerics.noise import Procedure, Run
from ..judge import Feeds
from ..report import Check
from ..subject import Subject

__all__ = ["TITLE", "check"]

Array = npt.NDArray[Any]

_OFFSET = 4000
TITLE = "Lengths"
_ROWS, _STEPS = 5, 23


def check(subject: Subject) -> Iterator[Check]:
    """Compare at random, full and single-step lengths, in every order, and with garbage as padding."""
    name = subject.manifest.lengths
    if name is None:
        yield Check("lengths", "skipped", "the file takes no lengths")
        return
    feeds = subject.draw(_ROWS, _STEPS, _OFFSET)
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
    for about, garbage in (("NaN", np.nan), ("1e30", 1e30)):
        yield subject.check(f"padding of {about}", feeds, _with_padding(subject, garbage))


def _with_padding(subject: Subject, garbage: float) -> Procedure:
    manifest = subject.manifest

    def procedure(run: Run, feeds: Feeds) -> dict[str, Array]:
        padded = dict(feeds)
        for spec in manifest.inputs:
            if spec.name in subject.signals() and {manifest.batch, manifest.sequence} <= set(spec.axes):
                batch, time = spec.axes.index(manifest.batch or ""), spec.axes.index(manifest.sequence or "")
                moved = np.moveaxis(feeds[spec.name].copy(), (batch, time), (0, 1))
                for row, length in enumerate(feeds[manifest.lengths or ""]):
                    moved[row, int(length) :] = garbage
                padded[spec.name] = np.moveaxis(moved, (0, 1), (batch, time))
        return dict(run(padded))

    return procedure
