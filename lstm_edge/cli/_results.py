"""Format results as lines of CSV or JSON, according to the file's task."""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge.hold import Hold
from lstm_edge.results import class_names, is_classification, result_names
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.prediction import softmax

if TYPE_CHECKING:
    from lstm_edge_runtime.manifest import Task

from lstm_edge_runtime.manifest import Array


class ResultLines:
    """Formats rows of a file's main output as text lines.

    A classification line has the label and the probability of each class (softmax); any other line has the
    values. Floats are the shortest text that reads back as the same number.
    """

    def __init__(self, task: "Task | None", *keys: str, as_json: bool, hold: Hold | None = None) -> None:
        """Write lines that begin with ``keys``, as JSON Lines or CSV, with labels debounced by ``hold``.

        Raises:
            InputError: ``hold`` is given, but the outputs are values.
        """
        self._task, self._keys, self._as_json, self._hold = task, keys, as_json, hold
        self._classes = is_classification(task)
        if hold and not self._classes:
            raise InputError("--hold applies to labels, but this file's outputs are values; remove it")

    def header(self, width: int) -> str:
        """Return the CSV header for outputs of ``width`` values; empty for JSON Lines."""
        if self._as_json:
            return ""
        label = ["label"] if self._classes else []
        return _csv_line([*self._keys, *label, *result_names(self._task, width)])

    def line(self, values: Array, *keys: str | int) -> str:
        """Return the line for one row ``(C,)``, which begins with these keys, including the newline."""
        with np.errstate(invalid="ignore"):  # infinite logits give NaN
            numbers = softmax(values) if self._classes else values
        names = class_names(self._task, len(values))
        label = dict(enumerate(names)).get(self.take(values)) if self._classes else None
        if not self._as_json:
            return _csv_line([*keys, *([label] if self._classes else []), *map(str, numbers)])
        document: dict[str, Any] = dict(zip(self._keys, keys, strict=True))
        floats = [float(str(number)) if np.isfinite(number) else None for number in numbers]
        if not self._classes:
            document["values"] = floats
        else:
            document |= {"label": label, "probabilities": dict(zip(names, floats, strict=True))}
        return json.dumps(document) + "\n"

    def take(self, values: Array) -> int:
        """Return a row's label index, -1 if none is confirmed yet; call it for every row, written or not."""
        index = int(values.argmax())
        if self._hold is None:
            return index
        self._hold.take(index)
        return self._hold.label


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
