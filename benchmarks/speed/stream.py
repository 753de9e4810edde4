"""How fast the streaming runtime is beside the loop that most people write.

Every ratio is taken in one process, alternately with its baseline: the median over the repeats of the time by
the baseline's time beside it. Run it on a quiet machine, on one core:

    taskset -c 1 python -m benchmarks.speed.stream --json docs/stream.json --plot docs/stream.svg

With ``--native`` it measures the native engine in its place, for which it needs a C compiler, and pins itself
to cores (two, for what runs on two threads):

    python -m benchmarks.speed.stream --native --litert DIR --page tables.md

PyTorch's columns appear where torch is installed; LiteRT's where ``ai-edge-litert`` is and ``--litert DIR``
holds ``S.tflite`` to ``XL.tflite`` (``benchmarks/speed/tflite.py`` makes them).
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.speed.models import write_model
from benchmarks.speed.processes import loading_ratios, memory_of_streams
from benchmarks.speed.sizes import SIZES
from benchmarks.speed.stream_cases import batch_calls, interleave, process_calls, step_calls, step_latencies
from lstm_edge_runtime import load

COUNTS = {"S": 800, "M": 600, "L": 60, "XL": 20}
"""Steps in one turn, so that a turn takes some 10 ms and what disturbs a machine for longer disturbs all."""
MUST = {"S": 0.60, "M": 0.68, "L": 0.92, "XL": 0.98}


@dataclass(frozen=True)
class Row:
    """One measured thing and what it must reach."""

    what: str
    value: float
    must: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it reaches it."""
        return self.value <= self.must


def ratio(times: dict[str, list[float]], name: str, baseline: str) -> float:
    """Return the median over the repeats of the time by the baseline's beside it."""
    return statistics.median(a / b for a, b in zip(times[name], times[baseline], strict=True))


def measure(folder: Path, repeats: int, litert: Path | None, rough: bool) -> tuple[list[Row], dict[str, Any]]:
    """Measure every row, and the step times of every contestant in microseconds."""
    paths = {size: write_model(folder, size) for size in SIZES}
    rows, steps = [], {}
    for size, path in paths.items():
        times = interleave(step_calls(path, size, litert), COUNTS[size], 5 * repeats)
        steps[size] = {name: statistics.median(each) * 1e6 for name, each in times.items()}
        detail = ", ".join(f"{name} {value:.2f}" for name, value in steps[size].items())
        left = f"{steps[size]['step'] - steps[size]['bound run']:.2f} us of it in Python"
        if "LiteRT" in times:
            left += f", {ratio(times, 'step', 'LiteRT'):.2f} times LiteRT's"
        row = Row(f"Stream.step, {size}", ratio(times, "step", "loop"), MUST[size], f"{left}; us: {detail}")
        rows.append(row)
    for size, path in paths.items():
        times = interleave(process_calls(path, size, 256), max(1, COUNTS[size] // 100), 3 * repeats)
        rows.append(Row(f"Stream.process(256), {size}", ratio(times, "process", "raw run"), 1.03))
    times = interleave(batch_calls(paths["M"], "M", 64), 30, repeats)
    some = f"any order {ratio(times, 'tick, any order', 'turns of the loop'):.3f}"
    rows.append(Row("StreamBatch tick of 64, M", ratio(times, "tick", "turns of the loop"), 0.15, some))
    calls = {name: call for name, call in batch_calls(paths["M"], "M", 1000).items() if "turns" not in name}
    times = interleave(calls, 15, repeats)
    some = f"any order {ratio(times, 'tick, any order', 'raw run'):.3f}"
    rows.append(
        Row("StreamBatch tick of 1,000 against a raw run, M", ratio(times, "tick", "raw run"), 1.10, some)
    )
    loading = loading_ratios(paths["M"], max(9, repeats))
    rows.append(Row("import and load, M", statistics.median(loading), 1.10))
    kinds = ("some at once", "at once", "objects")
    memory = {kind: memory_of_streams(paths["M"], 1000, kind, 5) for kind in kinds}
    some = f"ticked all at once {memory['at once']:.1f}, 1,000 Stream objects {memory['objects']:.1f}"
    rows.append(Row("memory of 1,000 sources by their states, M", memory["some at once"], 1.5, some))
    for size in ("S", "M"):
        rows += tails(size, step_latencies(paths[size], size, 20_000 if rough else 100_000))
    return rows, {"steps_us": steps, "threads": threads(paths, repeats)}


def tails(size: str, seen: dict[str, np.ndarray]) -> list[Row]:
    """Return p99/p50 by the loop's, as it was, and of each step's least time in five passes.

    What interrupts a virtual machine adds the same few microseconds to whatever runs, which weighs the more
    the quicker a step is; it seldom hits the same step five times. What is left
    is told to a hundredth.
    """

    def tail(times: np.ndarray) -> float:
        return float(np.quantile(times, 0.99) / np.quantile(times, 0.5))

    words = [
        f"{name} {tail(each):.2f} (p99 {np.quantile(each, 0.99) * 1e6:.1f} us)" for name, each in seen.items()
    ]
    least = {name: each.min(0) for name, each in seen.items()}
    return [
        Row(f"p99/p50 of a step, {size}", tail(seen["step"]) / tail(seen["loop"]), 1.0, ", ".join(words)),
        Row(
            f"p99/p50, the least of five passes, {size}",
            tail(least["step"]) / tail(least["loop"]),
            1.01,
            ", ".join(f"{name} {tail(each):.2f}" for name, each in least.items()),
        ),
    ]


def threads(paths: dict[str, Path], repeats: int) -> dict[str, float]:
    """Give, by size, a step on all cores against one on one thread; empty on one core."""
    cores = len(os.sched_getaffinity(0))
    found = {}
    for size, path in paths.items() if cores > 1 else ():
        calls = {}
        for count in (1, cores):
            stream = load(path, threads=count, engine="onnxruntime").stream()
            sample = np.zeros(SIZES[size][0], np.float32)
            calls[str(count)] = lambda n, s=stream, x=sample: [s.step(x) for _ in range(n)]
        found[size] = ratio(interleave(calls, COUNTS[size], 5 * repeats, time.perf_counter), str(cores), "1")
    return found


def main() -> None:
    """Measure, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rough", action="store_true", help="20,000 steps for the tail, not 100,000")
    parser.add_argument("--litert", type=Path, help="a folder with S.tflite to XL.tflite")
    parser.add_argument(
        "--native", action="store_true", help="the native engine beside onnxruntime and LiteRT"
    )
    parser.add_argument("--page", type=Path, help="with --native: write its tables in Markdown there")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="write a plot (SVG) there")
    options = parser.parse_args()
    if options.native:
        print_native(options.repeats, options.litert, options.page)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, more = measure(Path(folder), options.repeats, options.litert, options.rough)
    for row in rows:
        mark = "ok  " if row.ok else "MISS"
        print(f"{mark} {row.what:48} {row.value:6.3f}  (must <= {row.must:.2f})  {row.detail}")
    for size, value in more["threads"].items():
        print(f"     a step on {len(os.sched_getaffinity(0))} threads against one, {size:15} {value:6.3f}")
    document = {
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__},
        "rows": [asdict(row) | {"ok": bool(row.ok)} for row in rows],
        **more,
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot_steps(more["steps_us"]), encoding="utf-8")


def plot_steps(steps: dict[str, dict[str, float]]) -> str:
    """Return a plot (SVG) of microseconds by size and contestant."""
    from lstm_edge_exporters.render import Axis, Plot, Series, draw_plot  # pip install "lstm-edge[report]"

    contestants = tuple(next(iter(steps.values())))
    names = {"step": "Stream.step", "loop": "session.run loop"}
    rows = tuple(names.get(each, each) for each in contestants)
    series = tuple(
        Series(size, [times[each] for each in contestants], range(len(rows)), "points")
        for size, times in steps.items()
    )
    plot = Plot("stream", "One time step on one thread", series, Axis("microseconds", "log"), Axis(rows=rows))
    return draw_plot(plot, standalone=True)


def print_native(repeats: int, litert: Path | None, page: Path | None) -> None:
    """Print the tables of the native engine in Markdown, and write them to ``page``."""
    from benchmarks.speed.stream_native import measure_native, tables
    from lstm_edge_runtime.native.library import library

    with tempfile.TemporaryDirectory() as folder:
        paths = {size: write_model(Path(folder), size) for size in SIZES}
        figures = measure_native(Path(folder), paths, repeats, litert)
    versions = {"Python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
    if litert is not None:
        versions["LiteRT"] = metadata.version("ai-edge-litert")
    versions["lstm-edge-native"] = (
        f"{library().lstm_edge_version().decode()}, {library().lstm_edge_isa().decode()}"
    )
    machine = f"{_processor()}; " + ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"{tables(figures)}\n{machine}\n"
    print(text)
    for figure in figures:
        if figure.detail:
            print(f"- {figure.row}, {figure.size}: {figure.detail}")
    if page is not None:
        page.write_text(text, encoding="utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


if __name__ == "__main__":
    main()
