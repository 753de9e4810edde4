"""Series of samples with what is to be learned from them, before they are cut into windows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Recording", "Recordings", "usable"]

_LARGEST = float(np.finfo(np.float32).max)


def usable(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say of each number whether training can take it: finite, also as the float32 that it is done in."""
    with np.errstate(over="ignore"):  # for float16 the bound itself is infinite
        fits: npt.NDArray[np.bool_] = np.isfinite(values) & (np.abs(values) <= _LARGEST)
    return fits


@dataclass(frozen=True)
class Recording:
    """One series."""

    name: str
    group: str
    """Recordings of one group stay in one part."""
    x: npt.NDArray[np.float32]
    """``(T, I)``, finite."""
    y: npt.NDArray[Any]
    """What holds at each step: class indices ``int64 (T,)``, or values ``float32 (T, C)``."""
    split: str = ""
    """``train``, ``validation`` or ``test`` where the file says so."""


@dataclass(frozen=True)
class Recordings:
    """What a data file holds."""

    series: tuple[Recording, ...]
    labels: tuple[str, ...]
    """Class names, sorted; empty for values."""
    targets: tuple[str, ...]
    """Names of the values; empty for classes."""
    features: tuple[str, ...]
    """Empty where unknown."""
    sampling_rate: float | None
    """Hertz."""
