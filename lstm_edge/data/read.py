"""Read a data file: a table (``.csv``) or arrays (``.npz``, ``.npy``). Every verb reads data with this."""

from pathlib import Path

from lstm_edge_runtime.errors import InputError, NotFoundError

from .arrays import read_array_file
from .config import ReadConfig
from .recordings import ModelFeatures, Recordings, TargetMode
from .tables import read_csv

__all__ = ["read_recordings"]

_READERS = {".csv": read_csv, ".npz": read_array_file, ".npy": read_array_file}


def read_recordings(
    path: Path,
    config: ReadConfig | None = None,
    *,
    targets: TargetMode = "required",
    model: ModelFeatures | None = None,
) -> Recordings:
    """Read a data file in the format that its name ends in.

    Args:
        path: the file.
        config: names of columns or arrays, and the layout of arrays.
        targets: whether classes or values must be in the file, are read if they are there, or are ignored.
        model: what the model takes, to pick and check the features.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read as what its name says.
        InputError: it is empty, of another kind, or its content does not fit; the message names the row and
            column, or the array and index.
    """
    if not path.exists():
        raise NotFoundError(f"{path} is not there; name a .npz, .npy or .csv file")
    if not path.is_file():
        raise InputError(f"{path} is no file; name a .npz, .npy or .csv file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected a .npz, .npy or .csv file with samples")
    if path.suffix not in _READERS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; expected .npz, .npy or .csv")
    return _READERS[path.suffix](path, config or ReadConfig(), targets, model)
