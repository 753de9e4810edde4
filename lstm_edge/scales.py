"""Read the scaling of a checkpoint from a file, as scikit-learn's StandardScaler and MinMaxScaler have it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.files import malformed_as, read_arrays, read_json

from .lstm1 import LSTM1

_EXPECTED = (
    'expected {"x": {"mean": [...], "std": [...]}} or {"x": {"min": [...], "max": [...]}}, and "y" for '
    "values; or an .npz with arrays such as x_mean and x_std"
)


def read_scales(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for ``x`` and ``y``, where given, what is subtracted and divided by, float64 ``(columns,)``.

    A JSON file has objects ``x`` and ``y``, an ``.npz`` arrays ``x_mean``, ``x_std`` and so on: ``mean`` and
    ``std``, or ``min`` and ``max``, which are scaled to 0 and 1. As in scikit-learn, a column without spread
    is divided by 1. Raises NotFoundError and FileFormatError.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; {_EXPECTED}")
    with malformed_as(FileFormatError, f"{path} is not a scale", _EXPECTED):
        if path.suffix == ".npz":
            found = {name: array.tolist() for name, array in read_arrays(path, "can't be read", "").items()}
        else:
            found = {
                f"{side}_{name}": values
                for side, each in dict(read_json(path.read_bytes())).items()
                for name, values in dict(each).items()
            }
        scales = {side: _scale(found, side) for side in "xy" if any(name[:2] == f"{side}_" for name in found)}
        if not scales or len(found) != 2 * len(scales):
            raise ValueError(f"it has {', '.join(found) or 'nothing'}")
    return scales


def _scale(found: Mapping[str, Any], side: str) -> tuple[Tensor, Tensor]:
    low, high = ("min", "max") if f"{side}_min" in found else ("mean", "std")
    first, second = (
        torch.tensor(found[f"{side}_{name}"], dtype=torch.float64).reshape(-1) for name in (low, high)
    )
    spread = second - first if low == "min" else second
    return first, torch.where(spread == 0, 1.0, spread)


def with_scales(model: LSTM1, path: Path) -> LSTM1:
    """Set the scales of a file on a network that has none, and return it; raises as ``read_scales``."""
    if model.x_mean is not None:
        raise InputError(f"the network has scales of its own; remove --scale {path}")
    try:
        return model.set_scales(**read_scales(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
