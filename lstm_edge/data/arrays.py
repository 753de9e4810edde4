"""Read arrays from NumPy's files."""

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.reading import checked


def read_arrays(
    path: str | os.PathLike[str], wrong: str, advice: str, needed: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name, or an ``.npy`` file's as ``x``; no pickle is ever opened.

    Args:
        path: the file.
        wrong: what to call one that can't be read: ``can't be read``.
        advice: what to do then, and if it does not exist.
        needed: names that the file must contain.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read: not a regular file, truncated, damaged, foreign, or with a pickle.
    """

    def read(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
        found = np.load(file, allow_pickle=False)
        arrays = {"x": found} if isinstance(found, np.ndarray) else dict(found)
        if wrong_members := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{wrong_members[0]!r} is not an array")
        return arrays

    return checked(path, read, wrong, advice, needed)
