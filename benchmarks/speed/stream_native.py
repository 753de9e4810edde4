"""What ``stream.py --native`` measures: the native engine beside onnxruntime, LiteRT, C and itself.

Everything that is compared takes turns in one process, on one core; two threads get two.
"""

import ctypes
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import lstm_edge_runtime.native.engine as engine_module
from benchmarks.speed.limits import build_tools, least_seconds
from benchmarks.speed.processes import loading_seconds, memory_of_streams
from benchmarks.speed.sizes import SIZES
from benchmarks.speed.stream_cases import Call, interleave, litert_calls, plain_loop, plain_session
from lstm_edge_exporters.quantization.precision import SCHEMES, detect_target, int8_dynamic
from lstm_edge_exporters.quantization.prepare import prepare
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.native.library import library, open_library

__all__ = ["COUNTS", "LIMITS", "Figure", "load_on", "measure_native", "ratio", "steps_from_c", "tables"]

COUNTS = {"S": 600, "M": 300, "L": 40, "XL": 12}
"""Steps in a turn."""
LIMITS: dict[str, Mapping[str, float]] = {
    "`Stream.step` / the naive loop": {"S": 0.09, "M": 0.20, "L": 0.66, "XL": 0.76},
    "`Stream.step` / LiteRT's step": {"S": 0.30, "M": 0.48, "L": 0.85, "XL": 0.88},
    "`Stream.step` less the step from C, us": {"S": 0.8, "M": 0.8},
    "`Stream.process(256)` / onnxruntime": {"S": 0.60, "M": 0.95, "L": 0.97, "XL": 1.00},
    "tick of 64 sources / 64 naive steps": {"S": 0.04, "M": 0.09, "L": 0.30, "XL": 0.35},
    "int8 step / fp32 step, both native": {"L": 0.50, "XL": 0.40},
    "step forced to AVX2 / the naive loop": {"S": 0.11, "M": 0.26, "L": 0.70, "XL": 0.80},
    "tick of 10,000 on two threads / onnxruntime": {"M": 0.62},
    "a source's cost at 10,000 / at 64, native": {"M": 1.15},
    "a source's cost at 10,000 / at 64, onnxruntime": {"M": 1.15},
    "mapping form less array form, us a source, native": {"M": 0.6},
    "mapping form less array form, us a source, onnxruntime": {"M": 0.6},
    "import and load with the library / without": {"M": 1.1},
    "memory of a stream beyond its states, kB, `Stream`": {"M": 2.0},
    "memory of a stream beyond its states, kB, `StreamBatch`": {"M": 2.0},
}
"""The rows, and what each must reach by size."""


@dataclass(frozen=True)
class Figure:
    """One measured cell."""

    row: str
    size: str
    value: float
    detail: str = ""
    us: Mapping[str, float] = field(default_factory=dict)
    """What else was measured beside it, in microseconds."""

    @property
    def limit(self) -> float | None:
        """What it must reach; None for what is only told."""
        return LIMITS.get(self.row, {}).get(self.size)


CONTESTANTS = {
    "loop": "`session.run` loop",
    "LiteRT": "LiteRT",
    "step": "**`Stream.step`, native**",
    "C": "the same from C",
    "AVX2": "forced to AVX2, from Python",
    "int8": "int8, from Python",
    "limit": "this core's limit (reading the weights, or multiply-adds)",
}


def tables(figures: Sequence[Figure]) -> str:
    """Return the two tables of docs/native.md: ratios, with what each was to reach in brackets, and times."""
    ratios, steps = {}, {}
    for figure in figures:
        cell = f"{figure.value:.3f}"
        if figure.limit is not None:
            cell = f"{cell if figure.value <= figure.limit else f'**{cell}**'} ({figure.limit:.2f})"
        ratios[figure.row, figure.size] = cell
        for name, us in figure.us.items():
            steps[CONTESTANTS[name], figure.size] = f"{us:.{2 if us < 100 else 1}f}"
    lines: list[str] = []
    for rows, cells in ((LIMITS, ratios), (CONTESTANTS.values(), steps)):
        lines += ["| | " + " | ".join(SIZES) + " |", "| --- |" + " --- |" * len(SIZES)]
        shown = [row for row in rows if any((row, size) in cells for size in SIZES)]
        lines += [
            f"| {row} | " + " | ".join(cells.get((row, size), "") for size in SIZES) + " |" for row in shown
        ]
        lines.append("")
    return "\n".join(lines)


def measure_native(
    folder: Path, paths: Mapping[str, Path], repeats: int, litert: Path | None
) -> list[Figure]:
    """Measure every row on the files of ``paths``; the process may move between the machine's cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    figures: list[Figure] = []
    tools = build_tools(folder)
    for size, path in paths.items():
        figures += _steps(tools, path, size, repeats, litert)
        figures += _chunks(path, size, repeats)
        figures += _ticks(path, size, repeats)
    for size in ("L", "XL"):
        figures += _int8(folder, paths[size], size, repeats)
    figures += _sources(paths["M"], repeats)
    figures += _mapping(paths["M"], repeats)
    seconds = loading_seconds(paths["M"], max(9, repeats))
    ratios = [a / b for a, b in zip(seconds["auto"], seconds["onnxruntime"], strict=True)]
    detail = f"{statistics.median(seconds['auto']) * 1e3:.0f} ms"
    figures.append(
        Figure("import and load with the library / without", "M", statistics.median(ratios), detail)
    )
    states = 2 * 4 * SIZES["M"][1]
    for kind, name in (("objects", "Stream"), ("some at once", "StreamBatch")):
        beyond = (memory_of_streams(paths["M"], 4000, kind, 3) - 1) * states / 1000
        figures.append(Figure(f"memory of a stream beyond its states, kB, `{name}`", "M", beyond))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[-2:])
        figures += _two_threads(paths["M"], repeats)
    os.sched_setaffinity(0, cores)
    order = list(LIMITS)
    return sorted(figures, key=lambda figure: order.index(figure.row))


def ratio(times: Mapping[str, list[float]], name: str, baseline: str) -> float:
    """Return the median over the repeats of the time by the baseline's beside it."""
    return statistics.median(a / b for a, b in zip(times[name], times[baseline], strict=True))


def _less(times: Mapping[str, list[float]], name: str, baseline: str) -> float:
    """Return the median difference in microseconds."""
    pairs = zip(times[name], times[baseline], strict=True)
    return statistics.median(a - b for a, b in pairs) * 1e6


def _steps(tools: ctypes.CDLL, path: Path, size: str, repeats: int, litert: Path | None) -> Iterator[Figure]:
    x = np.random.default_rng(1).normal(size=(1, 1, SIZES[size][0])).astype(np.float32)
    model, avx2 = load(path, engine="native", threads=1), load_avx2(path)
    calls = {"loop": plain_loop(plain_session(path), x, size), "step": _step(model, x[0, 0])}
    calls |= {"C": steps_from_c(tools, model, x[0, 0])} | litert_calls(size, x, litert)
    if avx2 is not None:
        calls["AVX2"] = _step(avx2, x[0, 0])
    times = interleave(calls, COUNTS[size], 5 * repeats)
    us = {name: statistics.median(each) * 1e6 for name, each in times.items()}
    least, by = least_seconds(tools, size)
    us["limit"] = least * 1e6
    told = ", ".join(f"{name} {value:.2f}" for name, value in us.items())
    detail = f"us: {told} ({by}), C at {us['C'] / us['limit']:.2f} of it"
    yield Figure("`Stream.step` / the naive loop", size, ratio(times, "step", "loop"), detail, us)
    if "LiteRT" in times:
        yield Figure("`Stream.step` / LiteRT's step", size, ratio(times, "step", "LiteRT"))
    if size in ("S", "M"):
        yield Figure("`Stream.step` less the step from C, us", size, _less(times, "step", "C"))
    if "AVX2" in times:
        yield Figure("step forced to AVX2 / the naive loop", size, ratio(times, "AVX2", "loop"))


def _step(model: Model, sample: np.ndarray) -> Call:
    stream = model.stream()
    stream.step(sample)

    def step(count: int) -> None:
        for _ in range(count):
            stream.step(sample)

    return step


def steps_from_c(
    tools: ctypes.CDLL, model: Model, sample: np.ndarray, opened: ctypes.CDLL | None = None
) -> Call:
    """Return steps in a loop of C on a stream of the program; ``opened`` is the library it is loaded on."""
    stream = model.stream()
    stream.step(sample)
    handle = stream._sets.handle
    function = ctypes.cast((opened or library()).lstm_edge_step, ctypes.c_void_p)
    return lambda count: (tools.take_steps(function, handle.address, count), stream)


def load_avx2(path: Path) -> Model | None:
    """Load on a copy of the library that is forced to AVX2; None where the machine has none."""
    from lstm_edge_native import LIBRARY

    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(LIBRARY, Path(folder) / "avx2.so")
        os.environ["LSTM_EDGE_ISA"] = "avx2"
        forced = open_library(copy)
        found = forced.lstm_edge_isa()
        del os.environ["LSTM_EDGE_ISA"]
    if found is None:
        return None
    return load_on(forced, path)


def load_on(opened: ctypes.CDLL, path: Path) -> Model:
    """Load a file on a library of its own."""
    engine_module.library = lambda: opened
    try:
        return load(path, engine="native", threads=1)
    finally:
        engine_module.library = library


def _chunks(path: Path, size: str, repeats: int) -> Iterator[Figure]:
    x = np.random.default_rng(2).normal(size=(1, 256, SIZES[size][0])).astype(np.float32)
    stream = load(path, engine="native", threads=1).stream()
    calls: dict[str, Call] = {
        "run": plain_loop(plain_session(path), x, size),
        "process": lambda count: [stream.process(x[0]) for _ in range(count)],
    }
    times = interleave(calls, max(1, COUNTS[size] // 60), 3 * repeats)
    detail = f"{statistics.median(times['process']) * 1e6:.0f} us"
    yield Figure("`Stream.process(256)` / onnxruntime", size, ratio(times, "process", "run"), detail)


def _tick(model: Model, count: int) -> tuple[Any, np.ndarray, np.ndarray]:
    batch = model.streams(count)
    ids = np.array([batch.add() for _ in range(count)])
    x = np.random.default_rng(3).normal(size=(count, model.inputs[0].axes[-1])).astype(np.float32)
    batch.step(x, ids)
    return batch, ids, x


def _ticks(path: Path, size: str, repeats: int) -> Iterator[Figure]:
    batch, ids, x = _tick(load(path, engine="native", threads=1), 64)
    one = plain_loop(plain_session(path), x[:1, None], size)
    calls: dict[str, Call] = {
        "loop": lambda count: one(64 * count),
        "tick": lambda count: [batch.step(x, ids) for _ in range(count)],
    }
    times = interleave(calls, max(1, COUNTS[size] // 60), 2 * repeats)
    detail = f"{statistics.median(times['tick']) * 1e6:.0f} us"
    yield Figure("tick of 64 sources / 64 naive steps", size, ratio(times, "tick", "loop"), detail)


def _int8(folder: Path, path: Path, size: str, repeats: int) -> Iterator[Figure]:
    """Yield the ratio to the file that ``quantize`` makes of it for this kind of machine."""
    model = ir.from_proto(onnx.load(path))
    prepare(model)
    smaller = folder / f"{size}-int8.onnx"
    onnx.save(int8_dynamic(model, scheme=SCHEMES[detect_target()][0]), smaller)
    sample = np.random.default_rng(1).normal(size=SIZES[size][0]).astype(np.float32)
    calls = {
        name: _step(load(each, engine="native", threads=1), sample)
        for name, each in (("fp32", path), ("int8", smaller))
    }
    times = interleave(calls, COUNTS[size], 3 * repeats)
    us = {"int8": statistics.median(times["int8"]) * 1e6}
    detail = f"{us['int8']:.1f} us"
    yield Figure("int8 step / fp32 step, both native", size, ratio(times, "int8", "fp32"), detail, us)


def _sources(path: Path, repeats: int) -> Iterator[Figure]:
    for name in ("native", "onnxruntime"):
        model = load(path, engine=name, threads=1)
        calls: dict[str, Call] = {}
        for count in (64, 10_000):
            batch, ids, x = _tick(model, count)
            turns = 10_000 // count
            calls[str(count)] = lambda n, b=batch, i=ids, s=x, t=turns: [b.step(s, i) for _ in range(n * t)]
        times = interleave(calls, 1, repeats)
        each = [times["10000"][i] / 10_000 / (times["64"][i] / (10_000 // 64) / 64) for i in range(repeats)]
        detail = f"{statistics.median(times['10000']) / 10_000 * 1e6:.2f} us a source"
        yield Figure(f"a source's cost at 10,000 / at 64, {name}", "M", statistics.median(each), detail)


def _mapping(path: Path, repeats: int) -> Iterator[Figure]:
    for name in ("native", "onnxruntime"):
        batch, ids, x = _tick(load(path, engine=name, threads=1), 64)
        by_id = dict(zip(ids.tolist(), x, strict=True))
        calls: dict[str, Call] = {
            "array": lambda n, b=batch, i=ids, s=x: [b.step(s, i) for _ in range(n)],
            "mapping": lambda n, b=batch, m=by_id: [b.step(m) for _ in range(n)],
        }
        times = interleave(calls, 100, 3 * repeats)
        value = _less(times, "mapping", "array") / 64
        yield Figure(f"mapping form less array form, us a source, {name}", "M", value)


def _two_threads(path: Path, repeats: int) -> Iterator[Figure]:
    calls: dict[str, Call] = {}
    for name in ("native", "onnxruntime"):
        batch, ids, x = _tick(load(path, engine=name, threads=2), 10_000)
        calls[name] = lambda n, b=batch, i=ids, s=x: [b.step(s, i) for _ in range(n)]
    times = interleave(calls, 3, 2 * repeats, time.perf_counter)
    detail = f"{statistics.median(times['native']) * 1e3:.1f} ms"
    value = ratio(times, "native", "onnxruntime")
    yield Figure("tick of 10,000 on two threads / onnxruntime", "M", value, detail)
