"""Results as lines of CSV or JSON, in the terms of the file's task."""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge.results import class_names, is_classification, result_names
from lstm_edge_runtime.prediction import softmax

if TYPE_CHECKING:
    from lstm_edge_runtime.manifest import Task

from lstm_edge_runtime.manifest import Array

__all__ = ["ResultLines"]


class ResultLines:
    """Turns rows of a file's main output into text lines.

    A classification's line holds the label and each class's probability (softmax); any other holds the
    values. Floats are the shortest text that reads back as the same number.
    """

    def __init__(self, task: "Task | None", key: str, *, as_json: bool) -> None:
        """Write lines that begin with ``key``; JSON lines or CSV."""
        self._task, self._key, self._as_json = task, key, as_json
        self._classes = is_classification(task)

    def header(self, width: int) -> str:
        """Return the CSV header for outputs of ``width`` values; nothing for JSON lines."""
        if self._as_json:
            return ""
        label = ["label"] if self._classes else []
        return _csv_line([self._key, *label, *result_names(self._task, width)])

    def line(self, key: str | int, values: Array) -> str:
        """Return the line for one row ``(C,)``, newline included."""
        numbers = softmax(values) if self._classes else values
        names = class_names(self._task, len(values))
        label = names[int(numbers.argmax())] if self._classes else None
        if not self._as_json:
            return _csv_line([key, *([] if label is None else [label]), *map(str, numbers)])
        document: dict[str, Any] = {self._key: key}
        floats = [float(str(number)) for number in numbers]
        if label is None:
            document["values"] = [number if np.isfinite(number) else None for number in floats]
        else:
            document |= {"label": label, "probabilities": dict(zip(names, floats, strict=True))}
        return json.dumps(document) + "\n"


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
