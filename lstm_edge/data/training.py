"""The data of a training, read, split and cut. Needs no torch, so that wrong data are refused at once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError, counted

from .config import DataConfig
from .read import data_files, read_recordings
from .recordings import SETS, Recording, Recordings
from .split import Split, fold_series, join_sets, split_series


@dataclass(frozen=True)
class Windows:
    """Samples of one set: where they are in its series, which lie end to end."""

    lengths: npt.NDArray[np.int64]
    """``(S,)``."""
    last: npt.NDArray[np.int64]
    """``(S,)``: the place of each sample's last step, whose class or value is that of the sample."""
    steady: npt.NDArray[np.bool_]
    """``(S,)``: whether that is the same at every step, so that any part can replace the sample."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.last)


@dataclass(frozen=True)
class SetWindows:
    """A split and the windows of its sets."""

    split: Split
    windows: dict[str, Windows]
    """By the names of ``SETS``, without ``test`` if no test set was requested."""


@dataclass(frozen=True)
class TrainingData:
    """The data of a training."""

    path: Path
    sha256: str
    """Of all files together."""
    recordings: Recordings
    sets: SetWindows
    folds: tuple[SetWindows, ...]
    """One for each fold of a cross-validation."""


def read_training_data(path: Path, config: DataConfig, *, seed: int, batch_size: int) -> TrainingData:
    """Read the data file, and separate validation and test files; split series and cut windows.

    Raises:
        NotFoundError, FileFormatError, InputError: as ``read_recordings`` and ``split_series``; or the files
            differ in kind, units are given for another number of values, a series does not fit the window, or
            there are fewer samples than a batch.
    """
    paths = (path, *(name and Path(name) for name in (config.validation_data, config.test_data)))
    recordings, validation, test = (each and read_recordings(Path(each), config) for each in paths)
    assert isinstance(recordings, Recordings)
    try:
        if validation or test:
            recordings = join_sets(recordings, validation or None, test or None)
        if config.units and len(config.units) != len(recordings.targets):
            raise InputError(  # noqa: TRY301
                f"got {counted(len(config.units), 'unit')} for "
                f"{counted(len(recordings.targets), 'value')} to predict; give one per value"
            )
        sets = _cut(split_series(recordings, config, seed), config, batch_size)
        folds = [
            _cut(fold, config, batch_size) for fold in fold_series(recordings, config.folds, config, seed)
        ]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    sha256 = hashlib.sha256()
    for each in paths:
        for file in data_files(Path(each)) if each else ():
            sha256.update(file.read_bytes())
    return TrainingData(path, sha256.hexdigest(), recordings, sets, tuple(folds))


def _cut(split: Split, config: DataConfig, batch_size: int) -> SetWindows:
    windows = {
        name: cut_windows(series, config.window, config.stride)
        for name in SETS
        if (series := getattr(split, name))
    }
    if (samples := len(windows["train"])) < batch_size:
        raise InputError(
            f"got {counted(samples, 'sample')} for training, fewer than a batch of {batch_size}; reduce "
            "--batch-size or --stride, or provide more data"
        )
    return SetWindows(split, windows)


def cut_windows(series: Sequence[Recording], window: int | None, stride: int | None) -> Windows:
    """Return windows of series, or whole series if ``window`` is None.

    Raises:
        InputError: a series is shorter than the window, or a whole series has more than one class.
    """
    lengths, last, steady = [], [], []
    begin = 0
    for one in series:
        steps = len(one.x)
        size = window or steps
        if size > steps:
            raise InputError(
                f"series {one.name!r} has {steps} steps, fewer than the window of {size}; reduce it"
            )
        assert one.y is not None
        for start in range(0, steps - size + 1, stride or size):
            y = one.y[start : start + size]
            lengths.append(size)
            last.append(begin + start + size - 1)
            steady.append(bool((y == y[-1]).all()))
        begin += steps
        if window is None and one.y.ndim == 1 and not steady[-1]:
            raise InputError(
                f"series {one.name!r} has more than one class; use --window to split it into windows"
            )
    return Windows(np.array(lengths), np.array(last), np.array(steady))
