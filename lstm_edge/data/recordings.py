"""Series of samples with their classes or values, as read from a data file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError, did_you_mean

SETS = ("train", "validation", "test")
"""Valid values of ``split``."""
TargetMode = Literal["required", "optional", "ignored"]
"""Whether classes or values must be in the file, are read if present, or are not read."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ModelFeatures:
    """The features of a model."""

    names: tuple[str, ...]
    """Empty if the model's file does not name them."""
    width: int


@dataclass(frozen=True)
class Recording:
    """One series."""

    name: str
    """Its id in a table; its index in an array."""
    group: str
    """Recordings of one group are never in two sets."""
    x: npt.NDArray[Any]
    """``(L, I)``, finite, also as float32."""
    y: npt.NDArray[Any] | None
    """Of each step: class indices ``int64 (L,)``, or values ``float32 (L, C)``; None if not read."""
    split: str = ""
    """One of ``SETS`` if the file defines it."""

    def take(self, steps: slice | npt.NDArray[Any]) -> "Recording":
        """Return some steps of the series: a slice, their indices or a mask."""
        return replace(self, x=self.x[steps], y=None if self.y is None else self.y[steps])


@dataclass(frozen=True)
class Recordings:
    """The contents of a data file."""

    series: tuple[Recording, ...]
    labels: tuple[str, ...] = ()
    """Class names, sorted; empty for values."""
    targets: tuple[str, ...] = ()
    """Names of the values; empty for classes."""
    features: tuple[str, ...] = ()
    """Empty if unknown."""
    sampling_rate: float | None = None
    """Hertz."""
    missing: str = ""
    """How missing features were handled; empty if none were missing."""
    notes: tuple[str, ...] = ()
    """Notes about changes to the data and irregularities in them."""


def relabeled(parts: Sequence[Recordings]) -> list[Recordings]:
    """Return recordings with the same class indices: those of the sorted names of all recordings."""
    labels = tuple(sorted({label for part in parts for label in part.labels}))
    found = []
    for part in parts:
        index = np.array([labels.index(label) for label in part.labels], dtype=np.int64)
        series = tuple(
            one if one.y is None or not part.labels else replace(one, y=index[one.y]) for one in part.series
        )
        found.append(replace(part, series=series, labels=labels))
    return found


def usable(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which numbers are finite, also as float32."""
    with np.errstate(over="ignore"):  # for float16 the bound itself is infinite
        fits: npt.NDArray[np.bool_] = np.isfinite(values) & (np.abs(values) <= _LARGEST)
    return fits


def missing_name(path: Path, kind: str, name: str, available: Sequence[str], advice: str = "") -> InputError:
    """Return the error for a column or array that is not in the file; suggests the nearest name."""
    text = f"{path} has no {kind} {name!r} (it has {', '.join(available) or 'none'})"
    return InputError("; ".join(filter(None, (text, did_you_mean(name, available), advice))))
