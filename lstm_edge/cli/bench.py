"""``lstm-edge bench``: measure the time of a step on this machine."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lstm_edge_runtime.errors import ContractError, InputError, counted

from ._model import ModelOptions, model_options, open_model
from ._options import json_option, models_argument
from ._output import echo_json, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime import Model

_STEPS = 100  # in a call of a file that can't be streamed
_COLUMNS = ("file", "engine", "call", "p50_us", "p99_us")


@click.command("bench")
@models_argument
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=5.0, help="Approximate total time."
)
@click.option(
    "--streams", type=click.IntRange(min=1), default=64, help="Number of streams that share a call."
)
@model_options
@json_option
def command(
    models: tuple[Path, ...], seconds: float, streams: int, options: ModelOptions, as_json: bool
) -> None:
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
            for name, call in _calls(model, streams).items():
                calls[str(path), model.engine, name] = call
        times = _interleave(calls, seconds)
    rows = [(*key, *np.percentile(found, (50, 99)) / 1e3) for key, found in times.items()]
    if as_json:
        echo_json([dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table("", _COLUMNS, ([*row[:3], f"{row[3]:.1f}", f"{row[4]:.1f}"] for row in rows))


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
