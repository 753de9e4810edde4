"""Whether what ``lstm-edge tune`` picks is ever slower than the defaults: every goal, measured again."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lstm_edge.timing.objective import Objective
from lstm_edge.timing.search import _beside, tune

__all__ = ["OBJECTIVES", "tuned"]

OBJECTIVES = (
    Objective("latency"),
    Objective("p99"),
    Objective("throughput", streams=16),
    Objective("energy", rate=200.0),
)


def tuned(paths: list[Path], seconds: float) -> dict[str, dict[str, Any]]:
    """Tune a file and its variants for every goal; then measure the choice beside the defaults again.

    Args:
        paths: the file, and what may take its place.
        seconds: for one search; the measurement afterwards takes half of it.

    Returns:
        By goal: what was chosen, and the ratio of its cost to the defaults' with its interval, measured after
        the search and apart from it; 1 where the defaults themselves were chosen. ``worse`` where all of
        the interval is above 1.
    """
    found = {}
    for goal in OBJECTIVES:
        outcome = tune(paths, goal, seconds, ["CPUExecutionProvider"], len(os.sched_getaffinity(0)))
        ratio = {"ratio": 1.0, "low": 1.0, "high": 1.0}
        if outcome.better:
            ratio = asdict(_beside(outcome.chosen, outcome.default, goal, seconds / 2)[0])
        found[goal.name] = {"chosen": str(outcome.chosen), **ratio, "worse": ratio["low"] > 1}
    return found
