"""Interpret the rows of a file's main output, according to its task."""

from collections.abc import Iterator, Sequence
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge_runtime.errors import ContractError, counted
from lstm_edge_runtime.manifest import Array

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import Manifest, Task


def main_output(model: "Model", result: "Array | dict[str, Array]") -> Array:
    """Return the output of the task, or the first one, from the results of a run or a
    step.

    Raises ContractError if there is none.
    """
    return result[main_name(model)] if isinstance(result, dict) else result


class MainFrames:
    """The frames of the main output in what a stream's steps return, and which steps
    they are of.
    """

    def __init__(self, model: "Model") -> None:
        """Take the unit of the model's stream, and the delay of its main output."""
        manifest = model.manifest
        self._name = main_name(model)
        self._model = model
        self._per_unit = manifest.frames_a_unit.get(self._name, 1)
        self._unit = manifest.unit
        self._delay = manifest.delays.get(self._name, 0)
        batch = manifest.batch_axis(manifest.axes[self._name])
        time = frame_axis(model) or 0
        self._time = time - (batch is not None and batch < time)

    def of(
        self, result: "Array | dict[str, Array] | None", steps: int
    ) -> Iterator[tuple[int, int, Array]]:
        """Return the number of each frame, the step that it ends with, both from 1, and
        its values ``(C,)``.

        ``result`` belongs to step ``steps``, the last one.
        """
        if result is None or (isinstance(result, dict) and self._name not in result):
            return
        values = main_output(self._model, result)
        rows = (
            [values]
            if self._per_unit == 1
            else list(np.moveaxis(values, self._time, 0))
        )
        for later, row in zip(reversed(range(len(rows))), rows, strict=True):
            step = steps - (self._delay + later) * self._unit // self._per_unit
            yield (
                step * self._per_unit // self._unit,
                step,
                top_rows(np.atleast_1d(row), 1)[0],
            )

    def of_whole(self, rows: Array) -> Iterator[tuple[int, Array]]:
        """Return the step that each frame of a whole run ends with, from 1, and its
        values ``(C,)``.
        """
        for number, row in enumerate(rows, 1):
            yield number * self._unit // self._per_unit, row


def frame_axis(model: "Model") -> int | None:
    """Return the index of the time axis of the main output; None if it is a result of
    the last step alone.
    """
    return (
        model.manifest.time_axes.get(main_name(model))
        if model.manifest.sequence
        else None
    )


def main_name(model: "Model") -> str:
    """Return the name of the output of the task, or of the first one; raises
    ContractError without any.
    """
    task = model.manifest.task
    if not (task or model.outputs):
        raise ContractError(
            "the file has no outputs other than its states, so there is nothing to show"
        )
    return task.output if task else model.outputs[0].name


def top_rows(values: Array, rows: int) -> Array:
    """Return the main output as ``(rows, C)``; of ``(layers*rows, C)`` the rows of the
    top layer.

    Raises ContractError for another shape than these and ``(rows,)``.
    """
    if values.ndim < 2 and values.size % rows == 0:
        values = values.reshape(rows, -1)
    if values.ndim != 2 or len(values) % rows:
        raise ContractError(
            f"the main output is {values.shape} for {rows} series, not one row each;"
            " use load()"
        )
    return np.asarray(values.reshape(-1, rows, values.shape[-1])[-1])


def is_classification(task: "Task | None") -> bool:
    """Return whether the main output is class logits."""
    return task is not None and task.kind == "classification"


def class_names(task: "Task | None", width: int) -> Sequence[str]:
    """Return the name of each of ``width`` classes; its index if the file has no
    names.
    """
    labels = task.labels if task else ()
    return labels if len(labels) == width else tuple(map(str, range(width)))


def result_names(task: "Task | None", width: int) -> list[str]:
    """Return a column's name for each of ``width`` outputs: of a probability, or of a
    value and its unit.
    """
    if is_classification(task):
        return [f"p_{name}" for name in class_names(task, width)]
    labels, units = (task.labels, task.units) if task else ((), ())
    names = (
        labels if len(labels) == width else [f"value_{index}" for index in range(width)]
    )
    pairs = zip(names, units if len(units) == width else [""] * width, strict=True)
    return [name + (f" [{unit}]" if unit else "") for name, unit in pairs]


def pace(manifest: "Manifest") -> str:
    """Return when a stream gives frames:
    ``one frame every 160 samples, 2 frames (20 ms) delay``.
    """
    frames = manifest.frames_a_unit
    name = max(
        frames,
        key=lambda common: manifest.delays.get(common, 0) / frames[common],
        default="",
    )
    delay = manifest.delays.get(name, 0)
    count = frames.get(name, 1)
    unit = manifest.unit
    common = gcd(count, unit)
    many = "one frame" if count == common else f"{count // common} frames"
    rhythm = (
        f"{many} per step"
        if unit == common
        else f"{many} every {unit // common} samples"
    )
    at_once = f", {count} per call" if common > 1 else ""
    rate = manifest.signal.sampling_rate
    time = f" ({1000 * delay * unit / count / rate:.3g} ms)" if rate else ""
    return (
        rhythm + at_once + (f", {counted(delay, 'frame')}{time} delay" if delay else "")
    )
