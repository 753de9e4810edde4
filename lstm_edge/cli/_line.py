"""One line of text in, one sample out: the protocol of ``lstm-edge stream``."""

import csv
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError

__all__ = ["LineParser"]


class LineParser:
    """Reads samples from CSV or JSON lines, told apart line by line; knows a header when it sees one.

    A line is ``0.1,0.2,0.3``, ``[0.1, 0.2, 0.3]``, or ``{"ax": 0.1, "ay": 0.2, "az": 0.3}``. A first line of
    CSV without a number in it is a header; where it holds the feature names, columns are picked by them.
    """

    def __init__(self, width: int, features: Sequence[str] = (), dtype: str = "float32") -> None:
        """Expect ``width`` numbers a line, named ``features`` where those are known; give ``dtype``."""
        self._dtype = np.dtype(dtype)
        self._width = width
        self._features = tuple(features)
        self._columns: list[int] | None = None
        self._cells = width
        self._first = True

    def parse(self, line: str) -> npt.NDArray[Any] | None:
        """Return the sample ``(I,)`` of a line; None for a blank line and for the header.

        Raises:
            InputError: the line is malformed; says how.
        """
        line = line.strip().removeprefix("\ufeff")
        if not line:
            return None
        first, self._first = self._first, False
        if line[0] in "[{":
            return self._finite(self._parse_json(line))
        cells = [cell.strip() for cell in _cells(line)]
        if first and not any(map(_is_number, cells)):
            self._learn_header(cells)
            return None
        if len(cells) != self._cells:
            raise InputError(f"expected {self._cells} numbers, got {len(cells)}")
        if self._columns is not None:
            cells = [cells[column] for column in self._columns]
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            bad = next(cell for cell in cells if not _is_number(cell))
            raise InputError(f"expected numbers, got {bad[:40]!r}") from error
        return self._finite(values)

    def _learn_header(self, cells: list[str]) -> None:
        if self._features and set(self._features) <= set(cells):
            self._columns = [cells.index(name) for name in self._features]
            self._cells = len(cells)
        elif len(cells) != self._width:
            wanted = ", ".join(self._features) or f"{self._width} columns"
            raise InputError(f"the header has {', '.join(cells)[:200]}; expected {wanted}")

    def _parse_json(self, line: str) -> list[float]:
        try:
            document: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {str(error)[:80]}") from error
        if isinstance(document, dict):
            if not self._features:
                raise InputError("a JSON object came, but the file names no features; send a list of numbers")
            missing = [name for name in self._features if name not in document]
            if missing:
                raise InputError(f"{', '.join(missing)} missing")
            document = [document[name] for name in self._features]
        if len(document) != self._width:
            raise InputError(f"expected {self._width} numbers, got {len(document)}")
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
        with np.errstate(over="ignore", invalid="ignore"):
            sample = wide.astype(self._dtype)
        wrong = ~np.isfinite(sample) if self._dtype.kind == "f" else sample != wide
        if wrong.any():
            raise InputError(f"expected finite {self._dtype} numbers, got {values[int(wrong.argmax())]!r}")
        return sample


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"not CSV: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
