"""Time several calls side by side, in short blocks in turn, so that disturbances affect all of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lstm_edge_runtime.manifest import Array

Call = Callable[[], object]
_K = TypeVar("_K")

_LEAST_CALLS = 3
"""A block's median needs some."""


@dataclass(frozen=True)
class Latency:
    """Percentiles of one call's time, in microseconds."""

    p50: float
    p90: float
    p99: float
    max: float
    count: int


@dataclass(frozen=True)
class Timed:
    """One call's times: every one, and the median of each round."""

    calls: Array
    """``(calls,)`` nanoseconds."""
    rounds: Array
    """``(rounds,)`` nanoseconds, each the median of a block."""

    @property
    def latency(self) -> Latency:
        """The percentiles over all rounds."""
        p50, p90, p99, longest = (np.percentile(self.calls, [50, 90, 99, 100]) / 1e3).tolist()
        return Latency(p50, p90, p99, longest, len(self.calls))


@dataclass(frozen=True)
class Rounds(Generic[_K]):
    """Times of interleaved rounds."""

    timed: Mapping[_K, Timed]
    calibration: Array
    """``(rounds,)`` nanoseconds: the time of the calibration workload in each round."""
    preemptions: float | None
    """Preemptions per second by other work, which p99 and max include. None if unknown."""

    @property
    def noise(self) -> float:
        """Variation of the calibration workload's time: (p90 - p10) / p50."""
        p10, p50, p90 = np.percentile(self.calibration, [10, 50, 90])
        return float((p90 - p10) / p50)


def interleave(calls: Mapping[_K, Call], seconds: float, rounds: int) -> Rounds[_K]:
    """Time each call in ``rounds`` blocks, all calls in every round, in rotating order.

    Args:
        calls: the calls by name.
        seconds: approximate total duration; a slower call is still called three times per round.
        rounds: number of blocks of each.
    """
    share = seconds / rounds / len(calls)
    for call in calls.values():
        time_calls(call, 0, least=_LEAST_CALLS)  # to warm up
    names = list(calls)
    blocks: dict[_K, list[Array]] = {name: [] for name in names}
    fixed = []
    began, before = time.perf_counter(), _preemptions()
    for index in range(rounds):
        fixed.append(float(np.median(time_calls(calibration_workload, 0, least=5))))
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            blocks[name].append(time_calls(calls[name], share, least=_LEAST_CALLS))
    after, took = _preemptions(), time.perf_counter() - began
    timed = {
        name: Timed(np.concatenate(found), np.array([np.median(block) for block in found]))
        for name, found in blocks.items()
    }
    lost = None if before is None or after is None else (after - before) / took
    return Rounds(timed, np.array(fixed), lost)


def time_calls(call: Call, seconds: float, rate: float | None = None, *, least: int) -> Array:
    """Return the time of each call ``(calls,)`` in nanoseconds.

    Args:
        call: the call.
        seconds: minimum duration.
        rate: calls a second, with a pause between them that counts as no time; None for no pause.
        least: minimum number of calls.
    """
    clock = time.perf_counter_ns
    pause = 1e9 / rate if rate else 0.0
    start, end = clock(), seconds * 1e9
    times: list[int] = []
    while len(times) < least or clock() - start < end:
        began = clock()
        call()
        times.append(clock() - began)
        if pause and (wait := start + pause * len(times) - clock()) > 0:
            time.sleep(wait / 1e9)
    return np.array(times)


def calibration_workload() -> None:
    """Do the same work each time, about a millisecond of small products and Python, as a step does."""
    matrix, vector = _MATRIX, _VECTOR
    for _ in range(100):
        vector = np.tanh(matrix @ vector)


_MATRIX = np.eye(128, dtype=np.float32) + np.float32(0.01)
_VECTOR = np.full(128, 0.5, np.float32)


def _preemptions() -> int | None:
    """Return the number of preemptions of this process; POSIX systems only."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
