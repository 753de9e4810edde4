"""``lstm-edge bench``: measure the time of a step on this machine."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import ContractError, InputError, counted

from ._model import ModelOptions, open_model
from ._options import models_argument, options_of, verb
from ._output import Report

if TYPE_CHECKING:
    from lstm_edge_runtime import Model

_STEPS = 100  # in a call of a file that can't be streamed


@dataclass(frozen=True)
class BenchConfig:
    """What is measured."""

    seconds: float = option(5.0, "Approximate total time.", above=0)
    streams: int = option(64, "Number of streams that share a call.", low=1)

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)


@verb("bench")
@models_argument
@options_of(config=BenchConfig, options=ModelOptions)
def command(models: tuple[Path, ...], config: BenchConfig, options: ModelOptions) -> Report:
    """Measure the time of a step of MODELS on this machine.

    Rows are one step of one stream (or one unit, if the file takes several steps at a time), and one call for
    many streams. A file that can't be streamed runs a whole sequence. All calls take turns in short blocks,
    so that files can be compared. p50 is the median and p99 the 99th percentile of all calls.

    \b
    Example:
      lstm-edge bench har.onnx har.lep
    """  # noqa: D301
    with ExitStack() as opened:
        calls: dict[tuple[str, str, str], Callable[[], object]] = {}
        for path in models:
            model = opened.enter_context(open_model(path, options))
            for name, call in _calls(model, config.streams).items():
                calls[str(path), model.engine, name] = call
        times = _interleave(calls, config.seconds)
    rows = []
    for (file, engine, name), found in times.items():
        p50, p99 = (np.percentile(found, (50, 99)) / 1e3).tolist()
        rows.append({"file": file, "engine": engine, "call": name, "p50_us": p50, "p99_us": p99})
    return Report(rows)


def _calls(model: "Model", streams: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    unit = model.manifest.unit
    try:
        stream = model.stream(reset_every="never")
    except ContractError:
        whole = _samples(model, rows=1, steps=_STEPS)
        return {f"run of {_STEPS} steps": lambda: model.run(whole)}
    name, steps = ("step", None) if unit == 1 else (f"unit of {unit}", unit)
    one = _samples(model, rows=None, steps=steps)
    calls: dict[str, Callable[[], object]] = {
        name: lambda: stream.step(one) if steps is None else stream.process(one)
    }
    if model.manifest.batch is not None:
        batch, many = model.streams(streams, reset_every="never"), _samples(model, rows=streams, steps=steps)
        ids = np.array([batch.add() for _ in range(streams)])
        take = batch.step if steps is None else batch.process
        calls[f"{name}, {counted(streams, 'stream')}"] = lambda: take(many, ids)
    return calls


def _samples(model: "Model", *, rows: int | None, steps: int | None) -> Any:
    """Return random samples for the inputs, without the axes whose size is None, the same each time."""
    manifest, rng = model.manifest, np.random.default_rng(0)
    sizes = {manifest.batch: rows, manifest.sequence: steps}
    samples: dict[str, Any] = {}
    for spec in manifest.data_inputs:
        shape = [axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in spec.axes]
        kept = [size for size in shape if size is not None]
        if -1 in kept:
            axes = ", ".join(map(str, spec.axes))
            raise InputError(f"{spec.name} is ({axes}), expected axes of batch and time and fixed ones")
        dtype = np.dtype(spec.dtype)
        floats = dtype.kind == "f"
        samples[spec.name] = rng.normal(size=kept).astype(dtype) if floats else np.zeros(kept, dtype)
    return samples if len(samples) > 1 else next(iter(samples.values()))


def _interleave(calls: dict[Any, Callable[[], object]], seconds: float) -> dict[Any, list[int]]:
    """Time calls in alternate blocks of 2 ms; return the nanoseconds of each call."""
    clock, times = time.perf_counter_ns, {name: list[int]() for name in calls}
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
