"""Which recordings a page replays."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge_runtime import load
from lstm_edge_runtime.files import read_arrays

from .._samples import sample_input
from ._series import read_series

if TYPE_CHECKING:
    from lstm_edge_exporters.targets.web import Recording

__all__ = ["recordings_for"]

_MOST = 8
"""Recordings in a page."""


def recordings_for(model: Path, data: Path | None) -> "list[Recording]":
    """Return a recording of each label in ``data``, those of its test split first.

    Without ``data`` they are the demo's where ``model`` takes the same features, or none.

    Raises:
        NotFoundError, FileFormatError, ContractError: the model is not there, or is no usable model.
        InputError: ``data`` does not fit the model.
    """
    with load(model, device="cpu", threads=1) as opened:
        features = opened.manifest.signal.features if opened.manifest else ()
        if data is not None:
            return _read(data, sample_input(opened).width, features)
    with as_file(files("lstm_edge") / "data" / "basic_motions.npz") as demo:
        own = read_arrays(demo, "can't be read", "install lstm-edge again")["features"]
        return _read(demo, len(features), features) if tuple(map(str, own)) == features else []


def _read(path: Path, width: int, features: Sequence[str]) -> "list[Recording]":
    from lstm_edge_exporters.targets.web import Recording

    series = read_series(path, width, features)
    labels, order = [one.name for one in series], list(range(len(series)))
    if path.suffix == ".npz":
        arrays = read_arrays(path, "can't be read", "save plain numbers with numpy")
        if "y" in arrays and arrays["y"].shape == (len(series),):
            labels = [str(label) for label in arrays["y"]]
        if "split" in arrays and arrays["split"].shape == (len(series),):
            order.sort(key=lambda index: str(arrays["split"][index]) != "test")
    first: dict[str, int] = {}
    for index in order:
        first.setdefault(labels[index], index)
    return [
        Recording(label, series[index].x.astype(np.float32)) for label, index in list(first.items())[:_MOST]
    ]
