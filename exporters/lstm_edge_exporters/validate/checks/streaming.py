"""Streaming: any cut of a sequence equals the whole, and a long run does not drift away."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.carried import even_sizes

from ...numerics.cases import in_chunks, last_steps, random_sizes
from ...quantization.config import STEPS
from ..judge import Measured
from ..report import Check, Curve
from ..subject import Subject

__all__ = ["check_streaming"]

Array = npt.NDArray[Any]

_OFFSET = 5000
_ROWS, _STEPS = 3, 61
_CUTS, _QUICK_CUTS = 8, 3
_CHUNK = 100
"""Steps a call in the long run."""
_SETTLED = {"steps": 50, "drift": 3}
"""Calls whose noise floors serve for the whole of a run, unless they turn out too small for it."""
_SINGLE_STEPS, _QUICK_SINGLE_STEPS = 256, 100


def check_streaming(subject: Subject) -> Iterator[Check]:
    """Cut sequences with states carried, step by step and at random; then run for long."""
    if reason := _not_applicable(subject):
        yield Check("streaming", "skipped", reason)
        return
    feeds = subject.full(subject.draw(_ROWS, _STEPS, _OFFSET))
    count = _QUICK_CUTS if subject.config.quick else _CUTS
    cuts = [random_sizes(_STEPS, subject.rng(5, 1, place)) for place in range(count)]
    for place, sizes in enumerate([even_sizes(_STEPS, 1), *cuts]):
        about = "step by step" if place == 0 else f"random cut {place} ({len(sizes)} chunks)"
        yield subject.check(f"{about} equals the whole", feeds, in_chunks(subject.manifest, sizes))
    single = _QUICK_SINGLE_STEPS if subject.config.quick else _SINGLE_STEPS
    yield _long_run(subject, "steps", f"{single} single steps", single, 1)
    long = subject.config.long_steps
    yield _long_run(subject, "drift", f"{long} steps in chunks of {_CHUNK}", long, _CHUNK)
    if subject.judge.budgets and subject.config.data is not None:
        # as the gate of an int8 or fp16 file went through it
        procedure = last_steps(subject.manifest, even_sizes(STEPS, 1))
        name, feeds = f"{STEPS} single steps of the data", subject.timeline(STEPS)
        yield subject.check(name, feeds, procedure, over_a_run=True)


def _not_applicable(subject: Subject) -> str:
    if not subject.manifest.states:
        return "neither the file nor its reference carries states"
    if subject.manifest.sequence is None:
        return "the file takes one step, or one fixed number of steps, a call"
    return subject.unstreamable and f"the reference can't be streamed: {subject.unstreamable}"


def _long_run(subject: Subject, key: str, name: str, steps: int, chunk: int) -> Check:
    """Carry states over many calls and keep the curve of errors."""
    rows = 1 if key == "steps" else 2
    feeds = subject.full(subject.draw(rows, steps, _OFFSET + 2, at_reset=True))
    sizes = even_sizes(steps, chunk)

    def keep(measured: Measured) -> None:
        setattr(subject.figures, key, _curve(measured, np.cumsum(sizes).tolist()))

    first = sizes[: _SETTLED[key]]
    beginning = subject.first_steps(feeds, sum(first)), last_steps(subject.manifest, first)
    procedure = last_steps(subject.manifest, sizes)
    return subject.check(name, feeds, procedure, beginning=beginning, see=keep)


def _curve(measured: Measured, steps: list[int]) -> Curve:
    known = measured.known
    error, floor = (
        np.max([_by_piece(side[name], known.ref64[name]) for name in known.ref64], axis=0)
        for side in (measured.got, known.ref32)
    )
    return Curve(tuple(steps), tuple(map(float, error)), tuple(map(float, floor)))


def _by_piece(one: Array, wide: Array) -> Array:
    if one.shape != wide.shape:
        return np.full(len(wide), np.inf)
    difference = np.abs(one.astype(np.float64) - wide)
    return np.asarray(difference.reshape(len(wide), -1).max(axis=1, initial=0.0))
