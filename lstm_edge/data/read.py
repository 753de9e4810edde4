"""Read data files: a table, a folder of tables, arrays (``.npz``, ``.npy``), or several
of these as sets.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.manifest import Array, Signal, Task

from ..run_files import is_run
from .config import DATA_SUFFIXES, TABLE_SUFFIXES, ReadConfig, suffix_of
from .series import SETS, Data, Series
from .tables import Table, read_table

TargetMode = Literal["required", "optional", "ignored"]
"""Classes or values must be in the file, are read if present, or are not read."""
_DATA_FILES = "a .npz, .npy, .csv, .parquet or .wav file, or a folder of tables"
_JITTER = 0.1
"""Largest relative difference between two intervals of samples that is not
reported."""
_GAP = 1.5
"""Longest interval that counts for the sampling rate, relative to the usual one."""
_LONGEST_GAP = 10
"""Largest number of samples that may lack where a series is resampled."""
_RATE_TOLERANCE = 0.01
"""Largest relative difference between two sampling rates that count as equal."""
_HOUR = 3600
_MAX_RESAMPLED = 1_000_000
_MAX_STEPS_PER_ROW = 100
"""A series is not resampled to more steps than the first, if these are more than the
second per row: a time in it is wrong."""
_MIN_GROWTH = 10
"""Minimum number of steps from which a column that grows at each of them is refused as
a feature."""


@dataclass(frozen=True)
class _Columns:
    """The columns of a table by their use. They are the same in all files."""

    features: tuple[str, ...]
    """Names of the features, in order."""
    have_names: bool
    """False if the names of the features have no meaning."""
    are_chosen: bool
    """False if the features are all columns that have no other use."""
    label: str | None
    """Column of the class; None for values, or if the folder is the class."""
    values: tuple[str, ...]
    """Names of the values to predict."""
    has_classes: bool
    """True if classes are read, from a column or the folder."""


@dataclass(frozen=True)
class _Targets:
    """The columns with the classes or values of a table, or the folder of the class."""

    label: str | None = None
    """Column of the class."""
    values: tuple[str, ...] = ()
    """Columns of the values."""
    by_folder: bool = False
    """True if the subfolder is the class."""

    @property
    def exist(self) -> bool:
        """True if there are classes or values."""
        return self.by_folder or self.label is not None or bool(self.values)


@dataclass(frozen=True)
class _Rows:
    """The rows of a table, in the order of the file."""

    x: npt.NDArray[np.float64]
    """Features, ``(R, I)``; NaN for a missing value."""
    y: Array
    """Class as text ``(R,)``, or values ``(R, C)``."""
    order: npt.NDArray[np.float64]
    """Position of each row in its series ``(R,)``: seconds, numbers, or row numbers."""
    is_timed: bool
    """True if ``order`` is in seconds."""
    has_order: bool
    """True if ``order`` is a column of the file."""
    texts: Mapping[str, Array]
    """Cells of the columns ``series``, ``group`` and ``split`` that exist, ``(R,)``."""


@dataclass(frozen=True)
class _SeriesRows:
    """The rows of one series in a table."""

    table: Table
    """The table."""
    rows: _Rows
    """All rows of it."""
    key: str
    """Name of the series in the table."""
    indices: Array
    """Index of each row, sorted by its position in the series."""

    @property
    def order(self) -> npt.NDArray[np.float64]:
        """Position of each row in the series."""
        return self.rows.order[self.indices]

    def check_order(self, column: str) -> None:
        """Raise InputError if two rows have one position."""
        same = np.flatnonzero(np.diff(self.order) == 0)
        if same.size:
            second = self.indices[same[0] + 1]
            where = self.table.cell(int(second), column)
            raise InputError(f"{where} twice in series {self.key!r}")

    def only_value(self, column: str) -> str:
        """Return the only value of a column; empty without that column."""
        if column not in self.rows.texts:
            return ""
        cells = self.rows.texts[column][self.indices]
        values = list(dict.fromkeys(cells))
        if len(values) > 1:
            raise InputError(
                f"{self.table.path}: {column} of series {self.key!r} is both"
                f" {values[0]!r} and {values[1]!r}"
            )
        return str(values[0])

    def series(self, name: str, split: str) -> Series:
        """Return the series, of a table ``name`` in the set ``split``."""
        full_name = self.key
        if name not in ("", self.key):
            full_name = f"{name}: {self.key}"
        suffix = f" ({split})" if split else ""
        group = self.only_value("group")
        if not group:
            # one device's files in a folder have one series id
            group = (self.key if "series" in self.rows.texts else full_name) + suffix
        given_split = self.only_value("split")
        if given_split and (split or given_split not in SETS):
            expected = ", ".join(SETS)
            if split:
                expected = "no split next to --validation-data or --test-data"
            raise InputError(
                f"{self.table.path}: split of series {self.key!r} is {given_split!r},"
                f" expected {expected}"
            )
        return Series(
            name=full_name + suffix,
            group=group,
            split=split or given_split,
            x=self.rows.x[self.indices],
            y=self.rows.y[self.indices],
        )


def read_data(
    path: Path,
    config: ReadConfig | None = None,
    *,
    targets: TargetMode = "required",
    features: Sequence[str] = (),
    sets: Mapping[str, Path] | None = None,
) -> Data:
    """Read a data file in the format that its name ends in, or every table in a folder
    and its subfolders.

    Each table of a folder is one series, or several if it has a column for them; their
    class is in a column, or is the subfolder. The ``features`` of a model are selected
    if the file names its columns. ``sets`` are files with the validation and the test
    set; ``path`` is then the training set.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read in the format of its suffix.
        InputError: its content does not fit; the message names the row and column, or
            the array.
    """
    reader = _Reader(config or ReadConfig(), targets, tuple(features))
    sources = {"": path}
    if sets:
        sources = {"train": path, **sets}
    for split, source in sources.items():
        for file in _files(source):
            name = file.relative_to(source).as_posix() if source.is_dir() else ""
            reader.add(read_table(file, reader.config.encoding), name, split)
    return reader.data(path)


def _files(path: Path) -> list[Path]:
    """Return the file itself, or every table in a folder and its subfolders, sorted."""
    if not path.exists():
        raise NotFoundError(f"{path} does not exist; expected {_DATA_FILES}")
    if is_run(path):
        raise InputError(
            f"{path} is a trained run, not data; run lstm-edge export {path} -o"
            " model.onnx"
        )
    files = [path]
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if suffix_of(file) in TABLE_SUFFIXES and not _is_hidden(file, path)
        )
    if not files:
        raise InputError(
            f"{path} contains no .csv, .parquet or .wav files; expected one per"
            " recording"
        )
    for file in files:
        if not file.is_file() or suffix_of(file) not in DATA_SUFFIXES:
            raise InputError(f"{file} is not a data file; expected {_DATA_FILES}")
    return files


def _is_hidden(file: Path, root: Path) -> bool:
    """Return True if a name below a folder begins with a dot, as those of copies do."""
    return any(name.startswith(".") for name in file.relative_to(root).parts)


@dataclass
class _Reader:
    """Series of several files, whose classes are still text."""

    config: ReadConfig
    """How to read the files."""
    targets: TargetMode
    """Classes or values."""
    model_features: tuple[str, ...]
    """Names of the features of a model; empty without a model."""
    first: Table | None = None
    """The first table that was read."""
    columns: _Columns | None = None
    """The columns of all tables."""
    grows: npt.NDArray[np.bool_] | None = None
    """True for each feature that grew at every step of every series, ``(I,)``."""
    series: list[Series] = field(default_factory=list)
    """Series read so far."""
    rates: dict[str, float] = field(default_factory=dict)
    """Sampling rate of each series that has times, in Hertz."""
    steps: dict[str, float] = field(default_factory=dict)
    """Usual difference of the order of each series whose order is numbers."""
    counts: Counter[str] = field(default_factory=Counter)
    """Numbers of feature values, gaps, steps, intervals, and intervals that differ."""

    def add(self, table: Table, name: str, split: str) -> None:
        """Add the series of a table; ``name`` is its path in a folder, whose subfolder
        may be the class.
        """
        folder = name.rpartition("/")[0]
        columns = self._find_columns(table, has_folder=bool(folder))
        if self.first is None or self.columns is None:
            self.first = table
            self.columns = columns
        _check_same_kind(table, columns, first=self.first, expected=self.columns)
        rows = self._read_rows(table, columns, folder)
        keys = np.full(len(rows.x), name or "0", dtype=object)
        if "series" in rows.texts:
            keys = rows.texts["series"]
        groups = pd.Series(np.arange(len(rows.x))).groupby(keys, sort=False)
        for key, members in groups:
            indices = members.to_numpy()
            by_order = np.argsort(rows.order[indices], kind="stable")
            series_rows = _SeriesRows(table, rows, str(key), indices=indices[by_order])
            series_rows.check_order(self.config.order)
            record = series_rows.series(name, split)
            self.series.append(self._finish(series_rows, record))

    def _find_columns(self, table: Table, *, has_folder: bool) -> _Columns:
        """Return the columns of a table by what the options name, or else by their
        usual names.
        """
        targets = self._find_targets(table, has_folder=has_folder)
        features = self._find_features(table, targets)
        table.require(
            features,
            f"the model's features are {', '.join(features)}; name other columns with"
            " --features",
        )
        for name in self.config.forecast:
            if name not in features:
                raise InputError(
                    f"{table.path}: to forecast {name!r} it must be a feature"
                )
        if not features:
            raise InputError(
                f"{table.path} has no feature column (it has {', '.join(table.frame)})"
            )
        is_read = self.targets != "ignored"
        has_classes = targets.by_folder or targets.label is not None
        return _Columns(
            features=features,
            have_names=table.named or bool(self.config.features),
            are_chosen=bool(self._chosen_features(table)),
            label=targets.label,
            values=targets.values if is_read else (),
            has_classes=is_read and has_classes,
        )

    def _find_targets(self, table: Table, *, has_folder: bool) -> _Targets:
        """Return the columns of classes or values; raises InputError if required ones
        are missing.
        """
        config = self.config
        targets = _Targets(config.label, (*config.targets, *config.forecast))
        if not targets.exist and self.targets != "ignored":
            targets = _usual_targets(table)
        if not targets.exist and has_folder:
            targets = _Targets(by_folder=True)
        table.require([targets.label, *targets.values, *config.features])
        if self.targets == "required" and not targets.exist:
            expected = "y" if table.features else "label"
            table.require(
                [expected],
                "name the class column with --label, or the value columns with --target"
                " or --forecast",
            )
        return targets

    def _chosen_features(self, table: Table) -> tuple[str, ...]:
        """Return the features that the options, the model or the file name."""
        model_features = self.model_features if table.named else ()
        return self.config.features or model_features or table.features

    def _find_features(self, table: Table, targets: _Targets) -> tuple[str, ...]:
        """Return the features: the chosen ones, or all columns that have no other
        use.
        """
        if chosen := self._chosen_features(table):
            return chosen
        used = {*_special_columns(table, self.config).values(), "split"}
        used.update(name for name in targets.values if name not in self.config.forecast)
        if targets.label:
            used.add(targets.label)
        elif "label" not in self.config.forecast:
            used.add("label")
        return tuple(name for name in table.frame if name not in used)

    def _read_rows(self, table: Table, columns: _Columns, folder: str) -> _Rows:
        """Return the values of the columns."""
        config = self.config
        x = table.numbers(
            columns.features,
            gaps=config.missing != "error",
            advice="; --missing interpolate fills gaps",
        )
        special = _special_columns(table, config)
        order = np.arange(len(x), dtype=np.float64)
        is_timed = False
        if "order" in special:
            order, is_timed = table.order(special["order"])
        elif table.rate:
            order = order / table.rate
            is_timed = True
        texts = {}
        for key, column in special.items():
            if key != "order":
                texts[key] = table.texts(column)
        y = _read_targets(table, columns, folder=folder, config=config)
        return _Rows(
            x=x,
            y=y,
            order=order,
            is_timed=is_timed,
            has_order="order" in special,
            texts=texts,
        )

    def _finish(self, series_rows: _SeriesRows, record: Series) -> Series:
        """Return a series without gaps, at the requested rate, with the next values of
        a forecast.
        """
        assert self.columns is not None
        path = series_rows.table.path
        order = series_rows.order
        x = self._fill_gaps(path, record, order)
        self._count_growth(x)
        y = record.y
        if series_rows.rows.has_order and len(order) > 1:
            self._check_steps(path, record.name, series_rows)
        if series_rows.rows.is_timed and len(order) > 1:
            target_rate = self._measure_rate(record.name, order)
            if target_rate:
                _check_duration(path, record, times=order, rate=target_rate)
                x, y = resample(x, y, times=order, rate=target_rate)
        if self.config.forecast and self.columns.values:
            if len(x) < 2:
                raise InputError(
                    f"{path}: series {record.name!r} has one row; a forecast needs at"
                    " least two"
                )
            features = self.columns.features
            predicted = [features.index(name) for name in self.config.forecast]
            y = x[1:, predicted]
            x = x[:-1]
        if self.columns.values:
            y = y.astype(np.float32)
        return replace(record, x=x.astype(np.float32), y=y)

    def _fill_gaps(
        self, path: Path, record: Series, order: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return the features, missing values interpolated linearly between the nearest
        positions.
        """
        x: npt.NDArray[np.float64] = record.x.copy()
        gaps = np.isnan(x)
        self.counts.update(gaps=int(gaps.sum()), cells=x.size)
        for column in np.flatnonzero(gaps.any(axis=0)):
            known = ~gaps[:, column]
            if not known.any():
                raise InputError(
                    f"{path}: series {record.name!r} has a feature with only missing"
                    " values"
                )
            x[:, column] = np.interp(order, order[known], x[known, column])
        return x

    def _check_steps(self, path: Path, name: str, series_rows: _SeriesRows) -> None:
        """Raise InputError for numbers that must be times, and for local times of the
        hour in which summer time ends.
        """
        if series_rows.rows.is_timed:
            steps = np.diff(series_rows.rows.order[np.sort(series_rows.indices)])
            back = steps[steps < 0]
            if len(back) == 1 and back[0] >= -_HOUR:
                raise InputError(
                    f"{path}: in series {name!r} times go back by {-back[0]:.4g} seconds,"
                    " as local times do when summer time ends; give times with their"
                    " offset, such as Z"
                )
            return
        step = float(np.median(np.diff(series_rows.order)))
        column = self.config.order
        if self.config.sampling_rate and step != 1:
            raise InputError(
                f"{path}: {column!r} holds numbers in steps of {step:.4g}, whose unit is"
                " unknown, so --rate can't resample them; give ISO timestamps"
            )
        first_name, first = next(iter(self.steps.items()), (name, step))
        self.steps[name] = step
        if abs(step / first - 1) > 2 * _RATE_TOLERANCE:
            raise InputError(
                f"{path}: {column!r} is in steps of {first:.4g} in series {first_name!r}"
                f" and {step:.4g} in series {name!r}; give samples of one rate"
            )

    def _count_growth(self, x: npt.NDArray[np.float64]) -> None:
        """Note the features that grow at every step."""
        steps = np.diff(x, axis=0)
        grows = np.asarray((steps > 0).all(axis=0))
        self.counts.update(steps=len(steps))
        self.grows = grows if self.grows is None else np.logical_and(self.grows, grows)

    def _measure_rate(self, name: str, times: npt.NDArray[np.float64]) -> float | None:
        """Note the sampling rate of a series, and return the rate to resample to; None
        if it has that rate.
        """
        intervals = np.diff(times)
        rate = _usual_rate(times)
        differing = int((np.abs(intervals * rate - 1) > _JITTER).sum())
        target_rate = self.config.sampling_rate
        self.rates[name] = rate
        if target_rate and (differing or abs(target_rate / rate - 1) > _RATE_TOLERANCE):
            if (longest := float(intervals.max())) * rate > _LONGEST_GAP:
                raise InputError(
                    f"series {name!r} has a gap of {longest:.4g} seconds, which --rate"
                    " would fill with samples; give each part a series id of its own"
                )
            return target_rate
        self.counts.update(differing=differing, intervals=len(intervals))
        return None

    def data(self, path: Path) -> Data:
        """Return all series, with their classes as numbers."""
        columns = self.columns
        assert columns is not None
        assert self.first is not None
        self._check_growth(path, columns)
        series = self.series
        task = None
        if columns.has_classes:
            labels = _class_names(series)
            series = _number_classes(series, labels)
            task = Task("classification", "logits", labels)
        elif columns.values:
            task = Task("regression", "value", columns.values)
        missing = self._describe_gaps()
        signal = Signal(
            features=columns.features if columns.have_names else (),
            sampling_rate=self._rate(path),
            missing=missing,
            full_scale=self.first.full_scale,
        )
        notes = filter(None, (missing, self._describe_intervals()))
        return Data(series=tuple(series), task=task, signal=signal, notes=tuple(notes))

    def _check_growth(self, path: Path, columns: _Columns) -> None:
        """Raise InputError if one of several columns that were not chosen as features
        only grows.
        """
        assert self.grows is not None
        is_alone = len(columns.features) == 1
        if columns.are_chosen or is_alone or self.counts["steps"] < _MIN_GROWTH:
            return
        for name, grows in zip(columns.features, self.grows, strict=True):
            if grows and name not in self.config.forecast:
                others = ",".join(x for x in columns.features if x != name)
                raise InputError(
                    f"{path}: column {name!r} grows at every row, as a time or a row"
                    f" number does; give --order {name}, or choose the features, such"
                    f" as --features {others}"
                )

    def _describe_gaps(self) -> str:
        """Return the number of missing values; empty without any."""
        gaps = self.counts["gaps"]
        if not gaps:
            return ""
        cells = self.counts["cells"]
        return f"{gaps} of {cells} feature values were missing and interpolated"

    def _describe_intervals(self) -> str:
        """Return the number of intervals that differ from the usual one; empty without
        any.
        """
        differing = self.counts["differing"]
        if not differing:
            return ""
        return (
            f"{differing} of {self.counts['intervals']} intervals between samples"
            f" differ from the usual one by more than {_JITTER:.0%}; --rate resamples"
            " to one rate"
        )

    def _rate(self, path: Path) -> float | None:
        """Return the sampling rate of all series; raises InputError if they differ."""
        rates = self.rates
        if self.config.sampling_rate or not rates:
            return self.config.sampling_rate
        slowest = min(rates, key=rates.__getitem__)
        fastest = max(rates, key=rates.__getitem__)
        if rates[fastest] > rates[slowest] * (1 + 2 * _RATE_TOLERANCE):
            raise InputError(
                f"{path}: {slowest!r} has {rates[slowest]:.4g} samples per second,"
                f" {fastest!r} has {rates[fastest]:.4g}; --rate {rates[slowest]:.4g}"
                " resamples all to one rate"
            )
        return float(f"{np.median(list(rates.values())):.6g}")


def _check_same_kind(
    table: Table, columns: _Columns, first: Table, expected: _Columns
) -> None:
    """Raise InputError for a file with other columns than the first, or another scale
    of sound.
    """
    if columns != expected:
        names = ", ".join((*expected.features, *expected.values))
        raise InputError(
            f"{table.path} has other features or targets than the first file: {names}"
        )
    if table.full_scale != first.full_scale:
        raise InputError(
            f"{table.path} and {first.path} have different scales: samples of WAV files"
            " are within -1 and 1; use files of one kind"
        )


def _special_columns(table: Table, config: ReadConfig) -> dict[str, str]:
    """Return the columns of series, order, group and split that a table has."""
    columns = {
        "series": config.series,
        "order": config.order,
        "group": config.group,
        "split": "split",
    }
    table.require([name for key, name in columns.items() if name != key])
    return {key: name for key, name in columns.items() if name in table.frame}


def _usual_targets(table: Table) -> _Targets:
    """Return the column of classes, or the columns of values, if no option names
    them.
    """
    if not table.features:
        return _Targets("label") if "label" in table.frame else _Targets()
    if "y" in table.frame:
        is_float = table.frame["y"].dtype.kind == "f"
        return _Targets(values=("y",)) if is_float else _Targets("y")
    names = [name for name in table.frame if name[:1] == "y" and name[1:].isdecimal()]
    return _Targets(values=tuple(name for name in names if name not in table.features))


def _read_targets(
    table: Table, columns: _Columns, folder: str, config: ReadConfig
) -> Array:
    """Return the class as text, or the values, of each row; zeros if these are not in
    the file.
    """
    if columns.has_classes:
        if columns.label:
            return table.texts(columns.label)
        if "/" in folder:
            raise InputError(
                f"{table.path}: expected one level of folders, whose names are the"
                " classes; or name a column of the class with --label"
            )
        return np.full(len(table.frame), folder, object)
    if config.forecast or not columns.values:
        return np.zeros(len(table.frame), np.int64)
    return table.numbers(columns.values, gaps=False)


def _check_duration(
    path: Path, record: Series, times: npt.NDArray[np.float64], rate: float
) -> None:
    """Raise InputError for a series that would have far more steps than rows."""
    steps = (times[-1] - times[0]) * rate
    if steps > max(_MAX_RESAMPLED, _MAX_STEPS_PER_ROW * len(times)):
        raise InputError(
            f"{path}: series {record.name!r} has {len(times)} rows over"
            f" {times[-1] - times[0]:.4g} seconds, which would be {steps:.3g} steps at"
            f" {rate:g} Hz; correct its times"
        )


def _class_names(series: Sequence[Series]) -> tuple[str, ...]:
    """Return the names of the classes, sorted as numbers if all are integers."""
    names = {str(label) for label in _labels(series)}
    are_integers = all(name.removeprefix("-").isdecimal() for name in names)
    ordered = sorted(names)
    if not are_integers:
        return tuple(ordered)
    ordered.sort(key=int)
    for name, after in pairwise(ordered):
        if int(name) == int(after):
            raise InputError(
                f"classes {name!r} and {after!r} are the same number; write it in one way"
            )
    return tuple(ordered)


def _labels(series: Sequence[Series]) -> Iterator[str]:
    """Yield the class of every step."""
    for record in series:
        yield from record.y


def _number_classes(series: Sequence[Series], names: Sequence[str]) -> list[Series]:
    """Return the series with the number of each class in place of its name."""
    numbers = {name: number for number, name in enumerate(names)}
    numbered = []
    for record in series:
        classes = np.array([numbers[label] for label in record.y])
        numbered.append(replace(record, y=classes))
    return numbered


def resample(
    x: npt.NDArray[np.float64], y: Array, times: npt.NDArray[np.float64], rate: float
) -> tuple[npt.NDArray[np.float64], Array]:
    """Interpolate features and values linearly, after a low-pass filter where the rate
    is reduced; classes are those of the previous sample.
    """
    has_classes = y.ndim == 1
    count = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1
    grid = times[0] + np.arange(count) / rate
    if has_classes:
        before = np.searchsorted(times, grid + 1e-9, side="right") - 1
        return _resampled(x, times, grid, rate), y[np.clip(before, 0, None)]
    return _resampled(x, times, grid, rate), _resampled(y, times, grid, rate)


def _resampled(
    columns: npt.NDArray[np.float64],
    times: npt.NDArray[np.float64],
    grid: npt.NDArray[np.float64],
    rate: float,
) -> npt.NDArray[np.float64]:
    """Return the columns ``(R, K)`` of ``times (R,)`` at the times of ``grid``, which has
    a rate. Frequencies above half of a lower rate are filtered out.
    """
    from scipy.signal import resample_poly  # type: ignore[attr-defined]

    own_rate = _usual_rate(times)
    ratio = Fraction(rate / own_rate).limit_denominator(1000)
    if ratio >= 1 or not ratio:
        return _interpolate(columns, times, grid)
    count = int((times[-1] - times[0]) * own_rate + 1e-6) + 1
    even = _interpolate(columns, times, times[0] + np.arange(count) / own_rate)
    filtered = resample_poly(even, ratio.numerator, ratio.denominator, padtype="line")
    step = ratio.denominator / ratio.numerator / own_rate
    return _interpolate(filtered, times[0] + np.arange(len(filtered)) * step, grid)


def _usual_rate(times: npt.NDArray[np.float64]) -> float:
    """Return the sampling rate of times, which may be rounded, without their gaps."""
    intervals = np.diff(times)
    usual = intervals[intervals < _GAP * np.median(intervals)]
    return 1 / float(usual.mean())


def _interpolate(
    columns: npt.NDArray[np.float64],
    times: npt.NDArray[np.float64],
    grid: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the columns ``(R, K)`` of ``times (R,)`` at the times of ``grid``."""
    values = [np.interp(grid, times, column) for column in columns.T]
    return np.asarray(np.stack(values, axis=1))
