"""Cut series into windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError

from .recordings import Recording


@dataclass(frozen=True)
class Windows:
    """Samples of one set, padded to one length."""

    x: npt.NDArray[np.float32]
    """``(S, L, I)``, zeros past each sample's length."""
    lengths: npt.NDArray[np.int64]
    """``(S,)``."""
    y: npt.NDArray[Any]
    """Class indices ``int64 (S,)`` or values ``float32 (S, C)``: those of the last valid step."""
    steady: npt.NDArray[np.bool_]
    """``(S,)``: whether ``y`` is the same at every step, so that any part can replace the sample."""
    last: npt.NDArray[np.int64]
    """``(S,)``: the place of each sample's last step in all series of the set, end to end."""


def cut_windows(series: Sequence[Recording], window: int | None, stride: int | None) -> Windows:
    """Return windows of series, or whole series if ``window`` is None.

    Raises:
        InputError: a series is shorter than the window, or a whole series has more than one class.
    """
    pieces, targets, steady, last = [], [], [], []
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
            pieces.append(one.x[start : start + size])
            targets.append(y[-1])
            steady.append(bool((y == y[-1]).all()))
            last.append(begin + start + size - 1)
        begin += steps
        if window is None and one.y.ndim == 1 and not steady[-1]:
            raise InputError(
                f"series {one.name!r} has more than one class; use --window to split it into windows"
            )
    return Windows(*pad(pieces), np.stack(targets), np.array(steady), np.array(last))


def pad(series: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return series ``(L, I)`` as one array ``(S, longest L, I)``, zeros behind each, and their lengths."""
    lengths = np.array([len(one) for one in series])
    padded = np.zeros((len(series), lengths.max(), series[0].shape[1]), np.float32)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    return padded, lengths
