"""Parse one sample per line: the input format of ``lstm-edge stream``."""

import csv
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError, counted


class LineParser:
    """Read samples from CSV or JSON lines, which may be mixed; recognizes a header.

    A line is ``0.1,0.2`` (or with tabs, semicolons or spaces), ``[0.1, 0.2]``, or ``{"ax": 0.1, "ay": 0.2}``.
    A first line of text without numbers is a header; if it contains the feature names, columns are
    selected by them.
    """

    def __init__(
        self, width: int, features: Sequence[str] = (), dtype: str = "float32", *, required: bool = False
    ) -> None:
        """Expect ``width`` numbers per line, named ``features`` if known; return arrays of ``dtype``.

        With ``required``, a header must contain these names.
        """
        self._required = required
        self._dtype = np.dtype(dtype)
        self._width = width
        self._features = tuple(features)
        self._columns: list[int] | None = None
        self._cells = width
        self._first = True

    def parse(self, line: str) -> npt.NDArray[Any] | None:
        """Return the sample ``(I,)`` of a line; None for a blank line and for the header.

        Raises:
            InputError: the line is malformed.
        """
        line = line.strip().removeprefix("\ufeff")
        if "\0" in line:
            raise InputError("binary data, expected text; use --binary float32 for raw numbers")
        if not line:
            return None
        first, self._first = self._first, False
        if line[0] in "[{":
            return self._finite(self._parse_json(line))
        cells = [cell.strip() for cell in _cells(line, self._width)]
        if first and not any(map(_is_number, cells)):
            self._learn_header(cells)
            return None
        if len(cells) != self._cells:
            raise InputError(f"expected {counted(self._cells, 'number')}, got {len(cells)}")
        if self._columns is not None:
            cells = [cells[column] for column in self._columns]
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            bad = next(cell for cell in cells if not _is_number(cell))
            raise InputError(f"expected numbers, got {bad[:40]!r}") from error
        return self._finite(values)

    def parse_bytes(self, line: bytes) -> npt.NDArray[Any] | None:
        """Return the sample of a line of arbitrary bytes; see ``parse``."""
        return self.parse(line.decode("utf-8", "replace"))

    def _learn_header(self, cells: list[str]) -> None:
        if self._features and set(self._features) <= set(cells):
            self._columns = [cells.index(name) for name in self._features]
            self._cells = len(cells)
        elif self._required or len(cells) != self._width:
            wanted = ", ".join(self._features) or counted(self._width, "column")
            raise InputError(
                f"the header has {', '.join(cells)[:200]}; expected {wanted}; choose columns, such as "
                f"--features {','.join(cells[-self._width :])}"
            )

    def _parse_json(self, line: str) -> list[float]:
        try:
            document: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {str(error)[:80]}") from error
        if isinstance(document, dict):
            if not self._features:
                raise InputError(
                    "got a JSON object, but the model has no feature names; send a list of numbers"
                )
            missing = [name for name in self._features if name not in document]
            if missing:
                raise InputError(f"{', '.join(missing)} missing")
            document = [document[name] for name in self._features]
        if len(document) != self._width:
            raise InputError(f"expected {counted(self._width, 'number')}, got {len(document)}")
        values: list[float] = []
        for value in document:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"expected numbers, got {json.dumps(value)[:40]}")
            values.append(value)
        return values

    def _finite(self, values: list[float]) -> npt.NDArray[Any]:
        try:
            wide = np.array(values, np.float64)
        except OverflowError as error:
            raise InputError("a number is too large for a float") from error
        return _finite(wide, self._dtype)


class FrameParser:
    """Read samples from raw numbers: each sample is ``width`` consecutive numbers."""

    def __init__(self, width: int, kind: str, dtype: str = "float32") -> None:
        """Expect ``width`` numbers of ``kind`` in native byte order; return arrays of ``dtype``."""
        self._width, self._kind, self._dtype = width, np.dtype(kind), np.dtype(dtype)

    def parse_bytes(self, frame: bytes) -> npt.NDArray[Any]:
        """Return the sample ``(I,)`` of a frame.

        Raises:
            InputError: the frame is truncated, or contains numbers that are not finite.
        """
        if len(frame) != self._width * self._kind.itemsize:
            expected = self._width * self._kind.itemsize
            raise InputError(f"expected {expected} bytes, {self._width} of {self._kind}, got {len(frame)}")
        return _finite(np.frombuffer(frame, self._kind).astype(np.float64), self._dtype)


def _finite(wide: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the numbers in the model's dtype; raise InputError for one that is out of its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        sample = wide.astype(dtype)
    wrong = ~np.isfinite(sample) if dtype.kind == "f" else sample != wide
    if wrong.any():
        raise InputError(f"expected finite {dtype} numbers, got {float(wide[int(wrong.argmax())])!r}")
    return sample


def _cells(line: str, width: int) -> list[str]:
    """Split at the first of tab, semicolon, comma and space that occurs outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", line) if '"' in line else line
    delimiter = next((each for each in "\t;," if each in bare), None)
    if '"' not in line:
        return line.split(delimiter) if delimiter or width > 1 else [line]
    try:
        return next(csv.reader([line], delimiter=delimiter or " ", skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"not CSV: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
