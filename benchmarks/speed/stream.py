"""How fast a stream is, compared with the loop that most people write; on onnxruntime or the native engine.

Every ratio is measured in one process, alternately with its baseline: the median over the repeats of the time
divided by the baseline's. Run it on a quiet machine:

    taskset -c 1 python -m benchmarks.speed.stream --json docs/stream.json --plot docs/stream.svg
    python -m benchmarks.speed.stream --native

``--native`` needs a C compiler and pins itself to one core, or to two for what runs on two threads. PyTorch's
columns appear if torch is installed.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import SIZES, Call, interleave, parser, print_machine, repeat, table
from benchmarks.speed.models import write_model
from benchmarks.speed.peers import plain_loop, torch_calls
from benchmarks.speed.processes import loading_seconds, memory_of_streams
from benchmarks.speed.step import (
    COUNTS,
    build_tools,
    load_on,
    open_avx2,
    steps_from_c,
    steps_from_python,
)
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.cpu import describe_cpu

LIMITS: dict[str, dict[str, dict[str, float]]] = {
    "onnxruntime": {
        "`Stream.step` / the loop": {"S": 0.60, "M": 0.68, "L": 0.92, "XL": 0.98},
        "`Stream.process(256)` / a raw run": dict.fromkeys(SIZES, 1.03),
        "tick of 64 sources / 64 steps of the loop": {"M": 0.15},
        "tick of 1,000 sources / a raw run of the batch": {"M": 1.10},
        "import and load / import of onnxruntime and a session": {"M": 1.10},
        "memory of 1,000 sources / size of their states": {"M": 1.5},
        "p99/p50 of a step / the loop's": {"S": 1.00, "M": 1.00},
        "the same of each step's minimum of five passes": {"S": 1.01, "M": 1.01},
        "a step on all cores / on one": {},
    },
    "native": {
        "`Stream.step` / the loop": {"S": 0.09, "M": 0.20, "L": 0.66, "XL": 0.76},
        "`Stream.step` less the step from C, us": {"S": 0.8, "M": 0.8},
        "`Stream.process(256)` / a raw run": {"S": 0.60, "M": 0.95, "L": 0.97, "XL": 1.00},
        "tick of 64 sources / 64 steps of the loop": {"S": 0.04, "M": 0.09, "L": 0.30, "XL": 0.35},
        "int8 step / fp32 step, both native": {"L": 0.50, "XL": 0.40},
        "step forced to AVX2 / the loop": {"S": 0.11, "M": 0.26, "L": 0.70, "XL": 0.80},
        "tick of 10,000 on two threads / onnxruntime": {"M": 0.62},
        "a source's cost at 10,000 / at 64, native": {"M": 1.15},
        "a source's cost at 10,000 / at 64, onnxruntime": {"M": 1.15},
        "mapping form less array form, us per source, native": {"M": 0.6},
        "mapping form less array form, us per source, onnxruntime": {"M": 0.6},
        "import and load with the library / without": {"M": 1.1},
        "memory of a stream beyond its states, kB, `Stream`": {"M": 2.0},
        "memory of a stream beyond its states, kB, `StreamBatch`": {"M": 2.0},
    },
}
"""The rows of each engine's table, and what each must reach by size."""
CONTESTANTS = {
    "loop": "`session.run` loop",
    "step": "**`Stream.step`**",
    "bound run": "of which onnxruntime, in a bound run",
    "C": "the same from C",
    "AVX2": "forced to AVX2, from Python",
    "int8": "int8, from Python",
    "TorchScript": "TorchScript",
    "PyTorch eager": "PyTorch eager",
}
PASSES, TURN = 5, 5_000
"""Passes of the tail, and steps in a turn of it: the first ten or so find cold caches."""


@dataclass(frozen=True)
class Figure:
    """One measured cell."""

    row: str
    size: str
    value: float
    detail: str = ""
    us: Mapping[str, float] = field(default_factory=dict)
    """What else was measured with it, in microseconds."""


@dataclass(frozen=True)
class Setting:
    """What a run measures."""

    engine: str
    paths: Mapping[str, Path]
    repeats: int
    steps: int
    """Steps of the tail."""

    def load(self, size: str, *, engine: str = "", threads: int = 1) -> Model:
        """Open a size's file on this or another engine."""
        path = self.paths[size]
        if (engine or self.engine) == "native":
            path = path.with_suffix(".lep")
            if not path.exists():
                path.write_bytes(to_native(self.paths[size]))
        return load(path, threads=threads)


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def step_calls(setting: Setting, size: str) -> dict[str, Call]:
    """Return one step of every contestant by name."""
    x = _draw(1, 1, SIZES[size][0])
    calls: dict[str, Call] = {"loop": plain_loop(setting.paths[size], x, size)}
    if setting.engine == "native":
        folder, sample, model = setting.paths[size].parent, x[0, 0], setting.load(size)
        calls["step"] = steps_from_python(model, sample)
        calls["C"] = steps_from_c(build_tools(folder), model, sample)
        if (avx2 := open_avx2()) is not None:
            calls["AVX2"] = steps_from_python(load_on(avx2, setting.paths[size]), sample)
    else:
        stream = setting.load(size).stream()
        stream.step(x[0, 0])
        runs = stream._step_call.engine.runs
        calls["step"] = repeat(stream.step, x[0, 0])
        calls["bound run"] = lambda count: [runs[i & 1]() for i in range(count)]
        calls |= torch_calls(size, x)
    return calls


def measure_steps(setting: Setting, size: str) -> Iterator[Figure]:
    """Yield the rows of a step."""
    times = interleave(step_calls(setting, size), COUNTS[size], 5 * setting.repeats)
    us = {name: times.us(name) for name in times}
    yield Figure("`Stream.step` / the loop", size, times.ratio("step", "loop"), us=us)
    if "C" in times and size in ("S", "M"):
        yield Figure("`Stream.step` less the step from C, us", size, times.less("step", "C"))
    if "AVX2" in times:
        yield Figure("step forced to AVX2 / the loop", size, times.ratio("AVX2", "loop"))


def measure_chunks(setting: Setting, size: str) -> Iterator[Figure]:
    """Yield a chunk through ``Stream.process``, compared with the same through one ``session.run``."""
    x = _draw(1, 256, SIZES[size][0])
    process = repeat(setting.load(size).stream().process, x[0])
    calls = {"run": plain_loop(setting.paths[size], x, size), "process": process}
    times = interleave(calls, max(1, COUNTS[size] // 60), 3 * setting.repeats)
    value, detail = times.ratio("process", "run"), f"{times.us('process'):.0f} us"
    yield Figure("`Stream.process(256)` / a raw run", size, value, detail)


def ticks(model: Model, count: int, order: int = 1, mapping: bool = False) -> Call:
    """Return ticks of ``count`` sources, in their own order or, with -1, reversed."""
    batch = model.streams(count)
    ids = np.array([batch.add() for _ in range(count)])[::order].copy()
    x = _draw(count, int(model.inputs[0].axes[-1]))
    given: tuple[Any, ...] = (dict(zip(ids.tolist(), x, strict=True)),) if mapping else (x, ids)
    return repeat(batch.step, *given)


def measure_ticks(setting: Setting, size: str) -> Iterator[Figure]:
    """Yield ticks of 64 sources, and of 1,000 on onnxruntime."""
    model, x = setting.load(size), _draw(1000, 1, SIZES[size][0])
    one = plain_loop(setting.paths[size], x[:1], size)
    loop, run = (lambda count: one(64 * count)), plain_loop(setting.paths[size], x, size)
    wanted = [("64 sources / 64 steps of the loop", loop, 64, max(1, COUNTS[size] // 20), 2)]
    if setting.engine == "onnxruntime":
        wanted.append(("1,000 sources / a raw run of the batch", run, 1000, 15, 1))
    for row, baseline, sources, count, turns in wanted:
        ours = {"tick": ticks(model, sources), "any order": ticks(model, sources, order=-1)}
        times = interleave({"baseline": baseline, **ours}, count, turns * setting.repeats)
        detail = f"{times.us('tick'):.0f} us, any order {times.ratio('any order', 'baseline'):.3f}"
        yield Figure(f"tick of {row}", size, times.ratio("tick", "baseline"), detail)


def measure_onnxruntime(setting: Setting) -> Iterator[Figure]:
    """Yield what is only measured on onnxruntime: loading, memory, the tail, several cores."""
    path = setting.paths["M"]
    times = loading_seconds(path, ("onnxruntime", "plain"), max(9, setting.repeats))
    value = times.ratio("onnxruntime", "plain")
    yield Figure("import and load / import of onnxruntime and a session", "M", value)
    memory = {kind: memory_of_streams(path, 1000, kind, 5) for kind in ("some at once", "at once", "objects")}
    detail = f"ticked all at once {memory['at once']:.1f}, 1,000 Stream objects {memory['objects']:.1f}"
    yield Figure("memory of 1,000 sources / size of their states", "M", memory["some at once"], detail)
    for size in ("S", "M"):
        yield from measure_tail(setting, size)
    cores = len(os.sched_getaffinity(0))
    for size in SIZES if cores > 1 else ():
        sample = np.zeros(SIZES[size][0], np.float32)
        calls = {str(n): steps_from_python(setting.load(size, threads=n), sample) for n in (1, cores)}
        times = interleave(calls, COUNTS[size], 5 * setting.repeats, time.perf_counter)
        yield Figure("a step on all cores / on one", size, times.ratio(str(cores), "1"))


def measure_tail(setting: Setting, size: str) -> Iterator[Figure]:
    """Yield p99/p50 relative to the loop's, as it is, and of each step's minimum of five passes.

    What interrupts a virtual machine adds the same few microseconds to anything, which is relatively more for
    a faster step; it seldom hits the same step five times.
    """
    calls = step_calls(setting, size)
    blocks: dict[str, list[float]] = {name: [] for name in ("loop", "step", "bound run")}
    for _ in range(setting.steps // TURN):
        for name, block in blocks.items():
            call = calls[name]
            for _ in range(TURN):
                start = time.perf_counter()
                call(1)
                block.append(time.perf_counter() - start)
    seen = {name: np.array(block) for name, block in blocks.items()}
    least = {name: each.reshape(PASSES, -1).min(0) for name, each in seen.items()}
    rows = ("p99/p50 of a step / the loop's", "the same of each step's minimum of five passes")
    for row, times in zip(rows, (seen, least), strict=True):
        p99 = {name: np.quantile(each, 0.99) for name, each in times.items()}
        tail = {name: float(p99[name] / np.quantile(each, 0.5)) for name, each in times.items()}
        detail = ", ".join(f"{name} {tail[name]:.2f} (p99 {p99[name] * 1e6:.1f} us)" for name in tail)
        yield Figure(row, size, tail["step"] / tail["loop"], detail)


def measure_native(setting: Setting, cores: Sequence[int]) -> Iterator[Figure]:
    """Yield what is only measured on the native engine."""
    repeats, path = setting.repeats, setting.paths["M"]
    for size in ("L", "XL"):
        yield measure_int8(setting, size)
    for name in ("native", "onnxruntime"):
        model = setting.load("M", engine=name)
        few, many = ticks(model, 64), ticks(model, 10_000)
        times = interleave({"64": lambda n, call=few: call(156 * n), "10000": many}, 1, repeats)
        value, us = times.ratio("10000", "64") * 156 * 64 / 10_000, times.us("10000") / 10_000
        yield Figure(f"a source's cost at 10,000 / at 64, {name}", "M", value, f"{us:.2f} us per source")
        calls = {"array": few, "mapping": ticks(model, 64, mapping=True)}
        value = interleave(calls, 100, 3 * repeats).less("mapping", "array") / 64
        yield Figure(f"mapping form less array form, us per source, {name}", "M", value)
    times = loading_seconds({"native": path.with_suffix(".lep"), "onnxruntime": path}, max(9, repeats))
    value, detail = times.ratio("native", "onnxruntime"), f"{times.us('native') / 1e3:.0f} ms"
    yield Figure("import and load with the library / without", "M", value, detail)
    states = 2 * 4 * SIZES["M"][1]
    for kind, name in (("objects", "Stream"), ("some at once", "StreamBatch")):
        beyond = (memory_of_streams(path, 4000, kind, 3) - 1) * states / 1000
        yield Figure(f"memory of a stream beyond its states, kB, `{name}`", "M", beyond)
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[-2:])
        engines = ("native", "onnxruntime")
        calls = {name: ticks(setting.load("M", engine=name, threads=2), 10_000) for name in engines}
        times = interleave(calls, 3, 2 * repeats, time.perf_counter)
        value, detail = times.ratio("native", "onnxruntime"), f"{times.us('native') / 1e3:.1f} ms"
        yield Figure("tick of 10,000 on two threads / onnxruntime", "M", value, detail)


def measure_int8(setting: Setting, size: str) -> Figure:
    """Return the ratio to the file that ``quantize`` makes of it for this kind of machine."""
    import onnx
    import onnx_ir as ir

    from lstm_edge_exporters.quantization.precision import SCHEMES, detect_target, int8_dynamic
    from lstm_edge_exporters.quantization.prepare import prepare

    path = setting.paths[size]
    model = ir.from_proto(onnx.load(path))
    prepare(model)
    smaller = path.with_name(f"{size}-int8.onnx")
    onnx.save(int8_dynamic(model, scheme=SCHEMES[detect_target()][0]), smaller)
    models = {"fp32": setting.load(size), "int8": load(to_native(smaller))}
    calls = {name: steps_from_python(model, _draw(SIZES[size][0])) for name, model in models.items()}
    times = interleave(calls, COUNTS[size], 3 * setting.repeats)
    us = {"int8": times.us("int8")}
    return Figure("int8 step / fp32 step, both native", size, times.ratio("int8", "fp32"), "", us)


def measure(setting: Setting) -> Iterator[Figure]:
    """Yield every figure of an engine; native steps run on the last core."""
    cores = sorted(os.sched_getaffinity(0))
    if setting.engine == "native":
        os.sched_setaffinity(0, cores[-1:])
    for size in setting.paths:
        yield from measure_steps(setting, size)
        yield from measure_chunks(setting, size)
    for size in setting.paths if setting.engine == "native" else ("M",):
        yield from measure_ticks(setting, size)
    yield from measure_native(setting, cores) if setting.engine == "native" else measure_onnxruntime(setting)


def tables(limits: Mapping[str, Mapping[str, float]], figures: Sequence[Figure]) -> str:
    """Return two tables: ratios, with targets in brackets and missed ones in bold, and steps in us."""
    ratios, steps = {}, {}
    for figure in figures:
        cell, limit = f"{figure.value:.3f}", limits[figure.row].get(figure.size)
        if limit is not None:
            cell = f"{cell if figure.value <= limit else f'**{cell}**'} ({limit:.2f})"
        ratios[figure.row, figure.size] = cell
        for name, us in figure.us.items():
            steps[CONTESTANTS[name], figure.size] = f"{us:.{2 if us < 100 else 1}f}"
    made = []
    for rows, cells in ((limits, ratios), (CONTESTANTS.values(), steps)):
        shown = [row for row in rows if any((row, size) in cells for size in SIZES)]
        made.append(
            table(["", *SIZES], ([row, *(cells.get((row, size), "") for size in SIZES)] for row in shown))
        )
    return "\n\n".join(made)


def plot_steps(steps: dict[str, Mapping[str, float]]) -> str:
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


def main() -> None:
    """Measure, print the tables, and write the requested files."""
    arguments = parser(__doc__)
    arguments.add_argument("--native", action="store_true", help="the native engine instead of onnxruntime")
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--steps", type=int, default=100_000, help="steps of the tail, at least 25,000")
    arguments.add_argument("--json", type=Path, help="write the figures there")
    arguments.add_argument("--plot", type=Path, help="write a plot (SVG) there")
    options = arguments.parse_args()
    engine = "native" if options.native else "onnxruntime"
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: write_model(Path(folder), size) for size in SIZES}
        figures = list(measure(Setting(engine, paths, options.repeats, options.steps)))
    limits = LIMITS[engine]
    print(tables(limits, figures))
    for figure in figures:
        if figure.detail:
            print(f"- {figure.row}, {figure.size}: {figure.detail}")
    print_machine("onnxruntime", *(["lstm-edge-native"] if options.native else []))
    steps = {figure.size: figure.us for figure in figures if figure.row == "`Stream.step` / the loop"}
    if options.json:
        document = {
            "machine": describe_cpu(),
            "versions": {"python": platform.python_version(), "onnxruntime": version("onnxruntime")},
            "rows": [asdict(each) | {"must": limits[each.row].get(each.size)} for each in figures],
            "steps_us": steps,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot_steps(steps), encoding="utf-8")


if __name__ == "__main__":
    main()
