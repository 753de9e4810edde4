"""Interpret a file's main output: labels and probabilities, or values with their units."""

from typing import NamedTuple

import numpy as np

from .errors import ContractError
from .manifest import Array, Task


class Prediction(NamedTuple):
    """Labels or values of each row, according to the task."""

    kind: str
    """``classification`` or ``regression``."""
    values: Array
    """The raw output ``(rows, C)``: logits, or the predicted values."""
    labels: tuple[str, ...] = ()
    """The most likely class of each row; its index as text if the file has no class names."""
    probabilities: Array | None = None
    """Softmax of the logits ``(rows, C)``; None for regression."""
    units: tuple[str, ...] = ()
    """The unit of each predicted value; empty for classification and if unknown."""


def interpret(values: Array, task: Task) -> Prediction:
    """Read the main output ``values (rows, C)`` as ``task`` says; ``ContractError`` for other labels."""
    if task.kind != "classification":
        return Prediction(task.kind, values, units=task.units)
    width = values.shape[-1] if values.ndim else 0
    names = task.labels or tuple(map(str, range(width)))
    if len(names) != width or not width:
        raise ContractError(f"{task.output} has shape {values.shape}, expected a value for each of {names}")
    classes = values.reshape(-1, width).argmax(axis=-1)
    return Prediction(
        task.kind, values, labels=tuple(names[index] for index in classes), probabilities=softmax(values)
    )


def softmax(logits: Array) -> Array:
    """Return the probabilities ``(..., C)`` of logits ``(..., C)``, in their dtype."""
    wide = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: Array = (wide / wide.sum(axis=-1, keepdims=True)).astype(logits.dtype)
    return shares
