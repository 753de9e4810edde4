"""Samples and results as lines of text: one sample per line in, one result per line
out.
"""

import csv
import io
import json
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge.results import class_names, is_classification, result_names
from lstm_edge_runtime.errors import InputError, counted, printable
from lstm_edge_runtime.manifest import Array, Task
from lstm_edge_runtime.results import softmax

_LONGEST = 1 << 20
"""Maximum number of bytes of a line, so that memory stays bounded."""


def read_lines() -> Iterator[bytes]:
    """Yield the lines of standard input as they arrive, until its end, SIGINT or
    SIGTERM.

    A signal ends the wait for a line, but never the work on one. Raises InputError for
    a line above 1 MiB.
    """
    stopped = False
    waiting = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if waiting:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # ``cli.run`` restores the handlers
        signal.signal(number, stop)
    with open(0, "rb", closefd=False) as source:
        while True:
            try:
                waiting = True
                line = b"" if stopped else source.readline(_LONGEST)
            except KeyboardInterrupt:
                return
            finally:
                waiting = False
            if len(line) == _LONGEST:
                raise InputError(
                    "a line is longer than 1 MiB; expected one sample per line"
                )
            if not line:
                return
            yield line


class LineParser:
    """Reads samples from lines such as ``0.1,0.2``, or with tabs, semicolons or spaces.

    A first line without numbers is a header; if it contains the names, columns are
    selected by them.
    """

    def __init__(
        self,
        width: int,
        names: Sequence[str] = (),
        dtype: str = "float32",
        *,
        required: bool = False,
    ) -> None:
        """Expect ``width`` numbers per line, with these names if known; ``required``
        ones in a header.
        """
        self._width = width
        self._names = names
        self._dtype = np.dtype(dtype)
        self._first = True
        self._cells = width
        self._columns = [] if required else [*range(width)]

    def parse(self, line: bytes) -> npt.NDArray[Any] | None:
        """Return the sample ``(I,)`` of a line; None for a blank line and for the
        header.

        Raises:
            InputError: the line is malformed, or a number is not finite or out of range
                of the dtype.
        """
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not text:
            return None
        first = self._first
        self._first = False
        delimiter = next((mark for mark in "\t;," if mark in text), None)
        parts = text.split(delimiter) if delimiter or self._width > 1 else [text]
        cells = [part.strip(' "') for part in parts]
        if not self._columns or (
            first and all(_to_float(cell) is None for cell in cells)
        ):
            self._read_header(cells)
            return None
        if len(cells) != self._cells:
            raise InputError(
                f"expected {counted(self._cells, 'number')}, got {len(cells)}"
            )
        return self._to_sample([cells[column] for column in self._columns])

    def _read_header(self, cells: list[str]) -> None:
        if self._names and set(self._names) <= set(cells):
            self._columns = [cells.index(name) for name in self._names]
            self._cells = len(cells)
        elif not self._columns or len(cells) != self._width:
            wanted = ", ".join(self._names) or counted(self._width, "column")
            raise InputError(
                f"the header has {', '.join(cells)[:200]}; expected {wanted}; choose"
                f" columns, such as --features {','.join(cells[-self._width :])}"
            )

    def _to_sample(self, cells: Sequence[str]) -> npt.NDArray[Any]:
        numbers = [_to_float(cell) for cell in cells]
        if None in numbers:
            raise InputError(
                f"expected numbers, got {cells[numbers.index(None)][:40]!r}"
            )
        wide = np.array(numbers, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sample = wide.astype(self._dtype)
        wrong = ~np.isfinite(sample) if self._dtype.kind == "f" else sample != wide
        if wrong.any():
            raise InputError(
                f"expected finite {self._dtype} numbers, got"
                f" {float(wide[int(wrong.argmax())])!r}"
            )
        return sample


def _to_float(cell: str) -> float | None:
    """Return the number in a cell; None if there is none."""
    try:
        return float(cell)
    except ValueError:
        return None


class ResultLines:
    """Formats rows of a file's main output as lines of CSV with a header, or of JSON.

    A classification line has the label and the probability of each class (softmax); any
    other line has the values. Floats are the shortest text that reads back as the same
    number.
    """

    def __init__(
        self, task: Task | None, *keys: str, as_json: bool, hold: int = 1
    ) -> None:
        """Write lines that begin with ``keys``; the label changes once it stayed for
        ``hold`` lines.
        """
        self._recent: deque[str] = deque(maxlen=hold)
        self._label: str | None = None
        self._task = task
        self._keys = keys
        self._as_json = as_json
        self._classes = is_classification(task)
        self._header_due = not as_json

    def line(self, values: Array, *keys: str | int) -> str:
        """Return the line for one row ``(C,)``, which begins with these keys; the first
        has the header.
        """
        names = class_names(self._task, len(values))
        label = self._held(names[int(values.argmax())]) if self._classes else None
        with np.errstate(invalid="ignore"):  # infinite logits give NaN
            numbers = softmax(values) if self._classes else values
        if self._as_json:
            document: dict[str, Any] = dict(zip(self._keys, keys, strict=True))
            floats = [
                float(str(number)) if np.isfinite(number) else None
                for number in numbers
            ]
            labeled = {
                "label": label,
                "probabilities": dict(zip(names, floats, strict=True)),
            }
            return (
                json.dumps(
                    document | (labeled if self._classes else {"values": floats})
                )
                + "\n"
            )
        rows = [[*keys, *[label] * self._classes, *map(str, numbers)]]
        if self._header_due:
            rows.insert(
                0,
                [
                    *self._keys,
                    *["label"] * self._classes,
                    *result_names(self._task, len(values)),
                ],
            )
        self._header_due = False
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def _held(self, label: str) -> str | None:
        self._recent.append(label)
        if self._recent.count(label) == self._recent.maxlen:
            self._label = label
        return self._label


def write_line(text: str) -> None:
    """Write to standard output at once, without a buffer; raises OSError."""
    left = printable(text).encode()
    while left:
        left = left[os.write(1, left) :]
