"""Read arrays from ``.npz`` and ``.npy``."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.reading import read_arrays

from .config import ReadConfig
from .mend import mend_missing
from .recordings import SETS, ModelFeatures, Recording, Recordings, TargetMode, missing_name, usable

_MAX_FLOAT_CLASSES = 20
"""Maximum number of distinct integral floats that may be class ids."""


def read_array_file(
    path: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None
) -> Recordings:
    """Read ``x (samples, L, I)`` with classes or values; see ``read_recordings``.

    Integers and text in ``y`` are classes ``(samples,)``, floats are values ``(samples[, C])``. Optional
    arrays: ``lengths (samples,)``, ``series (samples,)`` (samples of one series stay in one set), ``split
    (samples,)`` of ``train``, ``validation`` and ``test``, ``features (I,)`` and ``sampling_rate``. An
    ``.npy`` file contains ``x``, or one series ``(L, I)``.
    """
    arrays = read_arrays(path, "can't be read", "save plain arrays with numpy.savez")
    _check_options(path, arrays, config)
    features = _names(path, "features", arrays)
    x = _samples(path, arrays, config.layout, len(features) or (model.width if model else None))
    samples, longest, width = x.shape
    if features and len(features) != width:
        raise InputError(f"{path}: features is ({len(features)},), expected ({width},)")
    lengths = _lengths(path, arrays.get("lengths"), samples, longest)
    _check_finite(path, x, lengths, gaps=config.missing != "error")
    x, features = _pick(path, x, features, config, model)
    y, labels, values = _targets(path, arrays, config, targets, samples)
    split = _names(path, "split", arrays, samples) or ("",) * samples
    if wrong := [index for index, name in enumerate(split) if name and name not in SETS]:
        raise InputError(f"{path}: split[{wrong[0]}] is {split[wrong[0]]!r}, expected {', '.join(SETS)}")
    group = config.group or config.series or "series"
    groups = _names(path, group, arrays, samples) or tuple(map(str, range(samples)))
    recordings = Recordings(
        series=tuple(
            Recording(
                name=str(index),
                group=groups[index],
                x=x[index, :length],
                y=None if y is None else np.broadcast_to(y[index], (length, *y.shape[1:])),
                split=split[index],
            )
            for index, length in enumerate(lengths)
        ),
        labels=labels,
        targets=values,
        features=features,
        sampling_rate=config.sampling_rate or _rate(path, arrays.get("sampling_rate")),
    )
    return recordings if config.missing == "error" else mend_missing(path, recordings, config.missing)


def _check_options(path: Path, arrays: dict[str, Array], config: ReadConfig) -> None:
    for option in ("order", "forecast"):
        if getattr(config, option):
            raise InputError(f"{path}: --{option} needs a table; the steps of x are already in order")
    for name in ("x", config.label, *config.targets, config.series, config.group):
        if name and name not in arrays:
            raise missing_name(path, "array", name, sorted(arrays))


def _samples(path: Path, arrays: dict[str, Array], layout: str | None, width: int | None) -> Array:
    """Return ``x`` as ``(samples, L, I)``.

    Args:
        path: for messages.
        arrays: of the file.
        layout: as given by the user.
        width: expected number of features, if known.
    """
    x = arrays["x"]
    if path.suffix == ".npy" and x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or x.dtype.kind not in "fiu" or 0 in x.shape[1:]:
        advice = "; for one feature save x[:, :, None]" if x.ndim == 2 else ""
        raise InputError(
            f"{path}: x is {x.dtype} {x.shape}, expected numbers of shape (samples, L, I){advice}"
        )
    if x.shape[0] == 0:
        raise InputError(f"{path} contains no samples: x is {x.shape}")
    _, rows, columns = x.shape
    if layout == "NCL":
        transposed: Array = x.transpose(0, 2, 1)
        return transposed
    likely = columns > rows if width is None else columns != width and rows == width
    if layout is None and likely:
        raise InputError(
            f"{path}: x is {x.shape}, {rows} steps of {columns} features, which looks like (samples, "
            "channels, time); use --layout NCL if so, --layout NLC if not"
        )
    return x


def _pick(
    path: Path, x: Array, names: tuple[str, ...], config: ReadConfig, model: ModelFeatures | None
) -> tuple[Array, tuple[str, ...]]:
    """Return the columns that were asked for, by the option or by the model's file, and their names."""
    wanted = config.features or (model.names if model and names else ())
    if wanted:
        if not names:
            raise InputError(
                f"{path} has no feature names, so --features can't select any; add an array features"
            )
        for name in wanted:
            if name not in names:
                raise missing_name(
                    path, "feature", name, names, f"the model's features are {', '.join(wanted)}"
                )
        if wanted != names:
            x, names = x[:, :, [names.index(name) for name in wanted]], wanted
    if model and x.shape[2] != model.width:
        raise InputError(f"{path}: x is {x.shape}, expected (samples, L, {model.width}) for this model")
    return x, names


def _targets(
    path: Path, arrays: dict[str, Array], config: ReadConfig, mode: TargetMode, samples: int
) -> tuple[Array | None, tuple[str, ...], tuple[str, ...]]:
    """Return class indices or values, the names of the classes, and the names of the values."""
    name = config.label or "y"
    if mode == "ignored" or (mode == "optional" and not config.targets and name not in arrays):
        return None, (), ()
    if config.targets:
        values = {each: _values(path, each, arrays[each], samples) for each in config.targets}
        return np.concatenate([*values.values()], axis=1), (), _value_names(values)
    if name not in arrays:
        raise missing_name(path, "array", name, sorted(arrays))
    y = arrays[name]
    if y.ndim not in (1, 2) or y.shape[0] != samples:
        raise InputError(f"{path}: {name} is {y.shape}, expected one row for each of x's {samples} samples")
    if config.label:
        y = _as_classes(path, name, y)
    if reason := _ambiguity(y):
        raise InputError(
            f"{path}: {name} is {y.dtype} {y.shape} and contains {reason}; use --label {name} to read it "
            f"as classes, --target {name} to predict them as values"
        )
    if y.dtype.kind == "f":
        found = _values(path, name, y, samples)
        return found, (), tuple(f"{name}{column}" for column in range(found.shape[1]))
    if y.ndim != 1 or y.dtype.kind not in "iubU":
        raise InputError(
            f"{path}: {name} is {y.dtype} {y.shape}, expected integer or text classes (samples,), or "
            "float values"
        )
    classes, indices = np.unique(y, return_inverse=True)
    return indices.astype(np.int64), tuple(str(each) for each in classes), ()


def _value_names(values: dict[str, npt.NDArray[np.float32]]) -> tuple[str, ...]:
    return tuple(
        name if columns.shape[1] == 1 else f"{name}{column}"
        for name, columns in values.items()
        for column in range(columns.shape[1])
    )


def _values(path: Path, name: str, y: Array, samples: int) -> npt.NDArray[np.float32]:
    if y.dtype.kind not in "fiub" or y.ndim not in (1, 2) or y.shape[0] != samples:
        raise InputError(
            f"{path}: {name} is {y.dtype} {y.shape}, expected numbers, one row for each of "
            f"x's {samples} samples"
        )
    values = y.reshape(samples, -1)
    wrong = np.argwhere(~usable(values))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{path}: {name}[{row}, {column}] is {values[row, column]}, expected a finite number"
        )
    return values.astype(np.float32)


def _ambiguity(y: Array) -> str:
    """Return why it is not clear whether an array has classes or values; empty if it is."""
    if y.dtype.kind == "f":
        return _looks_like_classes(y)
    return "one-hot rows" if y.ndim == 2 and _one_hot(y) else ""


def _looks_like_classes(y: Array) -> str:
    """Return why floats look like classes; empty if they look like values."""
    if y.ndim == 2 and y.shape[1] > 1:
        return "one-hot rows" if _one_hot(y) else ""
    distinct = np.unique(y)
    if (
        not np.isfinite(distinct).all()
        or (distinct != np.round(distinct)).any()
        or not 2 <= len(distinct) <= min(_MAX_FLOAT_CLASSES, y.size / 2)
    ):
        return ""
    return f"only the integers {', '.join(f'{value:g}' for value in distinct)}, like class ids"


def _one_hot(y: Array) -> bool:
    return (
        y.dtype.kind in "fiub"
        and y.shape[1] > 1
        and bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())
    )


def _as_classes(path: Path, name: str, y: Array) -> Array:
    """Return classes ``(samples,)`` of one-hot rows or integral floats; others unchanged."""
    if y.ndim == 2 and _one_hot(y):
        y = y.argmax(axis=1)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "f":
        wrong = np.flatnonzero(~usable(y) | (y != np.round(y)))
        if len(wrong):
            raise InputError(f"{path}: {name}[{wrong[0]}] is {y[wrong[0]]}, expected integers for classes")
        return y.astype(np.int64)
    return y


def _lengths(path: Path, lengths: Array | None, samples: int, longest: int) -> list[int]:
    if lengths is None:
        return [longest] * samples
    if lengths.shape != (samples,) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"{path}: lengths is {lengths.dtype} {lengths.shape}, expected integers ({samples},)"
        )
    for index, length in enumerate(lengths):
        if not 1 <= length <= longest:
            raise InputError(f"{path}: lengths[{index}] is {length}, expected 1 to {longest}")
    return [int(length) for length in lengths]


def _check_finite(path: Path, x: Array, lengths: list[int], *, gaps: bool) -> None:
    """Refuse values that are not finite, except after the length of a sample."""
    valid = (np.arange(x.shape[1]) < np.array(lengths)[:, None])[..., None]
    wrong = np.argwhere(~(usable(x) | (np.isnan(x) & gaps)) & valid)
    if len(wrong):
        where, value = ", ".join(map(str, wrong[0])), x[tuple(wrong[0])]
        advice = "; --missing interpolate or drop-row fills or drops gaps" if np.isnan(value) else ""
        raise InputError(f"{path}: x[{where}] is {value}, expected a finite number{advice}")


def _rate(path: Path, rate: Array | None) -> float | None:
    if rate is not None and (rate.size != 1 or rate.dtype.kind not in "fiu" or not 0 < rate.item() < np.inf):
        raise InputError(f"{path}: sampling_rate is {rate}, expected one positive number of Hertz")
    return None if rate is None else float(rate.item())


def _names(path: Path, name: str, arrays: dict[str, Array], count: int | None = None) -> tuple[str, ...]:
    """Return an array of names ``(count,)``; empty if the file has none."""
    if name not in arrays:
        return ()
    if arrays[name].ndim != 1 or (count is not None and len(arrays[name]) != count):
        raise InputError(f"{path}: {name} is {arrays[name].shape}, expected ({count or 'I'},)")
    return tuple(str(entry) for entry in arrays[name])
