"""The objective of tuning, and the cost of a block of calls under it."""

import time
from dataclasses import dataclass

import numpy as np

from .calls import TimedModel, step_call, streams_call
from .rounds import Call, time_calls

__all__ = ["OBJECTIVES", "Objective"]

_LEAST_CALLS = 5
_UNITS = {
    "latency": "us a step, median",
    "p99": "us a step, 99th percentile",
    "throughput": "us a sample, median",
    "energy": "us of processor time a step, all threads, waiting included",
}
OBJECTIVES = tuple(_UNITS)
"""``latency``, ``p99``, ``throughput`` and ``energy``. No program can read what a board draws: processor time
at the sensor's rate stands for energy, and says nothing of memory, of clocks or of a GPU."""


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
        return _UNITS[self.name]

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
        times = time_calls(call, seconds, self.rate, least=_LEAST_CALLS)
        cpu = time.process_time_ns() - cpu
        costs = {"p99": np.percentile(times, 99), "energy": cpu / len(times)}
        return float(costs.get(self.name, np.median(times))) / 1e3 / self.streams
