"""Read results: the frames of the main output, and their labels and probabilities."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .axes import Layout, describe, row_factor
from .errors import ContractError, InputError
from .manifest import Array, Manifest, Task

Result = Any
"""The only output that is not a state; a mapping by name if there are several."""


class Prediction(NamedTuple):
    """Labels or values of each row, according to the task."""

    kind: str
    """``classification`` or ``regression``."""
    values: Array
    """The raw output ``(rows, C)``: logits, or the predicted values."""
    labels: tuple[str, ...] = ()
    """The most likely class of each row; its index as text if the file has no class
    names, and empty if its logits have no probabilities (NaN or infinity)."""
    probabilities: Array | None = None
    """Softmax of the logits ``(rows, C)``; None for regression."""
    units: tuple[str, ...] = ()
    """The unit of each predicted value; empty for classification and if unknown."""


class Label(NamedTuple):
    """The most likely class of one result, and the probability of each class."""

    label: str
    """The most likely class; its index as text if the file has no class names."""
    probabilities: Array
    """Softmax of the logits ``(C,)``, in the order of the file's labels."""

    @property
    def probability(self) -> float:
        """The probability of the label."""
        return float(self.probabilities.max())


def main_name(manifest: Manifest) -> str:
    """Return the name of the task's output, or of the first one; ``ContractError``
    without any.
    """
    if manifest.task is not None:
        return manifest.task.output
    if not manifest.outputs:
        raise ContractError("this file has no outputs other than its states")
    return manifest.outputs[0].name


def frame_axis(manifest: Manifest) -> int | None:
    """Return the index of the main output's time axis; None if it belongs to the last
    step only.

    Raises:
        ContractError: its values lie along an axis of variable size that is not time.
    """
    name = main_name(manifest)
    axes = manifest.axes[name]
    time = manifest.time_axes.get(name) if manifest.sequence else None
    is_time = time == len(axes) - 1
    is_rows = bool(axes) and row_factor(axes[-1], manifest.batch) is not None
    if is_time or is_rows or not axes or isinstance(axes[-1], int):
        return time
    raise ContractError(
        f"output {name!r} is {describe(axes)}, whose last axis is neither time steps nor"
        " a fixed number of values; export a stream (--stream), or use run()"
    )


def frames_of(result: Any, layout: Layout) -> Array:
    """Return the frames ``(frames, C)`` of one output in a result of a single stream.

    ``result`` is what ``step`` or ``process`` returned; there are no frames in None. Of
    an output with one row per layer, a frame is the row of the top layer.
    """
    values = result.get(layout.name) if isinstance(result, Mapping) else result
    if values is None:
        return np.zeros((0, *layout.inner[-1:]), layout.dtype)
    array = np.asarray(values)
    axes = layout.caller_axes[1:]
    time = layout.caller_time
    if time is not None and array.ndim == len(axes):
        array = np.moveaxis(array, time, 0)
    elif array.ndim == len(axes) - (time is not None):
        array = array[None]
    else:
        raise InputError(
            f"{layout.name} has shape {array.shape}, expected a result {describe(axes)}"
        )
    if layout.factor:
        array = array[:, -1]
    has_rows = any(size != 1 for size in array.shape[1:-1])  # not a fixed batch of one
    if has_rows:
        raise ContractError(
            f"{layout.name} has frames of shape {array.shape[1:]}, expected one axis"
        )
    return array.reshape(len(array), -1)


def only(results: dict[str, Any], outputs: int) -> Result | None:
    """Return the value of a single output; of several ``outputs``, all by name; None if
    there are no values.
    """
    if not results:
        return None
    return next(iter(results.values())) if outputs == 1 else results


def label_of(values: Array, task: Task | None) -> Label:
    """Return the label of logits ``(C,)``; ``InputError`` if the task has no classes,
    or the logits have no probabilities.
    """
    if task is None or task.kind != "classification":
        description = "no task" if task is None else f"the task {task.kind!r}"
        raise InputError(
            f"this file has {description}, expected a classification; use the values as they"
            " are, or export it with labels"
        )
    (label,) = most_likely(values[None], class_names(values, task))
    if not label:
        raise InputError(
            f"{task.output} is {values!s:.60}, which is not a result: its largest value is"
            " not finite; check the samples, and reset the stream"
        )
    return Label(label, softmax(values))


def predict(values: Array, manifest: Manifest, task: Task) -> Prediction:
    """Read the main output ``values (rows, C)`` as ``task`` says; ``ContractError`` for
    other labels, or values along an axis of variable size.
    """
    frame_axis(manifest)
    if task.kind != "classification":
        return Prediction(task.kind, values, units=task.units)
    axes = manifest.axes[task.output]
    if not axes or isinstance(axes[-1], str):
        raise ContractError(
            f"{task.output} is {describe(axes)}, expected a fixed number of classes on"
            " its last axis; use run()"
        )
    names = class_names(values, task)
    labels = most_likely(values.reshape(-1, len(names)), names)
    return Prediction(
        kind=task.kind, values=values, labels=labels, probabilities=softmax(values)
    )


def most_likely(logits: Array, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of the largest of each row of logits ``(rows, C)``; empty for a
    row without probabilities, whose largest logit is NaN or infinite.
    """
    classes = logits.argmax(axis=-1)
    is_valid = np.isfinite(logits.max(axis=-1))
    rows = zip(classes, is_valid, strict=True)
    return tuple(names[index] if valid else "" for index, valid in rows)


def class_names(values: Array, task: Task) -> tuple[str, ...]:
    """Return the name of each class on the last axis of ``values``, its index if the
    file has no names.
    """
    width = values.shape[-1] if values.ndim else 0
    names = task.labels or tuple(map(str, range(width)))
    if len(names) != width or not width:
        raise ContractError(
            f"{task.output} has shape {values.shape}, expected a value for each of"
            f" {names}"
        )
    return names


def softmax(logits: Array) -> Array:
    """Return the probabilities ``(..., C)`` of logits ``(..., C)``, in their dtype; NaN
    if the largest logit is NaN or infinite.
    """
    largest = logits.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.exp(logits.astype(np.float64) - largest)
    total = shares.sum(axis=-1, keepdims=True)
    probabilities: Array = (shares / total).astype(logits.dtype)
    return probabilities
