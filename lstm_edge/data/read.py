"""Read data files: a table, a folder of tables, arrays (``.npz``, ``.npy``), or several of these as sets.

Every verb reads data with this.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from lstm_edge_runtime.errors import InputError, NotFoundError, counted
from lstm_edge_runtime.manifest import Array, Signal, Task
from lstm_edge_runtime.reading import read_arrays

from ..run_files import is_run
from .config import DATA_SUFFIXES, DEFAULT_NAMES, ReadConfig
from .series import SETS, Data, Series
from .tables import Table, missing_name, read_table, usable

TargetMode = Literal["required", "optional", "ignored"]
"""Classes or values must be in the file, are read if present, or are not read."""
_ARRAYS = (".npz", ".npy")
_KINDS = "a .npz, .npy, .csv, .parquet or .wav file, or a folder of tables"
_MENDS = "; --missing interpolate or drop-row fills or drops gaps"
_JITTER, _RATE = 0.1, 0.01
"""Relative differences of intervals between samples, and of rates, that are not reported."""
_MAX_FLOAT_CLASSES = 20
"""Number of distinct integers up to which floats look like class ids."""


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
    tables = set(DATA_SUFFIXES) - set(_ARRAYS)
    return sorted(file for file in path.rglob("*") if file.suffix in tables and file.is_file())


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
        if file.suffix in _ARRAYS:
            yield _read_arrays(file, config, targets, model)
            continue
        table, label = read_table(file, config.encoding), ""
        if path.is_dir() and file.parent != path:
            label = file.parent.relative_to(path).as_posix()
        part = _read_rows(table, config, targets, model, label)
        yield _of_folder(part, file.relative_to(path).as_posix()) if path.is_dir() else part


def _of_folder(part: _Part, name: str) -> _Part:
    """Return the series of one file of a folder, with the name of the file in theirs."""

    def rename(one: str) -> str:
        return name if len(part.series) == 1 and one in ("0", name) else f"{name}: {one}"

    series = [
        replace(one, name=rename(one.name), group=rename(one.name) if one.group == one.name else one.group)
        for one in part.series
    ]
    return replace(part, series=series, rates={rename(key): rate for key, rate in part.rates.items()})


def _as_set(name: str, part: _Part) -> _Part:
    if any(one.split for one in part.series):
        raise InputError(f"{part.path} defines the sets of its series itself; remove its split")
    series = [
        replace(one, name=f"{one.name} ({name})", group=f"{one.group} ({name})", split=name)
        for one in part.series
    ]
    return replace(part, series=series, rates={f"{key} ({name})": rate for key, rate in part.rates.items()})


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
    kind = "classification" if labels else "regression"
    task = Task(kind, "logits", labels or first.names) if labels or first.names else None
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
    label = config.label or ("label" if "label" in table.header and not task else None)
    by_folder = bool(folder) and label is None and not task
    advice = "name the class column with --label, or the value columns with --target or --forecast"
    table.require([config.series, config.order, config.group, config.label, *task, *config.features])
    if targets == "required" and not (label or task or by_folder):
        table.require(["label"], advice)
    columns = {
        key: getattr(config, key) or (name if name in table.header else None)
        for key, name in DEFAULT_NAMES.items()
    }
    columns["split"] = "split" if "split" in table.header else None
    other = {*columns.values(), label, *config.targets}
    features = _features(table, config, model, [name for name in table.header if name not in other])
    x = table.numbers(features, gaps=config.missing != "error", advice=_MENDS)
    names = () if targets == "ignored" else task
    classes = targets != "ignored" and (by_folder or label is not None)
    if classes:
        y = table.texts(label) if label else np.full(len(table), folder, dtype=object)
    else:
        known = config.targets if names else ()
        y = table.numbers(known, gaps=False) if known else np.zeros(len(table), np.int64)
    part = _Part(table.path, features, names, classes)
    _add_series(part, table, columns, x, y, config)
    return part


def _features(
    table: Table, config: ReadConfig, model: ModelFeatures | None, rest: list[str]
) -> tuple[str, ...]:
    names = tuple(config.features or (model.names if model else ()) or rest)
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
    if not config.features:
        table.refuse_text(names)
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
            line = table.line(int(rows[same[0] + 1]))
            raise InputError(
                f"{table.path}: series {name!r} has the same {columns['order']} twice (row {line}); expected "
                "a different value in each row"
            )
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
    if config.forecast and part.names:
        if len(x) < 2:
            raise InputError(f"{part.path}: series {one.name!r} has one row; a forecast needs at least two")
        y = x[1:, [part.features.index(name) for name in part.names]]
        x, drop = x[:-1], drop[:-1] | drop[1:]
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


def _read_arrays(path: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None) -> _Part:
    """Read ``x (samples, L, I)`` with classes or values.

    Integers and text in ``y`` are classes ``(samples,)``, floats are values ``(samples[, C])``. Optional
    arrays: ``lengths (samples,)``, ``group (samples,)``, ``split (samples,)`` of ``SETS``, ``features (I,)``
    and ``sampling_rate``. An ``.npy`` file contains ``x``, or one series ``(L, I)``.
    """
    arrays = read_arrays(path, "can't be read", "save plain arrays with numpy.savez", ["x"])
    if config.order or config.forecast:
        raise InputError(f"{path}: --order and --forecast need a table; the steps of x are already in order")
    for name in (config.label, *config.targets, config.series, config.group):
        if name and name not in arrays:
            raise missing_name(path, "array", name, sorted(arrays))
    x = arrays["x"][None] if path.suffix == ".npy" and arrays["x"].ndim == 2 else arrays["x"]
    if x.ndim != 3 or x.dtype.kind not in "fiu" or 0 in x.shape:
        advice = "; for one feature save x[:, :, None]" if x.ndim == 2 else ""
        raise InputError(f"{path}: x is {x.dtype} {x.shape}, expected numbers (samples, L, I){advice}")
    samples, longest, _ = x.shape
    lengths = _lengths(path, arrays.get("lengths"), samples, longest)
    x, features = _pick(path, x, _texts(path, "features", arrays, x.shape[2]), config, model)
    _check_finite(path, x, lengths, gaps=config.missing != "error")
    part = _Part(path, features)
    y = _array_targets(part, arrays, config, targets, samples)
    rate, group = _array_rate(path, arrays), config.group or "group"
    groups = _texts(path, group, arrays, samples) or tuple(map(str, range(samples)))
    splits = _texts(path, "split", arrays, samples) or ("",) * samples
    for index, (length, split) in enumerate(zip(lengths, splits, strict=True)):
        if split not in ("", *SETS):
            raise InputError(f"{path}: split[{index}] is {split!r}, expected {', '.join(SETS)}")
        steps = np.broadcast_to(y[index], (length, *y.shape[1:]))
        one = Series(str(index), groups[index], split, x[index, :length].astype(np.float64), steps)
        times = None if rate is None else np.arange(length) / rate
        part.series.append(_finished(part, one, times, config))
    return part


def _array_targets(
    part: _Part, arrays: Mapping[str, Array], config: ReadConfig, mode: TargetMode, samples: int
) -> Array:
    """Return classes as text ``(samples,)`` or values ``(samples, C)``, and set what they are."""
    name, nothing = config.label or "y", np.zeros(samples, np.int64)
    if mode == "ignored" or (mode == "optional" and not config.targets and name not in arrays):
        return nothing
    if config.targets:
        values = {each: _values(part.path, each, arrays[each], samples) for each in config.targets}
        part.names = tuple(name for each, columns in values.items() for name in _value_names(each, columns))
        return np.concatenate([*values.values()], axis=1)
    if name not in arrays:
        raise missing_name(part.path, "array", name, sorted(arrays))
    y = arrays[name]
    if y.dtype.kind == "f" and y.ndim <= 2 and len(y) == samples:
        _refuse_class_ids(part.path, name, y)
        values_of_y = _values(part.path, name, y, samples)
        part.names = tuple(f"{name}{column}" for column in range(values_of_y.shape[1]))
        return values_of_y
    if y.shape != (samples,) or y.dtype.kind not in "iubU":
        advice = f"; of one-hot rows save {name}.argmax(axis=1)" if y.ndim == 2 else ""
        raise InputError(
            f"{part.path}: {name} is {y.dtype} {y.shape}, expected integer or text classes ({samples},), or "
            f"float values{advice}"
        )
    part.classes = True
    return y.astype(str).astype(object)


def _refuse_class_ids(path: Path, name: str, y: Array) -> None:
    distinct = np.unique(y)
    whole = bool(np.isfinite(distinct).all()) and bool((distinct == np.round(distinct)).all())
    if whole and 2 <= len(distinct) <= min(_MAX_FLOAT_CLASSES, y.size / 2):
        raise InputError(
            f"{path}: {name} is {y.dtype} {y.shape} and contains only the integers "
            f"{', '.join(f'{value:g}' for value in distinct)}; save class ids as integers (samples,), or use "
            f"--target {name} to predict them as values"
        )


def _value_names(name: str, columns: Array) -> list[str]:
    width = columns.shape[1]
    return [name] if width == 1 else [f"{name}{column}" for column in range(width)]


def _values(path: Path, name: str, y: Array, samples: int) -> npt.NDArray[np.float32]:
    if y.dtype.kind not in "fiub" or y.ndim not in (1, 2) or y.shape[0] != samples:
        raise InputError(
            f"{path}: {name} is {y.dtype} {y.shape}, expected numbers, one row for each of x's {samples} "
            "samples"
        )
    values = y.reshape(samples, -1)
    if len(wrong := np.argwhere(~usable(values))):
        row, column = wrong[0]
        raise InputError(
            f"{path}: {name}[{row}, {column}] is {values[row, column]}, expected a finite number"
        )
    return values.astype(np.float32)


def _pick(
    path: Path, x: Array, names: tuple[str, ...], config: ReadConfig, model: ModelFeatures | None
) -> tuple[Array, tuple[str, ...]]:
    """Return the columns that were asked for, by the option or by the model's file, and their names."""
    wanted = config.features or (model.names if model and names else ())
    if wanted and not names:
        raise InputError(
            f"{path} has no feature names, so --features can't select any; add an array features"
        )
    for name in wanted:
        if name not in names:
            raise missing_name(path, "feature", name, names, f"the model's features are {', '.join(wanted)}")
    if wanted:
        x, names = x[:, :, [names.index(name) for name in wanted]], wanted
    if model and x.shape[2] != model.width:
        raise InputError(f"{path}: x is {x.shape}, expected (samples, L, {model.width}) for this model")
    return x, names


def _lengths(path: Path, lengths: Array | None, samples: int, longest: int) -> list[int]:
    if lengths is None:
        return [longest] * samples
    if lengths.shape != (samples,) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"{path}: lengths is {lengths.dtype} {lengths.shape}, expected integers ({samples},)"
        )
    if (wrong := (lengths < 1) | (lengths > longest)).any():
        index = int(wrong.argmax())
        raise InputError(f"{path}: lengths[{index}] is {lengths[index]}, expected 1 to {longest}")
    return [int(length) for length in lengths]


def _check_finite(path: Path, x: Array, lengths: list[int], *, gaps: bool) -> None:
    """Refuse values that are not finite, except after the length of a sample."""
    valid = (np.arange(x.shape[1]) < np.array(lengths)[:, None])[..., None]
    wrong = np.argwhere(~(usable(x) | (np.isnan(x) & gaps)) & valid)
    if len(wrong):
        where, value = ", ".join(map(str, wrong[0])), x[tuple(wrong[0])]
        advice = _MENDS if np.isnan(value) else ""
        raise InputError(f"{path}: x[{where}] is {value}, expected a finite number{advice}")


def _array_rate(path: Path, arrays: Mapping[str, Array]) -> float | None:
    rate = arrays.get("sampling_rate")
    if rate is not None and (rate.size != 1 or rate.dtype.kind not in "fiu" or not 0 < rate.item() < np.inf):
        raise InputError(f"{path}: sampling_rate is {rate}, expected one positive number of Hertz")
    return None if rate is None else float(rate.item())


def _texts(path: Path, name: str, arrays: Mapping[str, Array], count: int) -> tuple[str, ...]:
    """Return an array of names ``(count,)``; empty if the file has none."""
    if name not in arrays:
        return ()
    if arrays[name].shape != (count,):
        raise InputError(f"{path}: {name} is {arrays[name].shape}, expected ({count},)")
    return tuple(str(entry) for entry in arrays[name])
