"""Which recordings a page replays."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.evaluation import read_for_model
from lstm_edge.data.read import read_recordings
from lstm_edge.data.recordings import Recordings
from lstm_edge_runtime import load

from ._data import note

if TYPE_CHECKING:
    from lstm_edge_exporters.targets.web import Recording

__all__ = ["recordings_for"]

_MOST = 8
"""Recordings in a page."""


def recordings_for(model: Path, data: Path | None) -> "list[Recording]":
    """Return one recording of each label in ``data``, of its test set where it names one.

    Without ``data`` they are the demo's where ``model`` takes the same features, or none.

    Raises:
        NotFoundError, FileFormatError, ContractError: the model or the data can't be read.
        InputError: ``data`` does not fit the model.
    """
    with load(model, device="cpu", threads=1) as opened:
        if data is not None:
            found, _ = read_for_model(data, opened, ReadConfig(), targets="optional", tell=note)
            return _one_of_each(found)
        features = opened.interface.signal.features
    with as_file(files("lstm_edge") / "data" / "basic_motions.npz") as path:
        demo = read_recordings(path)
    return _one_of_each(demo) if demo.features == features else []


def _one_of_each(found: Recordings) -> "list[Recording]":
    from lstm_edge_exporters.targets.web import Recording

    first: dict[str, Recording] = {}
    for one in sorted(found.series, key=lambda series: series.split != "test"):
        label = found.labels[one.y[-1]] if one.y is not None and found.labels else one.name
        first.setdefault(label, Recording(label, one.x))
    return list(first.values())[:_MOST]
