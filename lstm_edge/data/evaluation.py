"""Evaluation data for a model: samples by input name, and their classes or values if known."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .config import ReadConfig
from .read import ModelFeatures, TargetMode, read_data
from .sample_input import SampleInput, sample_input
from .series import Data

if TYPE_CHECKING:
    from lstm_edge_exporters.quantize import Samples
    from lstm_edge_runtime import Model


def read_for_model(
    path: Path, model: "Model", config: ReadConfig, *, targets: TargetMode, tell: Callable[[str], None]
) -> tuple[Data, SampleInput]:
    """Read a data file with the features of ``model``, and return the input for them.

    ``tell`` is called with notes about the data for the user; raises as ``read_data`` and ``sample_input``.
    """
    place = sample_input(model)
    signal = model.manifest.signal
    data = read_data(path, config, targets=targets, model=ModelFeatures(signal.features, place.width))
    for note in data.notes:
        tell(note)
    rate, trained = data.signal.sampling_rate, signal.sampling_rate
    if rate and trained and abs(rate / trained - 1) > 0.01:
        tell(
            f"{path} has {rate:g} samples per second, the model was trained at {trained:g}; "
            f"--rate {trained:g} resamples data with timestamps"
        )
    return data, place


def read_samples(path: Path, model: "Model", config: ReadConfig, tell: Callable[[str], None]) -> "Samples":
    """Read data as ``lstm-edge train`` does; the test set if the file defines its sets.

    Series are cut into consecutive windows if streams of the model are reset every window.

    Raises:
        NotFoundError, FileFormatError, InputError: as ``read_for_model``.
    """
    from lstm_edge_exporters.quantize import Samples

    data, place = read_for_model(path, model, config, targets="optional", tell=tell)
    series = data.of("test") or list(data.series)
    if window := model.manifest.reset_every:
        series = [
            one.cut(start, start + window)
            for one in series
            for start in range(0, max(len(one) - window, 0) + 1, window)
        ]
    if place.one_step:
        return Samples({place.spec.name: place.steps(np.concatenate([one.x for one in series]))})
    truth = None
    if data.task:
        last = [one.y[-1] for one in series]
        truth = np.array([data.classes[index] for index in last] if data.classes else last)
    lengths = np.array([len(one) for one in series])
    padded = np.zeros((len(series), lengths.max(), series[0].x.shape[1]), np.float32)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one.x
    return Samples({place.spec.name: place.rows(padded)}, truth, lengths if len(set(lengths)) > 1 else None)
