"""Evaluation data for a model: samples by input name, and their classes or values if known."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import counted

from .config import ReadConfig
from .read import read_recordings
from .recordings import ModelFeatures, Recording, Recordings, TargetMode
from .sample_input import SampleInput, sample_input

if TYPE_CHECKING:
    from lstm_edge_exporters.quantization import Samples
    from lstm_edge_runtime import Model


def read_for_model(
    path: Path, model: "Model", config: ReadConfig, *, targets: TargetMode, tell: Callable[[str], None]
) -> tuple[Recordings, SampleInput]:
    """Read a data file with the features of ``model``, and return the input for them.

    Args:
        path: the data file.
        model: an open model.
        config: names of columns or arrays.
        targets: whether classes or values are read.
        tell: called with notes about the data for the user.

    Raises:
        NotFoundError, FileFormatError, InputError: as ``read_recordings`` and ``sample_input``.
    """
    place = sample_input(model)
    signal = model.manifest.signal
    features = ModelFeatures(signal.features, place.width)
    recordings = read_recordings(path, config, targets=targets, model=features)
    for note in recordings.notes:
        tell(note)
    rate, trained = recordings.sampling_rate, signal.sampling_rate
    if rate and trained and abs(rate / trained - 1) > 0.01:
        tell(f"{path} has {rate:g} samples per second, the model was trained at {trained:g}")
    steps = len(recordings.series[0].x)
    alone = len(recordings.series) == 1 and path.suffix in (".csv", ".parquet") and config.series is None
    if alone and (targets == "optional" or (signal.window and steps > signal.window)):
        tell(
            f"{path} is read as one series of {counted(steps, 'step')}; name the column with the series id "
            "with --series"
        )
    return recordings, place


def read_samples(path: Path, model: "Model", config: ReadConfig, tell: Callable[[str], None]) -> "Samples":
    """Read data as ``lstm-edge train`` does; the test set if the file defines its sets.

    Series are cut into consecutive windows if streams of the model are reset every window.

    Raises:
        NotFoundError, FileFormatError, InputError: as ``read_for_model``.
    """
    from lstm_edge_exporters.quantization import Samples

    recordings, place = read_for_model(path, model, config, targets="optional", tell=tell)
    series = [one for one in recordings.series if one.split == "test"] or list(recordings.series)
    if window := model.manifest.reset_every:
        series = [part for one in series for part in _windows(one, window)]
    last = [one.y[-1] for one in series if one.y is not None]
    truth = np.array([recordings.labels[index] for index in last] if recordings.labels else last)
    if place.one_step:
        return Samples({place.spec.name: place.steps(np.concatenate([one.x for one in series]))})
    padded, lengths = _pad([one.x for one in series])
    return Samples(
        {place.spec.name: place.rows(padded)},
        truth if last else None,
        lengths if len(set(lengths)) > 1 else None,
    )


def _windows(series: Recording, window: int) -> list[Recording]:
    """Return the windows of a series, end to end; all of one that is shorter."""
    starts = range(0, max(len(series.x) - window, 0) + 1, window)
    return [series.take(slice(at, at + window)) for at in starts]


def _pad(series: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return series ``(L, I)`` as one array ``(S, longest L, I)``, zeros behind each, and their lengths."""
    lengths = np.array([len(one) for one in series])
    padded = np.zeros((len(series), lengths.max(), series[0].shape[1]), np.float32)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    return padded, lengths
