"""Format results as lines of CSV or JSON, according to the file's task, and write them unbuffered."""

import contextlib
import csv
import errno
import io
import json
import os
import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge.results import class_names, is_classification, result_names
from lstm_edge_runtime.errors import InputError, printable
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.prediction import softmax

from ._samples import Stop

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
        label = ["label"] if self._classes else []
        return "" if self._as_json else _csv_line([*self._keys, *label, *result_names(self._task, width)])

    def line(self, values: Array, *keys: str | int) -> str:
        """Return the line for one row ``(C,)``, which begins with these keys, including the newline."""
        index, names = int(values.argmax()), class_names(self._task, len(values))
        if self._hold:
            self._hold.take(index)
            index = self._hold.label
        label = names[index] if index >= 0 else None
        with np.errstate(invalid="ignore"):  # infinite logits give NaN
            numbers = softmax(values) if self._classes else values
        if not self._as_json:
            return _csv_line([*keys, *([label] if self._classes else []), *map(str, numbers)])
        document: dict[str, Any] = dict(zip(self._keys, keys, strict=True))
        floats = [float(str(number)) if np.isfinite(number) else None for number in numbers]
        if self._classes:
            document |= {"label": label, "probabilities": dict(zip(names, floats, strict=True))}
        else:
            document["values"] = floats
        return json.dumps(document) + "\n"


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def write_line(text: str, stop: Stop) -> bool:
    """Write to standard output at once; return False if nobody reads, also after a request to stop.

    Raises:
        InputError: the output can't be written, such as on a full disk.
    """
    left = memoryview(printable(text).encode())
    try:
        while left:
            if not _writable(stop):
                return False
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(1, left[:4096]) :]  # a pipe that is ready takes these without blocking
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
            return False
        raise InputError(f"standard output can't be written: {error.strerror}") from error
    return True


def _writable(stop: Stop) -> bool:
    """Wait until standard output takes bytes; half a second at most after a request to stop."""
    if os.name == "nt":  # which can't wait for a pipe; a write blocks
        return True
    try:
        return bool(stop.wait(select.select, [], [1], [])[1])
    except KeyboardInterrupt:
        return bool(select.select([], [1], [], 0.5)[1])
