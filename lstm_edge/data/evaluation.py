"""Data that a smaller file is judged on: samples by input name, and their truth where the file says it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_edge.cli._series import read_series

from .sample_input import sample_input

if TYPE_CHECKING:
    from lstm_edge_exporters.quantization import Samples
    from lstm_edge_runtime import Model

__all__ = ["read_samples"]

Array = npt.NDArray[Any]


def read_samples(path: Path, model: "Model") -> "Samples":
    """Read what ``lstm-edge train`` reads; of a file that names its parts, the test part.

    Columns of a ``.csv`` are picked by the names of the features where the model's file states them.

    A ``.npz`` without ``y`` and a ``.csv`` without a ``label`` column give samples without their truth.

    Raises:
        NotFoundError, FileFormatError, InputError: as the readers say.
    """
    from lstm_edge_exporters.quantization import Samples

    spec = sample_input(model)
    features = model.manifest.signal.features if model.manifest else ()
    series, truth = _with_truth(path, features) or (
        [one.x for one in read_series(path, spec.width, features)],
        None,
    )
    lengths = np.array([len(x) for x in series])
    if spec.one_step:
        return Samples({spec.spec.name: np.concatenate(series)})
    padded = np.zeros((len(series), lengths.max(), series[0].shape[1]), dtype=np.float32)
    for row, x in zip(padded, series, strict=True):
        row[: len(x)] = x
    return Samples({spec.spec.name: padded}, truth, lengths if len(set(lengths)) > 1 else None)


def _with_truth(path: Path, features: tuple[str, ...]) -> tuple[list[Array], Array] | None:
    from lstm_edge.data.arrays import read_npz
    from lstm_edge.data.tables import read_csv
    from lstm_edge.training import DataConfig

    if path.suffix == ".npz" and path.is_file() and _has_truth(path):
        recordings = read_npz(path, DataConfig())
    elif path.suffix == ".csv" and path.is_file() and _labelled(path):
        recordings = read_csv(path, DataConfig(features=features))
    else:
        return None
    part = [one for one in recordings.series if one.split == "test"] or list(recordings.series)
    last = [one.y[-1] for one in part]
    truth = np.array([recordings.labels[index] for index in last]) if recordings.labels else np.array(last)
    return [one.x for one in part], truth


def _has_truth(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as file:
            return "y" in file.files
    except Exception:  # noqa: BLE001 - damaged bytes raise nearly anything; the reader says what is wrong
        return False


def _labelled(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "label" in [name.strip() for name in file.readline().split(",")]
