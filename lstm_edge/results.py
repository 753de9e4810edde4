"""Frames of a file's main output: the steps that they belong to, and names for their
values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge_runtime.errors import counted
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.results import class_names, frame_axis, main_name

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import Manifest, Task


@dataclass(frozen=True)
class Frame:
    """One frame of the main output."""

    step: int
    """Time step that the frame ends with, from 1."""
    values: Array
    """Logits or values, ``(C,)``."""


@dataclass(frozen=True)
class PredictedSeries:
    """A series and the frames that the model gave."""

    name: str
    """Name of the series."""
    x: Array
    """Features, ``(L, I)``."""
    frames: Sequence[Frame]
    """Results of the model, in time order."""


class MainFrames:
    """The frames of the main output in the results of a stream, with their steps."""

    def __init__(self, model: "Model") -> None:
        """Take the unit of the model's stream, and the delay of its main output."""
        manifest = model.manifest
        name = main_name(manifest)
        self._model = model
        self._per_unit = manifest.frames_per_unit.get(name, 1)
        self._unit = manifest.unit
        self._delay = manifest.delays.get(name, 0)

    def of(self, result: Any, steps: int) -> Iterator[Frame]:
        """Yield the frames of a result that a stream returned after ``steps`` steps."""
        rows = self._model.frames(result)
        for index, values in enumerate(rows):
            frames_later = len(rows) - 1 - index
            lag = (self._delay + frames_later) * self._unit // self._per_unit
            yield Frame(steps - lag, values)

    def of_sequence(self, rows: Array) -> Iterator[Frame]:
        """Yield the frames ``(frames, C)`` of a full sequence."""
        for number, values in enumerate(rows, 1):
            yield Frame(number * self._unit // self._per_unit, values)


def sequence_frames(model: "Model", outputs: dict[str, Array]) -> Array:
    """Return the frames ``(frames, C)`` of the main output from a run of one series."""
    manifest = model.manifest
    name = main_name(manifest)
    output = outputs[name]
    frame_axis(manifest)  # raises for an output without frames
    batch = manifest.batch_axis(manifest.axes[name])
    return model.frames(output if batch is None else np.take(output, 0, axis=batch))


def is_classification(task: "Task | None") -> bool:
    """Return True if the main output is class logits."""
    return task is not None and task.kind == "classification"


def value_names(task: "Task | None", width: int) -> list[str]:
    """Return the name of each of ``width`` predicted values, with its unit."""
    labels = task.labels if task else ()
    units = task.units if task else ()
    if len(labels) != width:
        labels = tuple(f"value_{index}" for index in range(width))
    if len(units) != width:
        units = ("",) * width
    pairs = zip(labels, units, strict=True)
    return [f"{label} [{unit}]" if unit else label for label, unit in pairs]


def class_labels(task: "Task | None", width: int) -> tuple[str, ...]:
    """Return the name of each of ``width`` classes, its index if the file has no names;
    empty for values.
    """
    if task is None or not is_classification(task):
        return ()
    return class_names(np.empty(width), task)


def result_names(task: "Task | None", width: int) -> list[str]:
    """Return a column name for each of ``width`` outputs: of the probability of a
    class, or of a value and its unit.
    """
    if is_classification(task):
        return [f"p_{name}" for name in class_labels(task, width)]
    return value_names(task, width)


def pace(manifest: "Manifest") -> str:
    """Return when a stream gives frames:
    ``one frame every 160 samples, 2 frames (20 ms) delay``.
    """
    unit = manifest.unit
    name = _latest_output(manifest)
    frames = manifest.frames_per_unit.get(name, 1)
    calls = gcd(frames, unit)
    text = "one frame" if frames == calls else f"{frames // calls} frames"
    text += " per step" if unit == calls else f" every {unit // calls} samples"
    if calls > 1:
        text += f", {frames} per call"
    delay = manifest.delays.get(name, 0)
    if delay:
        text += f", {counted(delay, 'frame')}"
        rate = manifest.signal.sampling_rate
        if rate:
            text += f" ({1000 * delay * unit / frames / rate:.3g} ms)"
        text += " delay"
    return text


def _latest_output(manifest: "Manifest") -> str:
    """Return the name of the output with the longest delay in steps."""
    frames = manifest.frames_per_unit
    return max(
        frames,
        key=lambda name: manifest.delays.get(name, 0) / frames[name],
        default="",
    )
