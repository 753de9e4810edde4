"""Results as lines of CSV or JSON, in the terms of the file's task."""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import ContractError

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import Task

__all__ = ["ResultLines", "main_output", "top_rows"]

Array = npt.NDArray[Any]


def main_output(model: "Model", result: "Array | dict[str, Array]") -> Array:
    """Pick the output that the task names, or the first one, from what a run or a step gave.

    Raises:
        ContractError: there is none.
    """
    if not isinstance(result, dict):
        return result
    task = model.interface.task
    if not (task or model.outputs):
        raise ContractError("the file has no output beside its states, so there is nothing to show")
    return result[task.output if task else model.outputs[0].name]


def top_rows(values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return the main output as ``(rows, C)``.

    Args:
        values: ``(rows,)``, ``(rows, C)``, or ``(layers*rows, C)`` of which the top layer's rows are taken.
        rows: how many series were run.

    Raises:
        ContractError: any other shape.
    """
    if values.ndim < 2 and values.size % rows == 0:
        values = values.reshape(rows, -1)
    if values.ndim != 2 or values.shape[0] % rows:
        raise ContractError(
            f"the main output is {values.shape} for {rows} series, expected one row per series; use "
            "load().run()"
        )
    top: npt.NDArray[Any] = values.reshape(-1, rows, values.shape[-1])[-1]
    return top


class ResultLines:
    """Turns rows of a file's main output into text lines.

    A classification's line holds the label and each class's probability (softmax); any other holds the
    values. Floats are the shortest text that reads back as the same number.
    """

    def __init__(self, task: "Task | None", key: str, *, as_json: bool) -> None:
        """Write lines that begin with ``key``; JSON lines or CSV."""
        self._task, self._key, self._as_json = task, key, as_json
        self._classes = task is not None and task.kind == "classification"

    def header(self, width: int) -> str:
        """Return the CSV header for outputs of ``width`` values; nothing for JSON lines."""
        if self._as_json:
            return ""
        if self._classes:
            return _csv_line([self._key, "label", *(f"p_{name}" for name in self._names(width))])
        units = self._task.units if self._task and len(self._task.units) == width else ("",) * width
        labels = self._task.labels if self._task and len(self._task.labels) == width else ()
        names = labels or tuple(f"value_{index}" for index in range(width))
        names = tuple(name + (f" [{unit}]" if unit else "") for name, unit in zip(names, units, strict=True))
        return _csv_line([self._key, *names])

    def line(self, key: str | int, values: Array) -> str:
        """Return the line for one row ``(C,)``, newline included."""
        numbers = _softmax(values) if self._classes else values
        label = self._names(len(values))[int(numbers.argmax())] if self._classes else None
        if not self._as_json:
            return _csv_line([key, *([] if label is None else [label]), *map(str, numbers)])
        document: dict[str, Any] = {self._key: key}
        floats = [float(str(number)) for number in numbers]
        if label is None:
            document["values"] = [number if np.isfinite(number) else None for number in floats]
        else:
            document |= {
                "label": label,
                "probabilities": dict(zip(self._names(len(values)), floats, strict=True)),
            }
        return json.dumps(document) + "\n"

    def _names(self, width: int) -> Sequence[str]:
        labels = self._task.labels if self._task else ()
        return labels if len(labels) == width else tuple(map(str, range(width)))


def _softmax(logits: Array) -> Array:
    wide = np.exp(logits.astype(np.float64) - logits.max())
    shares: Array = (wide / wide.sum()).astype(logits.dtype)
    return shares


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
