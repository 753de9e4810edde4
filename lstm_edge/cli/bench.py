"""``lstm-edge bench``: measure the time of a step on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lstm_edge.data.sample_input import SampleInput
from lstm_edge_exporters.options import option
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import counted

from ._options import ModelOptions, models_argument, options_of, verb
from ._output import Output


@dataclass(frozen=True)
class BenchConfig:
    """Options of the measurement."""

    seconds: float = option(5.0, "Approximate total time.", above=0)
    streams: int = option(64, "Number of streams that share a call.", low=1)


@verb("bench")
@models_argument
@options_of(config=BenchConfig, options=ModelOptions)
def command(
    models: tuple[Path, ...], config: BenchConfig, options: ModelOptions
) -> Output:
    """Measure the time of a step of MODELS on this machine.

    Rows are one step of one stream (or one unit, if the file takes several steps at a
    time), and one call for many streams. All calls take turns in short blocks, so that
    files can be compared. p50 is the median and p99 the 99th percentile of all calls.

    \b
    Example:
      lstm-edge bench har.onnx har.lep
    """  # noqa: D301
    with ExitStack() as opened:
        calls: dict[tuple[str, str, str], Callable[[], object]] = {}
        for path in models:
            model = opened.enter_context(load(path, **vars(options)))
            for name, call in _calls(model, config.streams):
                calls[str(path), model.engine, name] = call
        times = _interleave(calls, config.seconds)
    rows = []
    for (file, engine, name), nanoseconds in times.items():
        p50, p99 = (np.percentile(nanoseconds, (50, 99)) / 1e3).tolist()
        rows.append(
            {"file": file, "engine": engine, "call": name, "p50_us": p50, "p99_us": p99}
        )
    return Output(rows)


def _calls(model: Model, streams: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each call, and the call."""
    unit = model.manifest.unit
    samples = SampleInput(model)
    name = "step" if unit == 1 else f"unit of {unit}"
    stream = model.stream(reset_every="never")
    x = (
        np.random.default_rng(0)
        .random((streams, unit, samples.width))
        .astype(samples.spec.dtype)
    )
    x = samples.steps(x[:, 0]) if unit == 1 else samples.rows(x)
    sample = x[0]
    step = stream.step if unit == 1 else stream.process
    yield name, lambda: step(sample)
    if model.manifest.batch is not None:
        batch = model.streams(streams, reset_every="never")
        ids = np.array([batch.add() for _ in range(streams)])
        tick = batch.step if unit == 1 else batch.process
        yield f"{name}, {counted(streams, 'stream')}", lambda: tick(x, ids)


def _interleave(
    calls: dict[Any, Callable[[], object]], seconds: float
) -> dict[Any, list[int]]:
    """Time calls in alternate blocks of 2 ms; return the nanoseconds of each call."""
    clock = time.perf_counter_ns
    times = {name: list[int]() for name in calls}
    for call in calls.values():
        call()
    end = clock() + int(seconds * 1e9)
    while clock() < end or not all(times.values()):
        for name, call in calls.items():
            block_end = clock() + 2_000_000
            while (start := clock()) < block_end:
                call()
                times[name].append(clock() - start)
    return times
