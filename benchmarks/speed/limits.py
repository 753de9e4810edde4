"""How near a native step is to what one core of this machine can do at most.

A step can be no quicker than reading its weights once, and no quicker than its multiply-adds at the core's
peak; both are measured here by a few lines of C (``limits.c``). Run it on one core:

    taskset -c 1 python -m benchmarks.speed.limits
"""

import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.speed.models import write_model
from benchmarks.speed.sizes import CLASSES, SIZES
from lstm_edge_runtime import load
from lstm_edge_runtime.native.library import library

FLAGS = ("-O3", "-D_GNU_SOURCE", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC")


def best(call: Callable[[], object], repeats: int = 15) -> float:
    """Return the least CPU time of a call in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def build_tools(folder: Path) -> ctypes.CDLL:
    """Build and open ``limits.c``."""
    target = folder / "limits.so"
    source = Path(__file__).with_name("limits.c")
    subprocess.run([shutil.which("cc") or "cc", *FLAGS, source, "-o", target], check=True)
    opened = ctypes.CDLL(str(target))
    opened.multiply_add.argtypes = [ctypes.c_size_t]
    opened.make_weights.argtypes, opened.make_weights.restype = [ctypes.c_size_t], ctypes.c_void_p
    opened.free.argtypes = [ctypes.c_void_p]
    opened.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    opened.take_steps.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return opened


def multiply_adds(size: str) -> int:
    """Return the multiply-adds of one step, as many as there are weights."""
    features, hidden, layers = SIZES[size]
    entering = [features, *[hidden] * (layers - 1)]
    return sum(4 * hidden * (width + hidden) for width in entering) + hidden * CLASSES


def peak_flops(tools: ctypes.CDLL) -> float:
    """Return the most multiply-adds, two operations each, that this core does in a second."""
    rounds = 2_000_000
    return 2 * 16 * 12 * rounds / best(lambda: tools.multiply_add(rounds))


def bandwidth(tools: ctypes.CDLL, size: str) -> float:
    """Return the bytes a second at which this core reads as much as a size's weights, forth and back."""
    count = 4 * multiply_adds(size)
    data = tools.make_weights(count)
    again = max(2, 80_000_000 // count)
    fastest = best(lambda: tools.read_all(data, count // 64, again))
    tools.free(data)
    return count * again / fastest


def least_seconds(tools: ctypes.CDLL, size: str) -> tuple[float, str]:
    """Return the least time of a step on this core, and what sets it."""
    weights = multiply_adds(size)
    by_reading, by_computing = 4 * weights / bandwidth(tools, size), 2 * weights / peak_flops(tools)
    return (by_reading, "reading") if by_reading > by_computing else (by_computing, "multiply-adds")


def main() -> int:
    """Print the limits, and each size's step and tick beside its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = build_tools(folder)
        peak = peak_flops(tools)
        print(f"{library().lstm_edge_isa().decode()}; multiply-adds at most {peak / 1e9:.0f} GFLOP/s\n")
        print(
            "| size | reads GB/s | least us (by) | the call us | of the least | `Stream.step` us | "
            "tick of 64 us | of its least |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for size in SIZES:
            weights = multiply_adds(size)
            least, by = least_seconds(tools, size)
            model = load(write_model(folder, size), engine="native", threads=1)
            stream, sample = model.stream(), np.zeros(SIZES[size][0], np.float32)
            count = max(20, 2_000_000 // weights)

            def steps(s=stream, x=sample, n=count) -> None:
                for _ in range(n):
                    s.step(x)

            stream.step(sample)
            handle, function = stream._sets.handle, ctypes.cast(library().lstm_edge_step, ctypes.c_void_p)
            inside = best(lambda f=function, h=handle, n=count: tools.take_steps(f, h.address, n)) / count
            step = best(steps) / count
            batch = model.streams(64)
            ids = [batch.add() for _ in range(64)]
            rows = np.zeros((64, len(sample)), np.float32)
            tick = best(lambda b=batch, x=rows, i=ids: b.step(x, i))
            of_tick = tick / (64 * 2 * weights / peak)
            print(
                f"| {size} | {bandwidth(tools, size) / 1e9:.0f} | {least * 1e6:.2f} ({by}) | "
                f"{inside * 1e6:.2f} | {inside / least:.2f} | {step * 1e6:.2f} | {tick * 1e6:.0f} | "
                f"{of_tick:.2f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
