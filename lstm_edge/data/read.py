"""Read data files: a table, a folder of tables, arrays (``.npz``, ``.npy``), or several of these as sets.

Every verb reads data with this.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from lstm_edge_runtime.errors import InputError, NotFoundError, counted
from lstm_edge_runtime.manifest import Array, Signal, Task

from ..run_files import is_run
from .config import DATA_SUFFIXES, DEFAULT_NAMES, ReadConfig
from .series import SETS, Data, Series
from .tables import Table, read_table

TargetMode = Literal["required", "optional", "ignored"]
"""Classes or values must be in the file, are read if present, or are not read."""
_TABLES = (".csv", ".parquet", ".wav")
_KINDS = "a .npz, .npy, .csv, .parquet or .wav file, or a folder of tables"
_MENDS = "; --missing interpolate or drop-row fills or drops gaps"
_JITTER, _RATE = 0.1, 0.01
"""Relative differences of intervals between samples, and of rates, that are not reported."""
_MAX_FLOAT_CLASSES = 20
"""Number of distinct integers up to which the floats of an array look like class ids."""


@dataclass(frozen=True)
class ModelFeatures:
    """The features of a model."""

    names: tuple[str, ...]
    """Empty if the model's file does not name them."""
    width: int


@dataclass
class _Part:
    """One file: series whose classes are still text."""

    path: Path
    features: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Of the values."""
    classes: bool = False
    forecast: Sequence[int] = ()
    """Places of the features whose next values are the targets."""
    series: list[Series] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    """Sampling rate, Hertz, by series, where it is known."""
    counts: Counter[str] = field(default_factory=Counter)
    """Numbers of what was mended, for notes."""


def read_data(
    path: Path,
    config: ReadConfig | None = None,
    *,
    targets: TargetMode = "required",
    model: ModelFeatures | None = None,
    sets: Mapping[str, Path] | None = None,
) -> Data:
    """Read a data file in the format that its name ends in, or every table in a folder.

    Args:
        path: the file or folder. Each table of a folder is one series, or several if it has a column for
            them; their class is in a column, or is the subfolder.
        config: names of columns or arrays, and how to mend the data.
        targets: classes or values to read.
        model: features of the model, to select and check the features.
        sets: files with the validation and the test set; ``path`` is then the training set.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read in the format of its suffix.
        InputError: it is empty, of another kind, or its content does not fit; the message names the row and
            column, or the array and index.
    """
    config = config or ReadConfig()
    parts = [*_read_parts(path, config, targets, model)]
    if sets:
        parts = [_as_set("train", part) for part in parts]
        for name, other in sets.items():
            parts += [_as_set(name, part) for part in _read_parts(other, config, targets, model)]
    return _join(path, parts, config)


def data_files(path: Path) -> list[Path]:
    """Return the file itself, or every table in a folder and its subfolders, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _TABLES and file.is_file())


def _read_parts(
    path: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None
) -> Iterator[_Part]:
    if not path.exists():
        raise NotFoundError(f"{path} does not exist; expected {_KINDS}")
    if path.is_dir() and is_run(path):
        raise InputError(f"{path} is a trained run, not data; run lstm-edge export {path} -o model.onnx")
    files = data_files(path)
    if not files:
        raise InputError(
            f"{path} contains no .csv, .parquet or .wav files; expected a folder with one per recording"
        )
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is not a file; expected {_KINDS}")
        if file.suffix not in DATA_SUFFIXES:
            raise InputError(f"{file} ends in {file.suffix or 'nothing'!r}; expected {_KINDS}")
        table, label = read_table(file, config.encoding), ""
        if path.is_dir() and file.parent != path:
            label = file.parent.relative_to(path).as_posix()
        part = _read_rows(table, config, targets, model, label)
        yield _of_folder(part, file.relative_to(path).as_posix()) if path.is_dir() else part


def _of_folder(part: _Part, name: str) -> _Part:
    """Return the series of one file of a folder, with the name of the file in theirs."""
    alone = len(part.series) == 1 and part.series[0].name in ("0", name)
    return _renamed(part, lambda one: name if alone else f"{name}: {one}", "")


def _as_set(name: str, part: _Part) -> _Part:
    if any(one.split for one in part.series):
        raise InputError(f"{part.path} defines the sets of its series itself; remove its split")
    found = _renamed(part, lambda one: f"{one} ({name})", name)
    series = [
        one if one.group == one.name else replace(one, group=f"{one.group} ({name})") for one in found.series
    ]
    return replace(found, series=series)


def _renamed(part: _Part, rename: Callable[[str], str], split: str) -> _Part:
    """Return a part with other names of its series, and of the groups that have the name of their series."""
    series = [
        replace(
            one,
            name=rename(one.name),
            group=rename(one.name) if one.group == one.name else one.group,
            split=split or one.split,
        )
        for one in part.series
    ]
    return replace(part, series=series, rates={rename(key): rate for key, rate in part.rates.items()})


def _join(path: Path, parts: Sequence[_Part], config: ReadConfig) -> Data:
    """Return the series of all files, which must have the same features, targets and sampling rate."""
    first = parts[0]
    for part in parts[1:]:
        for what in ("features", "names"):
            mine, theirs = getattr(part, what), getattr(first, what)
            if mine != theirs:
                what = what.replace("names", "targets")
                raise InputError(
                    f"{part.path} has the {what} {', '.join(mine) or 'none'}, expected those of "
                    f"{first.path}: {', '.join(theirs) or 'none'}"
                )
        if part.series[0].x.shape[1] != first.series[0].x.shape[1] or part.classes != first.classes:
            raise InputError(f"{part.path} has other features or targets than {first.path}")
    series = [one for part in parts for one in part.series]
    labels: tuple[str, ...] = ()
    if first.classes:
        labels = _sorted({str(label) for one in series for label in one.y})
        index = {label: number for number, label in enumerate(labels)}
        series = [replace(one, y=np.array([index[label] for label in one.y])) for one in series]
    rate = _rate(path, {key: rate for part in parts for key, rate in part.rates.items()}, config)
    counts = sum((part.counts for part in parts), Counter[str]())
    missing, notes = _notes(counts, config, rate)
    kind, output = ("classification", "logits") if labels else ("regression", "value")
    task = Task(kind, output, labels or first.names) if labels or first.names else None
    return Data(tuple(series), task, Signal(first.features, rate, missing=missing), notes)


def _sorted(labels: set[str]) -> tuple[str, ...]:
    """Return labels in alphabetical order, integers by size."""
    whole = all(label.removeprefix("-").isdecimal() for label in labels)
    return tuple(sorted(labels, key=int if whole else str))


def _rate(path: Path, rates: Mapping[str, float], config: ReadConfig) -> float | None:
    """Return the sampling rate of all series; raises InputError if they differ."""
    if config.sampling_rate or not rates:
        return config.sampling_rate
    slowest, fastest = (each(rates, key=lambda name: rates[name]) for each in (min, max))
    if rates[fastest] > rates[slowest] * (1 + 2 * _RATE):
        raise InputError(
            f"{path}: {slowest!r} has {rates[slowest]:.4g} samples per second, {fastest!r} has "
            f"{rates[fastest]:.4g}; --rate {rates[slowest]:.4g} resamples all to one rate"
        )
    return float(f"{np.median(list(rates.values())):.6g}")


def _notes(counts: Counter[str], config: ReadConfig, rate: float | None) -> tuple[str, tuple[str, ...]]:
    """Return how missing features were handled, and notes about all files together."""
    missing, notes = "", []
    if counts["gaps"] and config.missing == "interpolate":
        missing = f"{counts['gaps']} of {counts['cells']} feature values were missing and interpolated"
        notes.append(f"{missing}; a device has to fill in its own")
    elif counts["gaps"]:
        missing = f"{counted(counts['dropped'], 'step')} with missing features were dropped"
        notes.append(missing)
    if counts["resampled"]:
        notes.append(f"{counted(counts['resampled'], 'series')} resampled to {rate:g} Hz")
    elif counts["odd"]:
        notes.append(
            f"{counts['odd']} of {counts['intervals']} intervals between samples differ from the usual one "
            f"by more than {_JITTER:.0%}; --rate resamples to one rate"
        )
    return missing, tuple(notes)


def _read_rows(
    table: Table, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None, folder: str
) -> _Part:
    """Return the series of a table; ``folder`` is their class if no column has it."""
    task = (*config.targets, *config.forecast)
    label = config.label
    if not (label or task or targets == "ignored"):
        label, task = _defaults(table)
    by_folder = bool(folder) and label is None and not task
    table.require([config.series, config.order, config.group, config.label, *task, *config.features])
    if targets == "required" and not (label or task or by_folder):
        advice = "name the class column with --label, or the value columns with --target or --forecast"
        table.require(["y" if table.features else "label"], advice)
    columns = {
        key: getattr(config, key) or (name if name in table.header else None)
        for key, name in DEFAULT_NAMES.items()
    }
    columns["split"] = "split" if "split" in table.header else None
    other = {*columns.values(), label, "label" if not task else None, *(set(task) - set(config.forecast))}
    rest = table.features or [name for name in table.header if name not in other]
    features = _features(table, config, model, rest)
    x = table.numbers(features, gaps=config.missing != "error", advice=_MENDS)
    names = () if targets == "ignored" else task
    classes = targets != "ignored" and (by_folder or label is not None)
    if classes:
        y = table.texts(label) if label else np.full(len(table), folder, dtype=object)
    else:
        known = [name for name in names if name not in config.forecast]
        y = table.numbers(known, gaps=False) if known else np.zeros(len(table), np.int64)
    part = _Part(table.path, features if table.named or config.features else (), names, classes)
    if config.forecast and names:
        part.forecast = [features.index(name) for name in names]
    _add_series(part, table, columns, x, y, config)
    return part


def _defaults(table: Table) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of classes, or the columns of values, if no option names them."""
    if not table.features:
        return ("label" if "label" in table.header else None), ()
    values = [name for name in table.header if name == "y" or (name[0] == "y" and name[1:].isdecimal())]
    values = [name for name in values if name not in table.features]
    if values[:1] != ["y"] or table.frame["y"].dtype.kind != "f":
        return ("y", ()) if values[:1] == ["y"] else (None, tuple(values))
    distinct = table.frame["y"].unique()
    if 2 <= len(distinct) <= _MAX_FLOAT_CLASSES and np.array_equal(distinct, distinct.round()):
        raise InputError(
            f"{table.path}: y contains only the integers {', '.join(f'{value:g}' for value in distinct)}; "
            "save class ids as integers, or use --target y to predict them as values"
        )
    return None, ("y",)


def _features(
    table: Table, config: ReadConfig, model: ModelFeatures | None, rest: Sequence[str]
) -> tuple[str, ...]:
    of_model = model.names if model and table.named else ()
    names = tuple(config.features or of_model or rest)
    table.require(names, f"the model's features are {', '.join(names)}; name other columns with --features")
    if missing := [name for name in config.forecast if name not in names]:
        raise InputError(f"{table.path}: to forecast {missing[0]!r} it must be a feature")
    if not names:
        raise InputError(f"{table.path} has no feature column (it has {', '.join(table.header)})")
    if model and len(names) != model.width:
        raise InputError(
            f"{table.path}: got {counted(len(names), 'feature')} ({', '.join(names)}), expected "
            f"{model.width}; name them in the model's order with --features"
        )
    return names


def _add_series(
    part: _Part,
    table: Table,
    columns: Mapping[str, str | None],
    x: npt.NDArray[np.float64],
    y: Array,
    config: ReadConfig,
) -> None:
    """Add every series of a table, each in its order."""
    order, timed = np.arange(len(table), dtype=np.float64), False
    if columns["order"]:
        order, timed = table.order(columns["order"])
    elif table.rate:
        order, timed = order / table.rate, True
    cells = {key: table.texts(name) for key, name in columns.items() if name and key != "order"}
    groups = cells.get("series", np.full(len(table), "0", dtype=object))
    for name, positions in pd.Series(np.arange(len(table))).groupby(groups, sort=False):
        rows = positions.to_numpy()
        rows = rows[np.argsort(order[rows], kind="stable")]
        keys = order[rows]
        if (same := np.flatnonzero(np.diff(keys) == 0)).size:
            place = table.place(int(rows[same[0] + 1]))
            raise InputError(f"{table.path}: series {name!r} has the same {columns['order']} twice ({place})")
        split = _constant(table.path, "split", name, cells, rows)
        if split and split not in SETS:
            raise InputError(
                f"{table.path}: split of series {name!r} is {split!r}, expected {', '.join(SETS)}"
            )
        group = _constant(table.path, "group", name, cells, rows) or str(name)
        one = Series(str(name), group, split, x[rows], y[rows])
        part.series.append(_finished(part, one, keys if timed else None, config))


def _constant(path: Path, key: str, series: object, cells: Mapping[str, Array], rows: Array) -> str:
    """Return the only value of a column in these rows, empty without that column."""
    if key not in cells:
        return ""
    values = list(dict.fromkeys(cells[key][rows]))
    if len(values) > 1:
        raise InputError(
            f"{path}: {key} of series {series!r} is both {values[0]!r} and {values[1]!r}; expected one value "
            "for each series"
        )
    return str(values[0])


def _finished(part: _Part, one: Series, times: npt.NDArray[np.float64] | None, config: ReadConfig) -> Series:
    """Return a series without gaps, at the requested rate, with the next values if they are to be forecast.

    Args:
        part: its file, whose counts and rates are updated.
        one: the series as it is in the file.
        times: ``(L,)``, seconds, increasing; None if unknown.
        config: how to mend it.
    """
    x, y = one.x, one.y
    lacking = np.isnan(x)
    if lacking.any() and (lacking.all(axis=0).any() or lacking.all()):
        raise InputError(f"{part.path}: series {one.name!r} has a feature with only missing values")
    drop = lacking.any(axis=1) if config.missing == "drop-row" else np.zeros(len(x), bool)
    part.counts.update(gaps=int(lacking.sum()), cells=x.size, dropped=int(drop.sum()))
    if drop.all():
        raise InputError(f"{part.path}: every step of series {one.name!r} has a missing value")
    if lacking.any() and not drop.any():
        x = pd.DataFrame(x).interpolate(limit_direction="both").to_numpy()
    if times is not None and len(times) > 1:
        rate = _count_intervals(part, one.name, times)
        if config.sampling_rate and _differs(times, rate, config.sampling_rate):
            x, y = _resample(x[~drop], y[~drop], times[~drop], config.sampling_rate)
            drop = np.zeros(len(x), bool)
            part.counts.update(resampled=1)
    if part.forecast:
        if len(x) < 2:
            raise InputError(f"{part.path}: series {one.name!r} has one row; a forecast needs at least two")
        y, x, drop = x[1:, part.forecast], x[:-1], drop[:-1] | drop[1:]
    y = y if part.classes or not part.names else y.astype(np.float32)
    return replace(one, x=x[~drop].astype(np.float32), y=y[~drop])


def _count_intervals(part: _Part, name: str, times: npt.NDArray[np.float64]) -> float:
    """Count unusual intervals, and return the sampling rate."""
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    odd = int((np.abs(gaps - usual) > _JITTER * usual).sum())
    part.counts.update(odd=odd, intervals=len(gaps))
    part.rates[name] = 1 / usual
    return 1 / usual


def _differs(times: npt.NDArray[np.float64], rate: float, wanted: float) -> bool:
    """Return True if samples at these times are not samples at the wanted rate."""
    gaps = np.diff(times)
    uneven = bool((np.abs(gaps * rate - 1) > _JITTER).any())
    return uneven or abs(wanted / rate - 1) > _RATE


def _resample(
    x: npt.NDArray[np.float64], y: Array, times: npt.NDArray[np.float64], rate: float
) -> tuple[npt.NDArray[np.float64], Array]:
    """Interpolate features and values linearly; classes are those of the previous sample."""
    count = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1
    grid = times[0] + np.arange(count) / rate
    if y.ndim == 1:
        y = y[np.clip(np.searchsorted(times, grid + 1e-9, side="right") - 1, 0, None)]
    else:
        y = np.stack([np.interp(grid, times, column) for column in y.T], axis=1)
    return np.stack([np.interp(grid, times, column) for column in x.T], axis=1), y
