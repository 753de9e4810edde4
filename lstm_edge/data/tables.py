"""Read tables with one row per time step from ``.csv`` and ``.parquet``."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    counted,
    first_line,
    install_command,
)
from lstm_edge_runtime.manifest import Array

from .config import ReadConfig
from .mend import mend_missing, mend_rate
from .recordings import SETS, ModelFeatures, Recording, Recordings, TargetMode, missing_name, usable

_GAPS = {"", "nan", "na", "null", "none"}
"""Cells that are missing, in lower case."""
_MENDS = "; --missing interpolate or drop-row fills or drops gaps"


def read_csv(path: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None) -> Recordings:
    """Read a header and one row per time step; see ``read_recordings``."""
    return _read_table(_parse_csv(path), config, targets, model)


def read_parquet(
    path: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None
) -> Recordings:
    """Read a table with one row per time step; see ``read_recordings``.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading Parquet needs pyarrow; {install_command('parquet')}"
        ) from error
    try:
        found = parquet.read_table(path)
        columns = {
            name.strip(): _from_arrow(column)
            for name, column in zip(found.column_names, found.columns, strict=True)
        }
    except (ArrowException, ArithmeticError, ImportError, OSError, ValueError) as error:
        raise FileFormatError(f"{path} can't be read as Parquet ({first_line(error)})") from error
    table = _Table(path, columns, range(1, len(found) + 1))
    return _read_table(table, config, targets, model)


def _from_arrow(column: Any) -> Array:
    """Return numbers as floats, NaN if missing; anything else as text, empty if missing."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        numbers: Array = column.cast(pa.float64(), safe=False).to_numpy()
        return numbers
    if pa.types.is_timestamp(kind):  # Python's datetimes have no nanoseconds
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    cells = column.to_pylist()
    if pa.types.is_timestamp(kind):
        cells = [None if cell is None else cell.isoformat() for cell in cells]
    return np.array(["" if cell is None else str(cell).strip() for cell in cells], dtype=object)


def _read_table(
    table: "_Table", config: ReadConfig, targets: TargetMode, model: ModelFeatures | None
) -> Recordings:
    path = table.path
    columns = _Columns(table, config, targets)
    features = _features(table, columns, config, model)
    if missing := [name for name in config.forecast if name not in features]:
        raise InputError(f"{path}: to forecast {missing[0]!r} it must be a feature")
    if not config.features:
        table.refuse_text(features)
    x = table.numbers(features, gaps=config.missing != "error", advice=_MENDS)
    y, labels = _targets(table, columns.label, () if config.forecast else columns.values)
    order, timed = table.places(columns.order) if columns.order else (None, False)
    rows_of = _series(table, columns, order)
    found = tuple(_recording(table, columns, name, rows, x, y) for name, rows in rows_of.items())
    recordings = Recordings(found, labels, columns.values, tuple(features), config.sampling_rate)
    if config.missing != "error":
        recordings = mend_missing(path, recordings, config.missing)
    if timed and order is not None:
        times = [order[rows] for rows in rows_of.values()]
        if config.missing == "drop-row":
            times = [each[~np.isnan(one.x).any(axis=1)] for one, each in zip(found, times, strict=True)]
        recordings = mend_rate(recordings, times, config)
    if config.forecast:
        places = [features.index(name) for name in columns.values]
        series = tuple(_with_next(path, one, places) for one in recordings.series)
        recordings = replace(recordings, series=series)
    return recordings


def _recording(
    table: "_Table", columns: "_Columns", name: str, rows: Array, x: Array, y: Array | None
) -> Recording:
    """Return one series, whose group and split are the same in all of its rows."""
    group = table.constant(columns.group, rows, name) if columns.group else name
    split = table.constant(columns.split, rows, name) if columns.split else ""
    if split and split not in SETS:
        raise InputError(f"{table.path}: split of series {name!r} is {split!r}, expected {', '.join(SETS)}")
    return Recording(name, group, x[rows], None if y is None else y[rows], split)


def _with_next(path: Path, one: Recording, places: list[int]) -> Recording:
    """Return a series whose values are some features of the next step; none without indices."""
    if len(one.x) < 2:
        raise InputError(f"{path}: series {one.name!r} has one row; a forecast needs at least two")
    return replace(one, x=one.x[:-1], y=one.x[1:, places].astype(np.float32) if places else None)


class _Columns:
    """Meaning of each column; columns named by options must exist."""

    def __init__(self, table: "_Table", config: ReadConfig, targets: TargetMode) -> None:
        header = table.header
        task = (*config.targets, *config.forecast)
        label = config.label or ("label" if "label" in header and not task else None)
        for name in (config.series, config.order, config.group, label, *task, *config.features):
            if name and name not in header:
                raise missing_name(table.path, "column", name, header)
        if targets == "required" and not label and not task:
            advice = "name the class column with --label, or the value columns with --target or --forecast"
            raise missing_name(table.path, "column", "label", header, advice)
        self.series = config.series or ("series" if "series" in header else None)
        self.order = config.order or ("order" if "order" in header else None)
        self.group = config.group
        self.split = "split" if "split" in header else None
        self.label = label if targets != "ignored" else None
        self.values = task if targets != "ignored" else ()
        self.other = {self.series, self.order, self.group, self.split, label, *config.targets}
        """Columns that are only features if they are named as such."""


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
            f"the model's features are {', '.join(names)}; name other columns with --features",
        )
    if not names:
        raise InputError(f"{table.path} has no feature column (it has {', '.join(table.header)})")
    if model and len(names) != model.width:
        raise InputError(
            f"{table.path}: got {counted(len(names), 'feature')} ({', '.join(names)}), expected "
            f"{model.width}; name them in the model's order with --features"
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


def _series(table: "_Table", columns: _Columns, order: Array | None) -> dict[str, npt.NDArray[np.int64]]:
    """Return row numbers by series, each in its order."""
    names = table.texts(columns.series) if columns.series else ["0"] * len(table)
    gathered: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        gathered.setdefault(name, []).append(row)
    series = {name: np.array(rows) for name, rows in gathered.items()}
    if order is None:
        return series
    for name, rows in series.items():
        series[name] = rows[np.argsort(order[rows], kind="stable")]
        steps = order[series[name]]
        if (same := np.flatnonzero(np.diff(steps) == 0)).size:
            row = int(series[name][same[0] + 1])
            raise InputError(
                f"{table.path}: series {name!r} has {columns.order} "
                f"{table.cell(str(columns.order), row)} twice (row {table.line(row)}); expected a different "
                "value in each row"
            )
    return series


def _parse_csv(path: Path) -> "_Table":
    rows, lines = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
                    if len(row) != len(header):
                        raise InputError(
                            f"{path} row {reader.line_num} has {counted(len(row), 'column')}, expected the "
                            f"header's {len(header)}"
                        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{path} is not UTF-8 CSV text ({error})") from error
    if not rows:
        raise InputError(f"{path} is empty; expected a header and one row per time step")
    if _is_data(header):
        first = ", ".join(header[:3]) + (", ..." if len(header) > 3 else "")
        raise InputError(f"{path} has no header: row 1 is {first}; add a row with the names of the columns")
    if repeated := {name for name in header if header.count(name) > 1}:
        raise InputError(f"{path} has the column {sorted(repeated)[0]!r} twice; rename one")
    cells = np.array([[cell.strip() for cell in row] for row in rows], dtype=object)
    return _Table(path, dict(zip(header, cells.T, strict=True)), lines, decimal_comma=separator != ",")


def _is_data(header: Sequence[str]) -> bool:
    """Return whether a first row has numbers that are not names, as a data frame's 0, 1, 2 are."""
    numbers = [cell for cell in header if np.isfinite(_number(cell.replace(",", ".")))]
    names = numbers == [str(place) for place in range(len(numbers))]
    return not names and (len(numbers) == len(header) or not all(map(str.isdecimal, numbers)))


def _separator(line: str) -> str:
    """Return the separator of a header: a semicolon or tab if that makes more cells."""
    return max(",;\t", key=lambda each: len(next(csv.reader([line], delimiter=each), [])))


class _Table:
    """Columns of cells, as text or as numbers."""

    def __init__(
        self, path: Path, columns: dict[str, Array], lines: Sequence[int], *, decimal_comma: bool = False
    ) -> None:
        """Take columns of text without space around or float64, and the number of each row for messages.

        Args:
            path: for messages.
            columns: by name.
            lines: the number of each row in the file.
            decimal_comma: whether ``1,5`` is a number.
        """
        self.path = path
        self._decimal_comma = decimal_comma
        self.header = list(columns)
        self._columns = columns
        self._lines = lines
        if not lines:
            raise InputError(f"{path} is empty; expected one row per time step")

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, row: int) -> int:
        """Return the number of a row in the file; the line that it ends on."""
        return self._lines[row]

    def cell(self, name: str, row: int) -> str:
        """Return one cell as text."""
        cell = self._columns[name][row]
        return f"{cell:g}" if isinstance(cell, float) else str(cell)

    def texts(self, name: str) -> list[str]:
        """Return a column's cells; raises InputError for an empty one."""
        cells = [self.cell(name, row) for row in range(len(self))]
        if "" in cells:
            raise InputError(f"{self.path} row {self.line(cells.index(''))}, column {name!r} is empty")
        return cells

    def constant(self, name: str, rows: Array, series: str) -> str:
        """Return the only value of a column in these rows; raises InputError if it has several."""
        cells = list(dict.fromkeys(self.cell(name, row) for row in rows))
        if len(cells) > 1:
            raise InputError(
                f"{self.path}: {name} of series {series!r} is both {cells[0]!r} and {cells[1]!r}; expected "
                "one value for each series"
            )
        return cells[0]

    def places(self, name: str) -> tuple[npt.NDArray[np.float64], bool]:
        """Return the sort keys of the rows: numbers, or the seconds of ISO timestamps and True.

        Raises:
            InputError: a cell that is neither; the first one decides which of the two is expected.
        """
        first = self._columns[name][0]
        if isinstance(first, float) or not np.isnan(self._number(first)) or first.lower() in _GAPS:
            return self.numbers([name])[:, 0], False
        seconds = []
        for row in range(len(self)):
            text = self.cell(name, row)
            if (time := _time(text)) is None:
                raise InputError(
                    f"{self.path} row {self.line(row)}, column {name!r} is {text!r}, expected a number or an "
                    "ISO timestamp such as 2026-11-25T09:30:00.25"
                )
            seconds.append(time if time.tzinfo else time.replace(tzinfo=timezone.utc))
        return np.array([(time - seconds[0]).total_seconds() for time in seconds]), True

    def numbers(
        self, names: Sequence[str], *, gaps: bool = False, advice: str = ""
    ) -> npt.NDArray[np.float64]:
        """Return columns as ``(rows, columns)``.

        Args:
            names: of the columns.
            gaps: return NaN for a missing cell.
            advice: advice for a missing cell.

        Raises:
            InputError: a cell that is not a finite number.
        """
        return np.stack([self._numbers(name, gaps, advice) for name in names], axis=1)

    def refuse_text(self, names: Sequence[str]) -> None:
        """Raise ``InputError``, with advice, if one of some columns has no numbers."""
        text = [name for name in names if self._columns[name].dtype == object and self._is_text(name)]
        if text:
            cell, others = self.cell(text[0], 0), [name for name in names if name not in text]
            what = "times" if _time(cell) else "text"
            order = f"sort by it with --order {text[0]}, or " if what == "times" else ""
            features = f" --features {','.join(others)}" if others else " with numbers"
            raise InputError(
                f"{self.path}: column {text[0]!r} contains {what}, such as {cell!r}, and a feature is a "
                f"number; {order}name the features:{features}"
            )

    def _is_text(self, name: str) -> bool:
        given = (cell for cell in self._columns[name] if cell.lower() not in _GAPS)
        text = (np.isnan(self._number(cell)) and "," not in cell for cell in given)
        return next(text, False) and all(text)

    def _number(self, cell: str) -> float:
        return _number(cell.replace(",", ".") if self._decimal_comma else cell)

    def _numbers(self, name: str, gaps: bool, advice: str) -> npt.NDArray[np.float64]:
        cells = self._columns[name]
        values: npt.NDArray[np.float64] = cells
        if cells.dtype == object:
            values = np.array([self._number(cell) for cell in cells])
        wrong = ~usable(values)
        if gaps:
            wrong &= np.array([str(cell).lower() not in _GAPS for cell in cells])
        if (places := np.flatnonzero(wrong)).size:
            first = int(places[0])
            cell = self.cell(name, first)
            if "," in cell and not np.isnan(_number(cell.replace(",", "."))):
                advice = "; write a decimal point, or separate columns by semicolons"
            elif cell.lower() not in _GAPS:
                advice = ""
            raise InputError(
                f"{self.path} row {self.line(first)}, column {name!r} is {cell!r}, expected a finite "
                f"number{advice}"
            )
        return values


def _time(text: str) -> datetime | None:
    """Return an ISO timestamp; None if it is none."""
    try:
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return None


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
