"""Reading training data from ``.npz``."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line

from ..training.config import DataConfig
from .recordings import Recording, Recordings, usable

__all__ = ["read_npz"]

Array = npt.NDArray[Any]
_SPLITS = ("train", "validation", "test")


def read_npz(path: Path, config: DataConfig) -> Recordings:
    """Read ``x (samples, L, I)`` and ``y``, classes ``(samples,)`` or values ``(samples[, C])``.

    Integers and text in ``y`` are classes, floats are values. Optional arrays: ``lengths (samples,)``,
    ``series (samples,)`` (samples of one series stay in one part), ``split (samples,)`` of ``train``,
    ``validation`` and ``test``, ``features (I,)`` and ``sampling_rate``.

    Raises:
        FileFormatError: not a ``.npz`` of plain arrays.
        InputError: an array is missing or does not fit; the message names it and the index.
    """
    arrays = _load(path)
    for name in ("x", "y"):
        if name not in arrays:
            raise InputError(f"{path} has no array {name} (it has {', '.join(arrays) or 'none'})")
    if config.label or config.targets or config.forecast or config.features:
        raise InputError(f"{path}: columns are named in .csv files only; a .npz has its x and y")
    x = _features(path, arrays["x"])
    samples, longest, width = x.shape
    y, labels, targets = _targets(path, arrays["y"], samples)
    lengths = _lengths(path, arrays.get("lengths"), samples, longest)
    _check_finite(path, x, lengths)
    x = np.where(_valid(x, lengths), x, 0).astype(np.float32)
    groups = _names(path, "series", arrays, samples) or tuple(str(index) for index in range(samples))
    split = _names(path, "split", arrays, samples) or ("",) * samples
    for index, part in enumerate(split):
        if part and part not in _SPLITS:
            raise InputError(f"{path}: split[{index}] is {part!r}, expected {', '.join(_SPLITS)}")
    return Recordings(
        series=tuple(
            Recording(
                name=str(index),
                group=groups[index],
                x=x[index, : lengths[index]],
                y=np.broadcast_to(y[index], (lengths[index], *y.shape[1:])),
                split=split[index],
            )
            for index in range(samples)
        ),
        labels=labels,
        targets=targets,
        features=_names(path, "features", arrays, width),
        sampling_rate=_rate(path, arrays.get("sampling_rate")),
    )


def _load(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            arrays = None if isinstance(archive, np.ndarray) else dict(archive)
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        reason = first_line(error)
        raise FileFormatError(
            f"{path} can't be read as .npz ({reason}); save plain arrays with np.savez"
        ) from error
    if arrays is None:
        raise FileFormatError(f"{path} holds one array, not an archive; save x and y with np.savez")
    return arrays


def _features(path: Path, x: Array) -> Array:
    if x.ndim != 3 or x.dtype.kind not in "fiu" or 0 in x.shape[1:]:
        raise InputError(f"{path}: x is {x.dtype} {x.shape}, expected numbers of shape (samples, L, I)")
    if x.shape[0] == 0:
        raise InputError(f"{path} holds no samples: x is {x.shape}")
    return x


def _targets(path: Path, y: Array, samples: int) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    if y.ndim not in (1, 2) or y.shape[0] != samples:
        raise InputError(f"{path}: y is {y.shape}, expected one row for each of x's {samples} samples")
    if y.dtype.kind == "f":
        values = y.reshape(samples, -1)
        wrong = np.argwhere(~usable(values))
        if len(wrong):
            row, column = wrong[0]
            raise InputError(f"{path}: y[{row}, {column}] is {values[row, column]}, expected a finite number")
        return values.astype(np.float32), (), tuple(f"y{column}" for column in range(values.shape[1]))
    if y.ndim != 1 or y.dtype.kind not in "iubU":
        raise InputError(
            f"{path}: y is {y.dtype} {y.shape}, expected integer or text classes (samples,), or float values"
        )
    classes, indices = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"{path}: y holds one class only, {classes[0]}; expected two or more")
    return indices.astype(np.int64), tuple(str(name) for name in classes), ()


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


def _valid(x: Array, lengths: list[int]) -> npt.NDArray[np.bool_]:
    return (np.arange(x.shape[1]) < np.array(lengths)[:, None])[..., None]


def _check_finite(path: Path, x: Array, lengths: list[int]) -> None:
    wrong = np.argwhere(~usable(x) & _valid(x, lengths))
    if len(wrong):
        where = ", ".join(map(str, wrong[0]))
        raise InputError(f"{path}: x[{where}] is {x[tuple(wrong[0])]}, expected a finite number")


def _rate(path: Path, rate: Array | None) -> float | None:
    if rate is not None and (rate.size != 1 or rate.dtype.kind not in "fiu" or not 0 < rate.item() < np.inf):
        raise InputError(f"{path}: sampling_rate is {rate}, expected one positive number of Hertz")
    return None if rate is None else float(rate.item())


def _names(path: Path, name: str, arrays: dict[str, Array], count: int) -> tuple[str, ...]:
    if name not in arrays:
        return ()
    if arrays[name].shape != (count,):
        raise InputError(f"{path}: {name} is {arrays[name].shape}, expected ({count},)")
    return tuple(str(entry) for entry in arrays[name])
