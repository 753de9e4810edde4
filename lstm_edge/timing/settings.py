"""Find the fastest engine and number of threads for a file on this machine."""

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import product
from typing import Any, Literal

from lstm_edge_exporters.bootstrap import ratio_interval
from lstm_edge_runtime import load
from lstm_edge_runtime.cpu import describe_cpu
from lstm_edge_runtime.errors import LstmEdgeError, counted
from lstm_edge_runtime.ort import MAX_THREADS

from .calls import TimedModel, step_call, streams_call
from .rounds import Call, interleave

_ENGINES: tuple[Literal["native", "onnxruntime"], ...] = ("native", "onnxruntime")
_DEFAULTS = "as opened"
_GAIN = 0.98
"""Settings are recommended if the whole interval of their time relative to the defaults' is below this."""


def compare_settings(
    timed_model: TimedModel, streams: int | None, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Time a file with each engine and number of threads, next to how it was opened.

    Args:
        timed_model: the file, opened with the defaults.
        streams: number of streams that share a tick; None times the step of one stream.
        seconds: approximate total duration.
        rounds: blocks of each call.

    Returns:
        One record for each setting that opens the file and replays its golden case within the limits:
        ``engine``, ``threads``, ``ratio`` of its time to the defaults' with the 95 % interval from ``low`` to
        ``high``, and ``recommended``: true of the fastest one if it is faster beyond noise.
    """
    calls = {_DEFAULTS: _call(timed_model, streams)}
    settings: dict[str, dict[str, Any]] = {}
    with ExitStack() as opened:
        for engine, threads in product(_ENGINES, _thread_counts()):
            with suppress(LstmEdgeError):
                model = load(timed_model.path, device="cpu", engine=engine, threads=threads)
                opened.enter_context(model)
                if model.manifest is not None and model.manifest.golden is not None:
                    model.selftest().require()
                call = _call(TimedModel(timed_model.name, timed_model.path, model), streams)
                call()
                name = f"{engine}, {counted(threads, 'thread')}"
                calls[name], settings[name] = call, {"engine": engine, "threads": threads}
        timed = interleave(calls, seconds, rounds).timed
    default = timed[_DEFAULTS].rounds
    intervals = {name: ratio_interval(timed[name].rounds, default, paired=True) for name in settings}
    faster = {name: each.ratio for name, each in intervals.items() if each.high < _GAIN}
    best = min(faster, key=lambda name: faster[name], default=None)
    return [
        setting | asdict(intervals[name]) | {"recommended": name == best}
        for name, setting in settings.items()
    ]


def load_call(path: str, settings: Sequence[dict[str, Any]]) -> str:
    """Return the call that opens a file with the recommended settings, or with the defaults."""
    for each in settings:
        if each["recommended"]:
            options = f', device="cpu", engine="{each["engine"]}", threads={each["threads"]}'
            return f"load({json.dumps(path)}{options})"
    return f"load({json.dumps(path)})"


def _call(timed_model: TimedModel, streams: int | None) -> Call:
    return step_call(timed_model) if streams is None else streams_call(timed_model, streams)


def _thread_counts() -> list[int]:
    cores = min(describe_cpu()["cores"], MAX_THREADS)
    return sorted({*(count for count in (1, 2, 4, 8, 16, 32, 64) if count < cores), cores})
