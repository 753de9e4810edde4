"""What a file's main output means: labels and probabilities, or values with their units."""

from dataclasses import dataclass

import numpy as np

from .manifest import Array, Task

__all__ = ["Prediction", "interpret", "softmax"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a file says about each row, in the terms of its task."""

    kind: str
    """``classification`` or ``regression``."""
    values: Array
    """The raw output ``(rows, C)``: logits, or the predicted values."""
    labels: tuple[str, ...] = ()
    """The likeliest class of each row; its index as text where the file names no classes."""
    probabilities: Array | None = None
    """Softmax of the logits ``(rows, C)``; None for regression."""
    units: tuple[str, ...] = ()
    """The unit of each predicted value; empty for classification and where unknown."""


def interpret(values: Array, task: Task) -> Prediction:
    """Read the main output ``values (rows, C)`` as ``task`` says."""
    if task.kind != "classification":
        return Prediction(task.kind, values, units=task.units)
    names = task.labels or tuple(map(str, range(values.shape[-1])))
    return Prediction(
        task.kind,
        values,
        labels=tuple(names[index] for index in values.reshape(-1, values.shape[-1]).argmax(axis=-1)),
        probabilities=softmax(values),
    )


def softmax(logits: Array) -> Array:
    """Return the probabilities ``(..., C)`` of logits ``(..., C)``, in their dtype."""
    wide = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: Array = (wide / wide.sum(axis=-1, keepdims=True)).astype(logits.dtype)
    return shares
