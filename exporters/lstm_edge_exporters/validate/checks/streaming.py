"""Streaming: any cut of a sequence equals the whole, and a long run does not drift away."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...quantization.judge import STEPS
from .._chunks import Cuts, even_cuts, in_chunks, on_record, random_cuts
from .._judge import FileFailedError, Measured, RefusedError
from .._subject import Subject
from ..report import Check, Curve

__all__ = ["TITLE", "check"]

Array = npt.NDArray[Any]

_SALT = 5000
TITLE = "Streaming"
_ROWS, _STEPS = 3, 61
_CUTS, _QUICK_CUTS = 8, 3
_CHUNK = 100
"""Steps a call in the long run."""
_SINGLE_STEPS, _QUICK_SINGLE_STEPS = 256, 100
_SAME = 1e-9
"""How far apart, relative to their scale, two float64 runs of the same sums may be."""


def check(subject: Subject) -> Iterator[Check]:
    """Cut sequences with states carried, step by step and at random; then run for long."""
    reason = _unfit(subject)
    if reason:
        yield Check("streaming", "skipped", reason)
        return
    feeds = _full(subject, subject.draw(_ROWS, _STEPS, _SALT), _STEPS)
    count = _QUICK_CUTS if subject.config.quick else _CUTS
    cuts = [random_cuts(_STEPS, subject.rng(5, 1, place)) for place in range(count)]
    for place, cut in enumerate([even_cuts(_STEPS, 1), *cuts]):
        about = "step by step" if place == 0 else f"random cut {place} ({len(cut)} pieces)"
        yield _equal_whole(subject, f"{about} equals the whole", feeds, cut)
    single = _QUICK_SINGLE_STEPS if subject.config.quick else _SINGLE_STEPS
    yield _run(subject, "steps", f"{single} single steps", single, 1)
    long = subject.config.long_steps
    yield _run(subject, "drift", f"{long} steps in chunks of {_CHUNK}", long, _CHUNK)
    if subject.judge.budgets and subject.config.data is not None:
        yield _on_data(subject)


def _unfit(subject: Subject) -> str:
    if not subject.contract.states:
        return "the file carries no states"
    if subject.contract.sequence is None:
        return "the file takes one step a call"
    return subject.contract.unstreamable


def _full(subject: Subject, feeds: dict[str, Array], steps: int) -> dict[str, Array]:
    """Return ``feeds`` with no padding."""
    name = subject.contract.lengths
    return feeds | {name: np.full_like(feeds[name], steps)} if name else feeds


def _equal_whole(subject: Subject, name: str, feeds: Mapping[str, Array], cuts: Cuts) -> Check:
    """Compare with the reference cut alike, which in float64 must itself equal its run of the whole."""
    protocol = in_chunks(subject.contract, cuts)
    try:
        whole = subject.judge.reference(feeds)[1]
        pieces = subject.judge.reference(feeds, protocol)[1]
    except RefusedError as error:
        return Check(name, "skipped", str(error))
    for output in pieces:
        expected = whole[output]
        scale = float(np.max(np.abs(expected), initial=0.0))
        if not np.allclose(pieces[output], expected, rtol=0.0, atol=_SAME * scale, equal_nan=True):
            away = float(np.abs(pieces[output] - expected).max())
            return Check(
                name,
                "failed",
                f"in the reference itself {output} of pieces with states carried is {away:.3g} away from the "
                "whole: this network can't be streamed, and the file does not say so",
            )
    return subject.check(name, feeds, protocol)


def _run(subject: Subject, key: str, name: str, steps: int, chunk: int) -> Check:
    """Carry states over many calls and keep the curve of errors."""
    rows = 1 if key == "steps" else 2
    feeds = _full(subject, subject.draw(rows, steps, _SALT + 2, fresh=True), steps)
    cuts = even_cuts(steps, chunk)
    began = time.perf_counter()
    try:
        measured = subject.judge.measure(subject.run, feeds, on_record(subject.contract, cuts))
    except RefusedError as error:
        return Check(name, "skipped", str(error))
    except FileFailedError as error:
        return Check(name, "failed", str(error))
    subject.figures[key] = _curve(measured, [stop for _, stop in cuts])
    return subject.verdict(name, measured, began)


def _on_data(subject: Subject) -> Check:
    """Go through the data step by step, as the gate of an int8 or fp16 file did."""
    name, began = f"{STEPS} single steps of the data", time.perf_counter()
    feeds, protocol = subject.timeline(STEPS), on_record(subject.contract, even_cuts(STEPS, 1))
    try:
        measured = subject.judge.measure(subject.run, feeds, protocol, over_a_run=True)
    except RefusedError as error:
        return Check(name, "skipped", str(error))
    except FileFailedError as error:
        return Check(name, "failed", str(error))
    return subject.verdict(name, measured, began)


def _curve(measured: Measured, steps: list[int]) -> Curve:
    error, floor = (
        np.max([_by_piece(side[name], measured.wide[name]) for name in measured.own], axis=0)
        for side in (measured.got, measured.own)
    )
    return Curve(tuple(steps), tuple(map(float, error)), tuple(map(float, floor)))


def _by_piece(one: Array, wide: Array) -> Array:
    if one.shape != wide.shape:
        return np.full(len(wide), np.inf)
    difference = np.abs(one.astype(np.float64) - wide)
    return np.asarray(difference.reshape(len(wide), -1).max(axis=1, initial=0.0))
