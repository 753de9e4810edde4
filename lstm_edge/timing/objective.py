"""The objective of tuning, and the cost of a block of calls under it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge.timing.calls import TimedModel, step_call, streams_call
from lstm_edge.timing.rounds import Call

__all__ = ["OBJECTIVES", "Objective"]

_LEAST_CALLS = 5


@dataclass(frozen=True)
class Objective:
    """What to minimize, and in which use."""

    name: str
    """One of ``OBJECTIVES``."""
    rate: float | None = None
    """Calls a second; None for one after the other without a pause."""
    streams: int = 1
    """How many streams share a call."""

    @property
    def unit(self) -> str:
        """What a cost counts."""
        return _COSTS[self.name][1]

    @property
    def least_seconds(self) -> float:
        """What the shortest block takes: at a low rate it waits for its calls."""
        return _LEAST_CALLS / self.rate if self.rate else 0.0

    def call(self, timed_model: TimedModel) -> Call:
        """Return the call that is timed: one step of one stream, or one tick of several."""
        return step_call(timed_model) if self.streams == 1 else streams_call(timed_model, self.streams)

    def cost(self, call: Call, seconds: float) -> float:
        """Return the cost of a block of calls that lasts about ``seconds``."""
        cpu = time.process_time_ns()
        times = self._block(call, seconds)
        return _COSTS[self.name][0](times, time.process_time_ns() - cpu) / self.streams

    def _block(self, call: Call, seconds: float) -> npt.NDArray[np.int64]:
        """Return the time of each call in nanoseconds; without the waiting at its rate."""
        clock = time.perf_counter_ns
        pause = 1e9 / self.rate if self.rate else 0.0
        start, end = clock(), seconds * 1e9
        times: list[int] = []
        while len(times) < _LEAST_CALLS or clock() - start < end:
            began = clock()
            call()
            times.append(clock() - began)
            wait = start + pause * len(times) - clock()
            if pause and wait > 0:
                time.sleep(wait / 1e9)
        return np.array(times)


def _median(times: npt.NDArray[Any], cpu: int) -> float:  # noqa: ARG001
    return float(np.median(times)) / 1e3


def _p99(times: npt.NDArray[Any], cpu: int) -> float:  # noqa: ARG001
    return float(np.percentile(times, 99)) / 1e3


def _cpu(times: npt.NDArray[Any], cpu: int) -> float:
    return cpu / len(times) / 1e3


_COSTS: dict[str, tuple[Callable[[npt.NDArray[Any], int], float], str]] = {
    "latency": (_median, "us a step, median"),
    "p99": (_p99, "us a step, 99th percentile"),
    "throughput": (_median, "us a sample, median"),
    "energy": (_cpu, "us of processor time a step, all threads, waiting included"),
}

OBJECTIVES = tuple(_COSTS)
"""``latency``, ``p99``, ``throughput`` and ``energy``. No program can read what a board draws: processor time
at the sensor's rate stands for energy, and says nothing of memory, of clocks or of a GPU."""
