"""Samples and results as lines of text: one sample per line in, one result per line
out.
"""

import csv
import io
import json
import os
import re
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge.data.numbers import has_decimal_comma, parse_number
from lstm_edge.results import class_labels, is_classification, result_names
from lstm_edge_runtime.errors import InputError, counted, printable
from lstm_edge_runtime.manifest import Array, Task
from lstm_edge_runtime.results import most_likely, softmax

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
        """Finish the line in work; interrupt only while waiting for the next one."""
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


class HeaderError(InputError):
    """A header without the columns of the model: no line after it can be read."""


class LineParser:
    """Reads samples from lines such as ``0.1,0.2``, or with tabs, semicolons or spaces.

    A line without numbers before the first sample is a header. If names are known,
    columns are selected by them.
    """

    def __init__(
        self,
        width: int,
        names: Sequence[str] = (),
        dtype: str = "float32",
        *,
        needs_header: bool = False,
    ) -> None:
        """Expect ``width`` numbers per line, and in a header these names if known."""
        self._width = width
        self._names = names
        self._dtype = np.dtype(dtype)
        self._needs_header = needs_header
        self._has_header = False
        self._has_sample = False
        self._line_width = width
        """Number of cells per line."""
        self._columns: Sequence[int] = range(width)
        """Index of the cell of each feature."""

    def parse(self, line: bytes) -> npt.NDArray[Any] | None:
        """Return the sample ``(I,)`` of a line; None for a blank line and for the
        header.

        Raises:
            HeaderError: the header lacks a column of the model.
            InputError: the line is malformed, or a number is not finite or out of range
                of the dtype.
        """
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not text:
            return None
        cells = self._split(text)
        if not self._has_sample and self._is_header(cells):
            self._columns = self._read_header(cells)
            self._line_width = len(cells)
            self._has_header = True
            return None
        if len(cells) != self._line_width:
            raise InputError(
                f"expected {counted(self._line_width, 'number')}, got {len(cells)}"
            )
        sample = self._to_sample([cells[column] for column in self._columns])
        self._has_sample = True
        return sample

    def _split(self, text: str) -> list[str]:
        """Return the cells of a line; a cell in quotes may contain the delimiter."""
        unquoted = re.sub('"[^"]*"', "", text)
        delimiter = next((mark for mark in "\t;," if mark in unquoted), None)
        if delimiter is None:
            fields = text.split() if self._width > 1 else [text]
            return [field.strip(' "') for field in fields]
        try:
            fields = next(
                csv.reader([text], delimiter=delimiter, skipinitialspace=True)
            )
        except csv.Error as error:
            raise InputError(f"expected cells with {delimiter!r}: {error}") from error
        return [field.strip(' "') for field in fields]

    def _is_header(self, cells: list[str]) -> bool:
        """Return True for a line without numbers that is wide enough, or a required
        header.
        """
        if self._needs_header and not self._has_header:
            return True
        has_no_number = not any(
            parse_number(cell) is not None or has_decimal_comma(cell) for cell in cells
        )
        return has_no_number and len(cells) >= self._width

    def _read_header(self, cells: list[str]) -> Sequence[int]:
        """Return the index of each feature's column: by name, or by position if the
        model has no names.
        """
        shown = ", ".join(cells)[:200]
        if not self._names:
            if len(cells) != self._width:
                raise HeaderError(
                    f"the header has {shown}, expected"
                    f" {counted(self._width, 'column')}; choose columns, such as"
                    f" --features {','.join(cells[-self._width :])}"
                )
            return range(self._width)
        for name in self._names:
            if cells.count(name) != 1:
                count = "no column" if name not in cells else "several columns"
                raise HeaderError(
                    f"the header has {count} {name!r} (it has {shown}); the model's"
                    f" features are {', '.join(self._names)}; name other columns with"
                    " --features"
                )
        return [cells.index(name) for name in self._names]

    def _to_sample(self, cells: Sequence[str]) -> npt.NDArray[Any]:
        """Return the sample in the cells of a line."""
        numbers = [parse_number(cell) for cell in cells]
        if None in numbers:
            wrong = cells[numbers.index(None)]
            detail = " with a decimal point" if has_decimal_comma(wrong) else ""
            raise InputError(f"expected numbers{detail}, got {wrong[:40]!r}")
        number = np.array(numbers, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sample = number.astype(self._dtype)
        is_lost = ~np.isfinite(sample) if self._dtype.kind == "f" else sample != number
        if is_lost.any():
            raise InputError(
                f"expected finite {self._dtype} numbers, got"
                f" {float(number[int(is_lost.argmax())])!r}"
            )
        return sample


class ResultLines:
    """Formats frames of a file's main output as lines of CSV with a header, or of JSON.

    A classification line has the label and the probability of each class (softmax), and
    no label if these are NaN; any other line has the values. Floats are the shortest
    text that reads back as the same number.
    """

    def __init__(
        self, task: Task | None, *keys: str, as_json: bool, hold: int = 1
    ) -> None:
        """Write lines that begin with ``keys``; the label changes once it stayed for
        ``hold`` lines.
        """
        self._recent: deque[str | None] = deque(maxlen=hold)
        self._label: str | None = None
        self._task = task
        self._keys = keys
        self._as_json = as_json
        self._has_labels = is_classification(task)
        self._needs_header = not as_json

    def line(self, values: Array, *keys: str | int) -> str:
        """Return the line for one frame ``(C,)``, which begins with these keys; the
        first has the header.
        """
        numbers = values
        label = None
        if self._has_labels:
            names = class_labels(self._task, len(values))
            label = self._hold(*most_likely(values[None], names))
            numbers = softmax(values)
        if self._as_json:
            return self._json_line(keys, label, numbers)
        return self._csv_lines(keys, label, numbers)

    def _json_line(
        self, keys: Sequence[str | int], label: str | None, numbers: Array
    ) -> str:
        """Return a result as a line of JSON."""
        document: dict[str, Any] = dict(zip(self._keys, keys, strict=True))
        floats = [
            float(str(number)) if np.isfinite(number) else None for number in numbers
        ]
        if self._has_labels:
            names = class_labels(self._task, len(numbers))
            document["label"] = label
            document["probabilities"] = dict(zip(names, floats, strict=True))
        else:
            document["values"] = floats
        return f"{json.dumps(document)}\n"

    def _csv_lines(
        self, keys: Sequence[str | int], label: str | None, numbers: Array
    ) -> str:
        """Return a result as CSV; the first one after the header."""
        header: list[str] = [*self._keys]
        row: list[str | int | None] = [*keys]
        if self._has_labels:
            header.append("label")
            row.append(label)
        header.extend(result_names(self._task, len(numbers)))
        row.extend(map(str, numbers))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._needs_header:
            writer.writerow(header)
        self._needs_header = False
        writer.writerow(row)
        return text.getvalue()

    def _hold(self, label: str) -> str | None:
        """Return the label that stayed for ``hold`` lines last; None before the first,
        and while there is no label.
        """
        known = label or None
        self._recent.append(known)
        if self._recent.count(known) == self._recent.maxlen:
            self._label = known
        return self._label


def write_line(text: str) -> None:
    """Write to standard output at once, without a buffer; raises OSError."""
    left = printable(text).encode()
    while left:
        left = left[os.write(1, left) :]
