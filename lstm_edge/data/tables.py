"""Reading training data from long-form ``.csv``: a row a time step."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import FileFormatError, InputError

from ..training.config import DataConfig
from .recordings import Recording, Recordings, usable

__all__ = ["read_csv"]

Array = npt.NDArray[Any]


def read_csv(path: Path, config: DataConfig) -> Recordings:
    """Read a row a time step: a series id, an order, features, and a label or values.

    Raises:
        FileFormatError: not CSV text.
        InputError: a column is missing, a row is ragged, or a cell is no finite number; the message names
            the row (the header is row 1) and the column.
    """
    table = _Table(path)
    label = config.label or ("label" if not (config.targets or config.forecast) else None)
    named = [name for name in (label, *config.targets, *config.forecast, *config.features) if name]
    table.require(named)
    apart = {name for name in (config.series, config.order, label, *config.targets) if name}
    features = config.features or tuple(name for name in table.header if name not in apart)
    if not features:
        raise InputError(f"{path} has no feature column (it has {', '.join(table.header)})")
    if missing := [name for name in config.forecast if name not in features]:
        raise InputError(f"{path}: to forecast {missing[0]!r} it must be among the features")
    x = table.numbers(features).astype(np.float32)
    y, labels = _targets(table, label, config)
    found = []
    for name, rows in _series(table, config).items():
        if config.forecast:
            if len(rows) < 2:
                raise InputError(f"{path}: series {name!r} has one row; a forecast needs the next one too")
            found.append(Recording(name, name, x[rows[:-1]], y[rows[1:]]))
        else:
            found.append(Recording(name, name, x[rows], y[rows]))
    return Recordings(tuple(found), labels, config.targets or config.forecast, features, config.sampling_rate)


def _targets(table: "_Table", label: str | None, config: DataConfig) -> tuple[Array, tuple[str, ...]]:
    if label is None:
        return table.numbers(config.targets or config.forecast).astype(np.float32), ()
    cells = table.texts(label)
    classes = sorted(set(cells))
    if len(classes) < 2:
        raise InputError(
            f"{table.path}: column {label!r} holds one class only, {classes[0]!r}; expected two or more"
        )
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[cell] for cell in cells], dtype=np.int64), tuple(classes)


def _series(table: "_Table", config: DataConfig) -> dict[str, npt.NDArray[np.int64]]:
    """Row numbers by series, each in its order."""
    names = table.texts(config.series) if config.series in table.header else ["all"] * len(table.rows)
    gathered: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        gathered.setdefault(name, []).append(row)
    series = {name: np.array(rows) for name, rows in gathered.items()}
    if config.order not in table.header:
        return series
    order = table.numbers([config.order])[:, 0]
    for name, rows in series.items():
        series[name] = rows[np.argsort(order[rows], kind="stable")]
        steps = order[series[name]]
        if (same := np.flatnonzero(np.diff(steps) == 0)).size:
            raise InputError(
                f"{table.path}: series {name!r} has {config.order} {steps[same[0]]:g} twice "
                f"(row {table.line(int(series[name][same[0] + 1]))}); give every row a place of its own"
            )
    return series


class _Table:
    """The cells of a CSV file, all rows of the header's width."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[str]] = []
        self._lines: list[int] = []
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, strict=True)
                self.header = [name.strip() for name in next(reader, [])]
                for row in reader:
                    if row:
                        self.rows.append(row)
                        self._lines.append(reader.line_num)
                        if len(row) != len(self.header):
                            raise InputError(
                                f"{path} row {reader.line_num} has {len(row)} columns, "
                                f"expected the header's {len(self.header)}"
                            )
        except (UnicodeDecodeError, csv.Error) as error:
            raise FileFormatError(f"{path} is not CSV text in UTF-8 ({error})") from error
        if not self.rows:
            raise InputError(f"{path} is empty; expected a header and a row a time step")
        if doubled := {name for name in self.header if self.header.count(name) > 1}:
            raise InputError(f"{path} has the column {sorted(doubled)[0]!r} twice; rename one")

    def line(self, row: int) -> int:
        """The line of the file that a row ends on."""
        return self._lines[row]

    def require(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.header:
                raise InputError(f"{self.path} has no column {name!r} (it has {', '.join(self.header)})")

    def texts(self, name: str) -> list[str]:
        column = self.header.index(name)
        cells = [row[column].strip() for row in self.rows]
        if "" in cells:
            raise InputError(f"{self.path} row {self.line(cells.index(''))}, column {name!r} is empty")
        return cells

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.stack([self._numbers(name) for name in names], axis=1)

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        column = self.header.index(name)
        values = np.array([_number(row[column]) for row in self.rows])
        wrong = np.flatnonzero(~usable(values))
        if wrong.size:
            first = int(wrong[0])
            raise InputError(
                f"{self.path} row {self.line(first)}, column {name!r} is {self.rows[first][column]!r}, "
                "expected a finite number"
            )
        return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
