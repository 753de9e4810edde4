"""Read tables with one row per time step from ``.csv``."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import FileFormatError, InputError

from .config import ReadConfig
from .recordings import SETS, ModelFeatures, Recording, Recordings, TargetMode, missing_name, usable

__all__ = ["read_csv"]

Array = npt.NDArray[Any]


def read_csv(path: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None) -> Recordings:
    """Read a header and one row per time step; see ``read_recordings``."""
    table = _Table(path)
    columns = _Columns(table, config, targets)
    features = _features(table, columns, config, model)
    if missing := [name for name in config.forecast if name not in features]:
        raise InputError(f"{path}: to forecast {missing[0]!r} it must be among the features")
    x = table.numbers(features)
    y, labels = _targets(table, columns.label, columns.values)
    found = []
    for name, rows in _series(table, columns).items():
        group = table.constant(columns.group, rows, name) if columns.group else name
        split = table.constant(columns.split, rows, name) if columns.split else ""
        if split and split not in SETS:
            raise InputError(f"{path}: split of series {name!r} is {split!r}, expected {', '.join(SETS)}")
        steps, ends = rows, rows
        if config.forecast:
            if len(rows) < 2:
                raise InputError(f"{path}: series {name!r} has one row; a forecast needs the next one too")
            steps, ends = rows[:-1], rows[1:]
        found.append(Recording(name, group, x[steps], None if y is None else y[ends], split))
    return Recordings(tuple(found), labels, columns.values, tuple(features))


class _Columns:
    """Which column has which meaning; whatever the options name must be there."""

    def __init__(self, table: "_Table", config: ReadConfig, targets: TargetMode) -> None:
        header = table.header
        task = (*config.targets, *config.forecast)
        label = config.label or ("label" if "label" in header and not task else None)
        for name in (config.series, config.order, config.group, label, *task, *config.features):
            if name and name not in header:
                raise missing_name(table.path, "column", name, header)
        if targets == "required" and not label and not task:
            advice = (
                "name the column with the class by --label, or those with values by --target or --forecast"
            )
            raise missing_name(table.path, "column", "label", header, advice)
        self.series = config.series or ("series" if "series" in header else None)
        self.order = config.order or ("order" if "order" in header else None)
        self.group = config.group
        self.split = "split" if "split" in header else None
        self.label = label if targets != "ignored" else None
        self.values = task if targets != "ignored" else ()
        self.other = {self.series, self.order, self.group, self.split, label, *config.targets}
        """Columns that are no features unless they are named as such."""


def _features(
    table: "_Table", columns: _Columns, config: ReadConfig, model: ModelFeatures | None
) -> Sequence[str]:
    rest = [name for name in table.header if name not in columns.other]
    names = config.features or (model.names if model else ()) or rest
    if missing := [name for name in names if name not in table.header]:
        raise missing_name(
            table.path,
            "column",
            missing[0],
            table.header,
            f"the model's features are {', '.join(names)}; name other columns by --features",
        )
    if not names:
        raise InputError(f"{table.path} has no feature column (it has {', '.join(table.header)})")
    if model and len(names) != model.width:
        raise InputError(
            f"{table.path}: got {len(names)} features ({', '.join(names)}), expected {model.width}; name "
            "them in the model's order by --features"
        )
    return names


def _targets(
    table: "_Table", label: str | None, values: Sequence[str]
) -> tuple[Array | None, tuple[str, ...]]:
    if label is None:
        return (table.numbers(values).astype(np.float32) if values else None), ()
    cells = table.texts(label)
    classes = sorted(set(cells))
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[cell] for cell in cells], dtype=np.int64), tuple(classes)


def _series(table: "_Table", columns: _Columns) -> dict[str, npt.NDArray[np.int64]]:
    """Return row numbers by series, each in its order."""
    names = table.texts(columns.series) if columns.series else ["0"] * len(table.rows)
    gathered: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        gathered.setdefault(name, []).append(row)
    series = {name: np.array(rows) for name, rows in gathered.items()}
    if columns.order is None:
        return series
    order = table.numbers([columns.order])[:, 0]
    for name, rows in series.items():
        series[name] = rows[np.argsort(order[rows], kind="stable")]
        steps = order[series[name]]
        if (same := np.flatnonzero(np.diff(steps) == 0)).size:
            raise InputError(
                f"{table.path}: series {name!r} has {columns.order} {steps[same[0]]:g} twice "
                f"(row {table.line(int(series[name][same[0] + 1]))}); expected a different value in each row"
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
            raise InputError(f"{path} is empty; expected a header and one row per time step")
        if repeated := {name for name in self.header if self.header.count(name) > 1}:
            raise InputError(f"{path} has the column {sorted(repeated)[0]!r} twice; rename one")

    def line(self, row: int) -> int:
        """Return the line of the file that a row ends on."""
        return self._lines[row]

    def texts(self, name: str) -> list[str]:
        """Return a column's cells; raises InputError for an empty one."""
        column = self.header.index(name)
        cells = [row[column].strip() for row in self.rows]
        if "" in cells:
            raise InputError(f"{self.path} row {self.line(cells.index(''))}, column {name!r} is empty")
        return cells

    def constant(self, name: str, rows: Array, series: str) -> str:
        """Return the one value that a column has in these rows; raises InputError where it has several."""
        column = self.header.index(name)
        cells = list(dict.fromkeys(self.rows[row][column].strip() for row in rows))
        if len(cells) > 1:
            raise InputError(
                f"{self.path}: {name} of series {series!r} is both {cells[0]!r} and {cells[1]!r}; expected "
                "one value for each series"
            )
        return str(cells[0])

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return columns as ``(rows, columns)``; raises InputError for a cell that is no finite number."""
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
