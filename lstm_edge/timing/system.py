"""Costs of a file other than step times: loading, memory, and the processor while waiting for samples."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lstm_edge_exporters.processes import run_program
from lstm_edge_runtime.errors import CheckFailedError

from .rounds import Call, time_calls

_STARTS = 3
_STEPS = 200
"""Enough for every buffer to be there."""

_CHILD = """
import json, sys, time
def peak():
    try:
        with open("/proc/self/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), None)
    except OSError:
        return None
settings = json.loads(sys.argv[2])
start = time.perf_counter()
import lstm_edge_runtime
if sys.argv[1].endswith(".onnx"):
    from lstm_edge_runtime.ort import import_onnxruntime
    import_onnxruntime()
imported, bare = time.perf_counter(), peak()
model = lstm_edge_runtime.load(sys.argv[1], **settings)
loaded = time.perf_counter()
from lstm_edge.timing.calls import TimedModel, chunk_call, step_call
timed_model = TimedModel("", None, model)
call = step_call(timed_model) if timed_model.streamable else chunk_call(timed_model, 16)
for _ in range(int(sys.argv[3])):
    call()
print(json.dumps([imported - start, loaded - imported, bare, peak()]))
"""
"""Run in a separate process. Linux's VmHWM starts over with it, ru_maxrss does not."""


@dataclass(frozen=True)
class LoadCost:
    """Cost of starting a process and opening a file in it; medians of several processes."""

    import_ms: float
    """Importing numpy, the runtime and, for an ``.onnx`` file, onnxruntime."""
    load_ms: float
    """``load`` alone."""
    peak_bytes: int | None
    """The process's largest resident size after some steps; None if unknown."""
    beyond_import_bytes: int | None
    """The part of it that came after the imports."""


def measure_load(path: Path, settings: dict[str, Any]) -> LoadCost:
    """Start processes that open a file and run some steps.

    Args:
        path: the file.
        settings: keyword arguments for ``load`` that JSON can carry.

    Raises:
        CheckFailedError: the process failed.
    """
    found = []
    for _ in range(_STARTS):
        with tempfile.TemporaryDirectory() as folder:  # python -c imports from its working directory
            ran = run_program(
                [sys.executable, "-c", _CHILD, str(path.resolve()), json.dumps(settings), str(_STEPS)],
                folder=Path(folder),
            )
        if ran.returncode:
            last = (ran.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise CheckFailedError(f"{path} can't be opened in a separate process: {last}")
        found.append(json.loads(ran.stdout))
    imports, loads, bare, peak = zip(*found, strict=True)
    known = None not in (*bare, *peak)
    return LoadCost(
        import_ms=median(imports) * 1e3,
        load_ms=median(loads) * 1e3,
        peak_bytes=int(median(peak)) if known else None,
        beyond_import_bytes=int(median(peak) - median(bare)) if known else None,
    )


def cpu_idle(seconds: float) -> float:
    """Return the processor time of this process while it only waits, as a fraction of one core."""
    return _share(lambda: time.sleep(seconds))


def cpu_at_rate(call: Call, rate: float, seconds: float) -> float:
    """Return processor time with ``rate`` calls a second, as a share of one core, the waiting included."""
    return _share(lambda: time_calls(call, seconds, rate, least=2))


def _share(action: Callable[[], object]) -> float:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return (time.process_time() - cpu) / (time.perf_counter() - wall)
