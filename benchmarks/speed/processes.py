"""What needs a fresh process: the time to import and load, and the memory of many streams."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Times, run

__all__ = ["loading_seconds", "memory_of_streams"]

_CLOCK = "import sys, time; start = time.perf_counter()\n"
_OURS = _CLOCK + (
    "import lstm_edge_runtime; lstm_edge_runtime.load(sys.argv[1], threads=1, engine=sys.argv[2])\n"
    "print(time.perf_counter() - start)"
)
_PLAIN = _CLOCK + (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'\n"
    "import onnxruntime as ort; o = ort.SessionOptions(); o.intra_op_num_threads = 1\n"
    "ort.InferenceSession(sys.argv[1], o, providers=['CPUExecutionProvider'])\n"
    "print(time.perf_counter() - start)"
)
_MEMORY = """
import gc, os, sys
import numpy as np
from lstm_edge_runtime import load
model, kind, count, some = load(sys.argv[1]), sys.argv[2], int(sys.argv[3]), 50
x = np.zeros((count, model.inputs[0].axes[-1]), np.float32)

def rss():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def ticked(count, together):
    batch = model.streams(count)
    ids = np.array([batch.add() for _ in range(count)])
    for start in (*range(0, count, together), *range(0, count, together)):
        rows = ids[start : start + together]
        batch.step(x[: len(rows)], rows)
    return batch

first = model.stream()
first.step(x[0])
kept = ticked(some, some - 1)
before = rss()
if kind == "objects":
    kept = [model.stream() for _ in range(count)]
    for stream in kept:
        stream.step(x[0])
else:
    kept = ticked(count, count if kind == "at once" else some - 1)
size = count * sum(array.nbytes for array in first.state.values())
print((rss() - before) / size)
"""


def loading_seconds(path: Path, kinds: Sequence[str], repeats: int) -> Times:
    """Return the time of import and load, alternately: by engine, or ``plain`` for onnxruntime alone."""
    times = Times((kind, []) for kind in kinds)
    for repeat in range(repeats + 1):
        for kind, seconds in times.items():
            taken = float(_python(_PLAIN if kind == "plain" else _OURS, path, kind))
            if repeat:  # the first fills the page cache
                seconds.append(taken)
    return times


def memory_of_streams(path: Path, count: int, kind: str, repeats: int) -> float:
    """Return resident memory beyond one session at work, in bytes of state: the median over processes.

    Args:
        path: the model file.
        count: number of sources.
        kind: ``some at once``, a ``StreamBatch`` ticked by 49 sources, compared with one of 50 that does the
            same; ``at once``, ticked by all, with the session's working memory for that; ``objects``,
            ``Stream`` objects.
        repeats: number of processes.
    """
    return statistics.median(float(_python(_MEMORY, path, kind, count)) for _ in range(repeats))


def _python(program: str, *arguments: object) -> str:
    return run(sys.executable, "-I", "-c", program, *arguments)
