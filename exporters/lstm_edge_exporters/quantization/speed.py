"""Time a smaller file and the float file on this machine, alternately."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array, Manifest, TensorSpec
from lstm_edge_runtime.model import Model

from ..bootstrap import ratio_interval

CHUNK = 256
"""Time steps in the chunk that is timed."""
NOTICEABLE = 1.03
"""A ratio that is surely above this counts as slower."""
_ROUNDS, _FEWEST_ROUNDS = 40, 7
_BLOCK = 1e-3
"""Seconds; calls are repeated until a block takes this long, so that the clock does not matter."""
_CLOCK = time.thread_time if time.get_clock_info("thread_time").resolution <= 1e-6 else time.perf_counter
"""CPU time of this thread, which other programs disturb less; wall time if that clock is too coarse."""
_BUDGET = 3.0
"""Seconds a case may take before its rounds are cut short."""


@dataclass(frozen=True)
class Timing:
    """One kind of call, both files."""

    what: str
    """``step``, ``unit`` of a stream that takes several steps at a time, or ``chunk``."""
    before: float
    """Seconds a call of the float file, the median over the rounds."""
    after: float
    """The same of the smaller file."""
    ratio: float
    """``after / before``, the median over the rounds: below 1 is faster."""
    low: float
    """The 95 % bootstrap interval of that ratio, its lower end."""
    high: float
    """Its upper end."""

    @property
    def slower(self) -> bool:
        """Whether the smaller file is slower beyond noise."""
        return self.low > NOTICEABLE


def time_both(before: Model, after: Model, inputs: Mapping[str, Array]) -> list[Timing]:
    """Time a step, or a unit, and a chunk of both files alternately, one source of samples on one thread.

    A file that can be streamed is timed as a stream, another one through ``run``.

    Args:
        before: the float file, with a manifest.
        after: the smaller file.
        inputs: one call's inputs, batch axis included, from which one row is taken.
    """
    manifest = before.manifest
    assert manifest is not None
    streamed, unit = manifest.streamable, manifest.unit
    smallest, timings = "step" if unit == 1 else "unit", []
    for what in (smallest, "chunk") if manifest.sequence else ("step",):
        width = -(-CHUNK // unit) * unit if what == "chunk" else unit
        rows = {
            spec.name: _row(inputs[spec.name], spec, manifest, width, what == "step" and streamed, streamed)
            for spec in manifest.data_inputs
        }
        feed: Any = rows if len(rows) > 1 else next(iter(rows.values()))
        timings.append(_in_turns(what, *(_call(model, what, streamed, feed) for model in (before, after))))
    return timings


def _call(model: Model, what: str, streamed: bool, feed: Any) -> Callable[[], Any]:
    if not streamed:
        return partial(model.run, feed)
    stream = model.stream(reset_every="never")
    return partial(stream.step if what == "step" else stream.process, feed)


def _row(
    array: Array, spec: TensorSpec, manifest: Manifest, width: int, drop_sequence: bool, drop_batch: bool
) -> Array:
    axes = spec.axes
    if (along := manifest.time_axis(axes)) is not None:
        array = array.take(0 if drop_sequence else np.arange(width) % array.shape[along], axis=along)
        axes = tuple(axis for axis in axes if not drop_sequence or axis != manifest.sequence)
    if (rows := manifest.batch_axis(axes)) is not None:
        array = array.take(0 if drop_batch else [0], axis=rows)
    return array


def _in_turns(what: str, before: Callable[[], Any], after: Callable[[], Any]) -> Timing:
    repeats = max(1, int(_BLOCK / max(_block(before, 3), 1e-9)))
    _block(after, 3)
    pairs: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(pairs) < _ROUNDS and (len(pairs) < _FEWEST_ROUNDS or time.perf_counter() - started < _BUDGET):
        if len(pairs) % 2:
            second, first = _block(after, repeats), _block(before, repeats)
        else:
            first, second = _block(before, repeats), _block(after, repeats)
        pairs.append((first, second))
    times = np.array(pairs)
    ratio = ratio_interval(times[:, 1], times[:, 0], paired=True)
    first, second = (float(seconds) for seconds in np.median(times, axis=0))
    return Timing(what, first, second, ratio.ratio, ratio.low, ratio.high)


def _block(call: Callable[[], Any], repeats: int) -> float:
    """Seconds a call, over ``repeats`` calls."""
    started = _CLOCK()
    for _ in range(repeats):
        call()
    return (_CLOCK() - started) / repeats
