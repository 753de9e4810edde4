"""Inputs: what sensors send on good and on bad days."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import counted

from ..report import Check
from ..subject import Subject

__all__ = ["BEYOND_BUDGET", "TITLE", "check"]

Array = npt.NDArray[Any]

_OFFSET = 6000
TITLE = "Inputs"
_ROWS, _STEPS = 3, 31
_DENORMAL = 1e-40
_BATCH = 16
_SAMPLES, _QUICK_SAMPLES = 256, 16
_BEYOND = frozenset(
    {"a thousand times too large", "extreme (1e30)", "saturated gates, flipping", "one spike", "denormal"}
)
BEYOND_BUDGET = "int8 and fp16 files are judged in the usual range: their ranges follow the largest value"
"""Why a file with a budget is not asked this."""


def check(subject: Subject) -> Iterator[Check]:
    """Compare on real data if given, and on zeros, constants, and magnitudes that saturate or vanish."""
    yield from _real(subject)
    feeds = subject.draw(_ROWS, _STEPS, _OFFSET)
    yield subject.check("random", feeds)
    names = subject.signals()
    if not names:
        return
    signs = subject.rng(6, 1).choice([-1.0, 1.0], size=(_ROWS, _STEPS))
    kinds = {
        "zeros": lambda x: np.zeros_like(x),
        "ones": lambda x: np.ones_like(x),
        "constant": lambda x: np.broadcast_to(x.reshape(-1, x.shape[-1])[0], x.shape),
        "denormal": lambda x: np.sign(x) * _DENORMAL,
        "a thousand times too large": lambda x: x * 1e3,
        "extreme (1e30)": lambda x: np.sign(x) * 1e30,
        "saturated gates, flipping": lambda x: _flip(x, signs),
        "one spike": _spike,
    }
    for about, change in kinds.items():
        if about in _BEYOND and subject.judge.budgets:
            yield Check(about, "skipped", BEYOND_BUDGET)
            continue
        changed = {name: np.asarray(change(feeds[name]), dtype=feeds[name].dtype) for name in names}
        yield subject.check(about, feeds | changed)


def _flip(x: Array, signs: Array) -> Array:
    """Every feature at fifty times its size, all of one sign at a time, from step to step at random."""
    if x.shape[:2] != signs.shape:
        return np.asarray(x * 50.0)
    return np.asarray(np.abs(x) * 50.0 * signs.reshape(*signs.shape, *[1] * (x.ndim - 2)))


def _spike(x: Array) -> Array:
    spiked = np.array(x)
    spiked.reshape(-1)[x.size // 2] += 1e6
    return spiked


def _real(subject: Subject) -> Iterator[Check]:
    if subject.config.data is None:
        return
    most = _QUICK_SAMPLES if subject.config.quick else _SAMPLES
    for part, feeds in subject.sample_batches(most, _BATCH):
        yield subject.check(
            f"data, {counted(len(part), 'sample')} from {part[0]}", feeds, run=subject.run_alone
        )
