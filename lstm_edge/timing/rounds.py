"""Time several calls side by side, in short blocks in turn, so that what disturbs one disturbs all."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lstm_edge_runtime.manifest import Array

__all__ = ["Latency", "Rounds", "Timed", "calibration_workload", "interleave"]

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
        return _summarize(self.calls)


@dataclass(frozen=True)
class Rounds(Generic[_K]):
    """Times of interleaved rounds."""

    timed: Mapping[_K, Timed]
    calibration: Array
    """``(rounds,)`` nanoseconds: the time of the calibration workload in each round."""
    preemptions: float | None
    """How often per second other work took the core away, which p99 and max include. None where not known."""

    @property
    def noise(self) -> float:
        """How much the time of the calibration workload varied: (p90 - p10) / p50."""
        return _noise(self.calibration)


def interleave(calls: Mapping[_K, Call], seconds: float, rounds: int) -> Rounds[_K]:
    """Time each call in ``rounds`` blocks, all calls in every round, in rotating order.

    Args:
        calls: what to time, by name.
        seconds: about how long the whole may take; a call that is too slow for it is called three times a
            round all the same.
        rounds: how many blocks each gets.
    """
    share = seconds / rounds / len(calls)
    counts = {name: _calls_in(call, share) for name, call in calls.items()}
    names = list(calls)
    blocks: dict[_K, list[Array]] = {name: [] for name in names}
    fixed = []
    began, before = time.perf_counter(), _preemptions()
    for index in range(rounds):
        fixed.append(float(np.median([_time(calibration_workload) for _ in range(5)])))
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            blocks[name].append(_block(calls[name], counts[name]))
    after, took = _preemptions(), time.perf_counter() - began
    timed = {
        name: Timed(np.concatenate(found), np.array([np.median(block) for block in found]))
        for name, found in blocks.items()
    }
    lost = None if before is None or after is None else (after - before) / took
    return Rounds(timed, np.array(fixed), lost)


def _noise(rounds: Array) -> float:
    """Return the spread of times that should not change, (p90 - p10) / p50."""
    p10, p50, p90 = np.percentile(rounds, [10, 50, 90])
    return float((p90 - p10) / p50)


def _summarize(nanoseconds: Array) -> Latency:
    """Return the percentiles of call times ``(calls,)`` in nanoseconds."""
    p50, p90, p99, longest = (float(value) / 1e3 for value in np.percentile(nanoseconds, [50, 90, 99, 100]))
    return Latency(p50, p90, p99, longest, len(nanoseconds))


def calibration_workload() -> None:
    """Do the same work each time, about a millisecond of what a step is: small products, Python."""
    matrix, vector = _MATRIX, _VECTOR
    for _ in range(100):
        vector = np.tanh(matrix @ vector)


_MATRIX = np.eye(128, dtype=np.float32) + np.float32(0.01)
_VECTOR = np.full(128, 0.5, np.float32)


def _calls_in(call: Call, seconds: float) -> int:
    """Warm a call up and give how many fit into ``seconds``."""
    for _ in range(_LEAST_CALLS):
        took = _time(call)
    return max(_LEAST_CALLS, int(seconds * 1e9 / max(took, 1)))


def _block(call: Call, count: int) -> Array:
    times = np.empty(count, np.int64)
    clock = time.perf_counter_ns
    for index in range(count):
        began = clock()
        call()
        times[index] = clock() - began
    return times


def _preemptions() -> int | None:
    """Return how often this process lost its core while it had work; POSIX systems only."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _time(call: Call) -> int:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began
