"""Samples from standard input, one per line, read unbuffered until a signal asks to stop."""

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError, counted

_LONGEST = 1 << 20
"""Maximum number of bytes of a line, so that memory stays bounded."""
T = TypeVar("T")


class Stop:
    """A request to stop, made by SIGINT or SIGTERM. It ends a wait, but never a step."""

    def __init__(self) -> None:
        self.given = self._waiting = False
        for number in (signal.SIGINT, signal.SIGTERM):  # ``cli.run`` restores the handlers
            signal.signal(number, self.give)

    def give(self, *_: object) -> None:
        """Request to stop; a signal handler."""
        self.given = True
        if self._waiting:
            raise KeyboardInterrupt

    def wait(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call that waits; raises KeyboardInterrupt after a request to stop."""
        self._waiting = True
        try:
            if self.given:
                raise KeyboardInterrupt
            return call(*arguments)
        finally:
            self._waiting = False


def read_lines(stop: Stop) -> Iterator[bytes]:
    """Yield the lines of standard input as they arrive, until its end or a request to stop.

    Raises:
        InputError: the input can't be read, or a line is longer than 1 MiB.
    """
    rest = b""
    try:
        while chunk := stop.wait(os.read, 0, 1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
                if stop.given:
                    return
            if len(rest) > _LONGEST:
                raise InputError("a line is longer than 1 MiB; expected one sample per line")
        if rest:
            yield rest
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise InputError(f"standard input can't be read: {error.strerror}") from error


class LineParser:
    """Reads samples from lines of CSV or JSON, which may be mixed.

    A line is ``0.1,0.2`` (or with tabs, semicolons or spaces), ``[0.1, 0.2]``, or ``{"ax": 0.1, "ay": 0.2}``.
    A first line without numbers is a header; if it contains the names, columns are selected by them.
    """

    def __init__(
        self, width: int, names: Sequence[str] = (), dtype: str = "float32", *, required: bool = False
    ) -> None:
        """Expect ``width`` numbers per line, with these names if known; ``required`` ones in a header."""
        self._width, self._names, self._dtype, self._required = width, names, np.dtype(dtype), required
        self._cells, self._columns, self._first = width, range(width), True

    def parse(self, line: bytes) -> npt.NDArray[Any] | None:
        """Return the sample ``(I,)`` of a line; None for a blank line and for the header.

        Raises:
            InputError: the line is malformed, or a number is not finite or out of range of the dtype.
        """
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not text:
            return None
        first, self._first = self._first, False
        if text[0] in "[{":
            return self._to_sample(self._read_json(text))
        cells = self._split(text)
        if first and all(_to_float(cell) is None for cell in cells):
            self._read_header(cells)
            return None
        if len(cells) != self._cells:
            raise InputError(f"expected {counted(self._cells, 'number')}, got {len(cells)}")
        return self._to_sample([cells[column] for column in self._columns])

    def _split(self, text: str) -> list[str]:
        delimiter = next((mark for mark in "\t;," if mark in text), None)
        if delimiter is None:
            return text.split() if self._width > 1 else [text]
        try:
            return [
                cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))
            ]
        except csv.Error as error:
            raise InputError(f"not CSV: {error}") from error

    def _read_header(self, cells: list[str]) -> None:
        if self._names and set(self._names) <= set(cells):
            self._columns, self._cells = [cells.index(name) for name in self._names], len(cells)
        elif self._required or len(cells) != self._width:
            wanted = ", ".join(self._names) or counted(self._width, "column")
            raise InputError(
                f"the header has {', '.join(cells)[:200]}; expected {wanted}; choose columns, such as "
                f"--features {','.join(cells[-self._width :])}"
            )

    def _read_json(self, text: str) -> list[Any]:
        try:
            values: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {str(error)[:80]}") from error
        if isinstance(values, dict):
            missing = [name for name in self._names if name not in values]
            if missing or not self._names:
                raise InputError(
                    f"{', '.join(missing)} missing" if missing else "MODEL has no feature names; send a list"
                )
            values = [values[name] for name in self._names]
        if len(values) != self._width:
            raise InputError(f"expected {counted(self._width, 'number')}, got {len(values)}")
        return list(values)

    def _to_sample(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        numbers = [_to_float(value) for value in values]
        if None in numbers:
            raise InputError(f"expected numbers, got {str(values[numbers.index(None)])[:40]!r}")
        wide = np.array(numbers, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sample = wide.astype(self._dtype)
        wrong = ~np.isfinite(sample) if self._dtype.kind == "f" else sample != wide
        if wrong.any():
            raise InputError(
                f"expected finite {self._dtype} numbers, got {float(wide[int(wrong.argmax())])!r}"
            )
        return sample


def _to_float(value: Any) -> float | None:
    """Return a number, or the number in a text; None if there is none."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
