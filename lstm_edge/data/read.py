"""Read data files: a table, a folder of tables, arrays (``.npz``, ``.npy``), or several
of these as sets.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.manifest import Array, Signal, Task

from ..run_files import is_run
from .config import DATA_SUFFIXES, ReadConfig
from .series import SETS, Data, Series
from .tables import Table, read_table

TargetMode = Literal["required", "optional", "ignored"]
"""Classes or values must be in the file, are read if present, or are not read."""
_TABLES = (".csv", ".parquet", ".wav")
_KINDS = "a .npz, .npy, .csv, .parquet or .wav file, or a folder of tables"
# unreported relative differences of intervals between samples, and of rates
_JITTER = 0.1
_RATE = 0.01


class _Meaning(NamedTuple):
    """Columns of a table, the same in all files. Without a ``label`` the folder is the
    class.
    """

    features: tuple[str, ...]
    named: bool
    """False if the names of the features have no meaning."""
    classes: bool
    label: str | None
    targets: tuple[str, ...]
    """Names of the values."""


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
    for split, source in {"train" if sets else "": path, **(sets or {})}.items():
        for file in _files(source):
            name = file.relative_to(source).as_posix() if source.is_dir() else ""
            reader.add(read_table(file, reader.config.encoding), name, split)
    return reader.data(path)


def _files(path: Path) -> list[Path]:
    """Return the file itself, or every table in a folder and its subfolders, sorted."""
    if not path.exists():
        raise NotFoundError(f"{path} does not exist; expected {_KINDS}")
    if is_run(path):
        raise InputError(
            f"{path} is a trained run, not data; run lstm-edge export {path} -o"
            " model.onnx"
        )
    files = (
        sorted(file for file in path.rglob("*") if file.suffix in _TABLES)
        if path.is_dir()
        else [path]
    )
    if not files:
        raise InputError(
            f"{path} contains no .csv, .parquet or .wav files; expected one per"
            " recording"
        )
    if wrong := [
        file for file in files if not file.is_file() or file.suffix not in DATA_SUFFIXES
    ]:
        raise InputError(f"{wrong[0]} is not a data file; expected {_KINDS}")
    return files


@dataclass
class _Reader:
    """Series of several files, whose classes are still text, with their known rates and
    numbers of gaps.
    """

    config: ReadConfig
    targets: TargetMode
    preferred: tuple[str, ...]
    """Names of the features of a model."""
    meaning: _Meaning | None = None
    series: list[Series] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, table: Table, name: str, split: str) -> None:
        """Add the series of a table; ``name`` is its path in a folder, whose subfolder
        may be the class.
        """
        config = self.config
        folder = name.rpartition("/")[0]
        meaning = self._meaning(table, by_folder=bool(folder))
        self.meaning = self.meaning or meaning
        if meaning != self.meaning:
            names = ", ".join((*self.meaning.features, *self.meaning.targets))
            raise InputError(
                f"{table.path} has other features or targets than the first file:"
                f" {names}"
            )
        advice = "; --missing interpolate fills gaps"
        x = table.numbers(
            meaning.features, gaps=config.missing != "error", advice=advice
        )
        y = _targets(table, meaning, folder, config)
        order = np.arange(len(x), dtype=np.float64)
        timed = False
        columns = _columns(table, config)
        if "order" in columns:
            order, timed = table.order(columns["order"])
        elif table.rate:
            order = order / table.rate
            timed = True
        cells = {
            key: table.texts(column)
            for key, column in columns.items()
            if key != "order"
        }
        keys = cells.get("series", np.full(len(x), name or "0", dtype=object))
        for key, positions in pd.Series(np.arange(len(x))).groupby(keys, sort=False):
            rows = positions.to_numpy()[np.argsort(order[positions], kind="stable")]
            if (same := np.flatnonzero(np.diff(order[rows]) == 0)).size:
                where = table.cell(int(rows[same[0] + 1]), columns["order"])
                raise InputError(f"{where} twice in series {key!r}")
            full = f"{name}: {key}" if name not in ("", key) else str(key)
            group, given = (
                _constant(table.path, record, key, cells, rows)
                for record in ("group", "split")
            )
            if given and (split or given not in SETS):
                expected = (
                    "no split next to --validation-data or --test-data"
                    if split
                    else ", ".join(SETS)
                )
                raise InputError(
                    f"{table.path}: split of series {key!r} is {given!r}, expected"
                    f" {expected}"
                )
            suffix = f" ({split})" if split else ""
            record = Series(
                full + suffix,
                (group or full) + suffix,
                split or given,
                x[rows],
                y[rows],
            )
            self.series.append(
                self._finished(table.path, record, order[rows] if timed else None)
            )

    def _meaning(self, table: Table, *, by_folder: bool) -> _Meaning:
        """Return the columns of a table by what the options name, or else by their
        usual names.
        """
        config = self.config
        label = self.config.label
        values = (*self.config.targets, *self.config.forecast)
        if not (label or values or self.targets == "ignored"):
            label, values = _defaults(table)
        by_folder = by_folder and label is None and not values
        table.require([label, *values, *config.features])
        if self.targets == "required" and not (label or values or by_folder):
            advice = (
                "name the class column with --label, or the value columns with --target"
                " or --forecast"
            )
            table.require(["y" if table.features else "label"], advice)
        others = {
            *_columns(table, config).values(),
            "split",
            label or "label",
            *values,
        } - {*config.forecast}
        if values:
            others.discard("label")
        rest = (name for name in table.frame if name not in others)
        names = tuple(
            config.features
            or (self.preferred if table.named else ())
            or table.features
            or rest
        )
        advice = (
            f"the model's features are {', '.join(names)}; name other columns with"
            " --features"
        )
        table.require(names, advice)
        if missing := [name for name in config.forecast if name not in names]:
            raise InputError(
                f"{table.path}: to forecast {missing[0]!r} it must be a feature"
            )
        if not names:
            raise InputError(
                f"{table.path} has no feature column (it has {', '.join(table.frame)})"
            )
        ignored = self.targets == "ignored"
        classes = not ignored and (by_folder or label is not None)
        return _Meaning(
            names,
            table.named or bool(config.features),
            classes,
            label,
            () if ignored else values,
        )

    def _finished(
        self, path: Path, record: Series, times: npt.NDArray[np.float64] | None
    ) -> Series:
        """Return a series without gaps, at the requested rate, with the next values of
        a forecast.
        """
        assert self.meaning is not None
        x = record.x
        y = record.y
        wanted = self.config.sampling_rate
        gaps = np.isnan(x)
        if gaps.all(axis=0).any():
            raise InputError(
                f"{path}: series {record.name!r} has a feature with only missing values"
            )
        self.counts.update(gaps=int(gaps.sum()), cells=x.size)
        if gaps.any():
            x = pd.DataFrame(x).interpolate(limit_direction="both").to_numpy()
        if times is not None and len(times) > 1:
            intervals = np.diff(times)
            rate = self.rates[record.name] = 1 / float(np.median(intervals))
            odd = int((np.abs(intervals * rate - 1) > _JITTER).sum())
            if wanted and (odd or abs(wanted / rate - 1) > _RATE):
                x, y = resample(x, y, times, wanted)
            else:
                self.counts.update(odd=odd, intervals=len(intervals))
        if self.config.forecast and self.meaning.targets:
            if len(x) < 2:
                raise InputError(
                    f"{path}: series {record.name!r} has one row; a forecast needs at"
                    " least two"
                )
            y = x[
                1:,
                [self.meaning.features.index(name) for name in self.config.forecast],
            ]
            x = x[:-1]
        y = y.astype(np.float32) if self.meaning.targets else y
        return replace(record, x=x.astype(np.float32), y=y)

    def data(self, path: Path) -> Data:
        """Return all series, with their classes as numbers."""
        assert self.meaning is not None
        series = self.series
        labels = self.meaning.targets
        counts = self.counts
        if self.meaning.classes:
            names = {str(label) for record in series for label in record.y}
            whole = all(label.removeprefix("-").isdecimal() for label in names)
            labels = tuple(sorted(names, key=int if whole else str))
            index = {label: number for number, label in enumerate(labels)}
            series = [
                replace(record, y=np.array([index[label] for label in record.y]))
                for record in series
            ]
        missing = odd = ""
        if counts["gaps"]:
            missing = (
                f"{counts['gaps']} of {counts['cells']} feature values were missing and"
                " interpolated"
            )
        if counts["odd"]:
            odd = (
                f"{counts['odd']} of {counts['intervals']} intervals between samples"
                " differ from the usual "
            )
            odd += f"one by more than {_JITTER:.0%}; --rate resamples to one rate"
        kind, output = (
            ("classification", "logits")
            if self.meaning.classes
            else ("regression", "value")
        )
        features = self.meaning.features if self.meaning.named else ()
        task = Task(kind, output, labels) if labels else None
        signal = Signal(features, self._rate(path), missing=missing)
        return Data(tuple(series), task, signal, tuple(filter(None, (missing, odd))))

    def _rate(self, path: Path) -> float | None:
        """Return the sampling rate of all series; raises InputError if they differ."""
        rates = self.rates
        if self.config.sampling_rate or not rates:
            return self.config.sampling_rate
        slowest = min(rates, key=rates.__getitem__)
        fastest = max(rates, key=rates.__getitem__)
        if rates[fastest] > rates[slowest] * (1 + 2 * _RATE):
            raise InputError(
                f"{path}: {slowest!r} has {rates[slowest]:.4g} samples per second,"
                f" {fastest!r} has {rates[fastest]:.4g}; --rate {rates[slowest]:.4g}"
                " resamples all to one rate"
            )
        return float(f"{np.median(list(rates.values())):.6g}")


def _columns(table: Table, config: ReadConfig) -> dict[str, str]:
    """Return the columns of series, order, group and split that a table has."""
    columns = {
        "series": config.series,
        "order": config.order,
        "group": config.group,
        "split": "split",
    }
    table.require([name for key, name in columns.items() if name != key])
    return {key: name for key, name in columns.items() if name in table.frame}


def _defaults(table: Table) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of classes, or the columns of values, if no option names
    them.
    """
    if not table.features:
        return ("label" if "label" in table.frame else None), ()
    if "y" in table.frame:
        return (None, ("y",)) if table.frame["y"].dtype.kind == "f" else ("y", ())
    names = [name for name in table.frame if name[:1] == "y" and name[1:].isdecimal()]
    return None, tuple(name for name in names if name not in table.features)


def _targets(table: Table, meaning: _Meaning, folder: str, config: ReadConfig) -> Array:
    """Return the class as text, or the values, of each row; zeros if these are not in
    the file.
    """
    if meaning.classes:
        return (
            table.texts(meaning.label)
            if meaning.label
            else np.full(len(table.frame), folder, object)
        )
    if config.forecast or not meaning.targets:
        return np.zeros(len(table.frame), np.int64)
    return table.numbers(meaning.targets, gaps=False)


def _constant(
    path: Path, key: str, series: object, cells: Mapping[str, Array], rows: Array
) -> str:
    """Return the only value of a column in these rows, empty without that column."""
    values = [*dict.fromkeys(cells[key][rows])] if key in cells else [""]
    if len(values) > 1:
        raise InputError(
            f"{path}: {key} of series {series!r} is both {values[0]!r} and"
            f" {values[1]!r}"
        )
    return str(values[0])


def resample(
    x: npt.NDArray[np.float64], y: Array, times: npt.NDArray[np.float64], rate: float
) -> tuple[npt.NDArray[np.float64], Array]:
    """Interpolate features and values linearly; classes are those of the previous
    sample.
    """
    count = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1
    grid = times[0] + np.arange(count) / rate
    before = np.clip(np.searchsorted(times, grid + 1e-9, side="right") - 1, 0, None)
    columns = x.T if y.ndim == 1 else np.concatenate([x, y], axis=1).T
    values = np.stack([np.interp(grid, times, column) for column in columns], axis=1)
    return values[:, : x.shape[1]], (
        y[before] if y.ndim == 1 else values[:, x.shape[1] :]
    )
