"""The one data type: series of steps, with a class or values at each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Signal, Task

SETS = ("train", "validation", "test")
"""Valid values of ``Series.split``."""


@dataclass(frozen=True, slots=True)
class Series:
    """One recording."""

    name: str
    """Id of the series."""
    group: str
    """Subject, or whatever else must not be in two sets."""
    split: str
    """One of ``SETS``; empty until the series are split."""
    x: npt.NDArray[Any]
    """Features in the units of the data, finite, float32 ``(L, I)``."""
    y: npt.NDArray[Any]
    """Target of each step: the class, int64 ``(L,)``, or values, float32 ``(L, C)``;
    zeros if none were read."""

    def __len__(self) -> int:
        """Return the number of steps ``L``."""
        return len(self.x)

    def cut(self, start: int, stop: int, split: str = "") -> "Series":
        """Return consecutive steps of the series, without a copy."""
        name = f"{self.name} [{start}:{stop}]"
        return replace(
            self,
            name=name,
            split=split or self.split,
            x=self.x[start:stop],
            y=self.y[start:stop],
        )


@dataclass(frozen=True)
class Data:
    """The contents of data files."""

    series: tuple[Series, ...]
    """All recordings."""
    task: Task | None
    """Names of the classes or values; None if none were read."""
    signal: Signal
    """Names and sampling rate of the features."""
    notes: tuple[str, ...] = ()
    """Facts about the data that a reader of scores should know."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for values."""
        return (
            self.task.labels if self.task and self.task.kind == "classification" else ()
        )

    def of(self, split: str) -> list[Series]:
        """Return the series of one set."""
        return [record for record in self.series if record.split == split]


def are_joined(series: Sequence[Series], window: int | None) -> bool:
    """Return True if a stream goes on from one series to the next, as a live sensor
    does.

    Series that change their class, and series of values, start from reset.
    """
    return window is None or all(
        record.y.ndim == 1 and not np.ptp(record.y) for record in series
    )


def windows_of(
    series: Sequence[Series], window: int | None, stride: int | None = None
) -> list[Series]:
    """Return the windows of series, a shorter series whole, or all series whole if
    ``window`` is None.
    """
    if window is None:
        return list(series)
    windows: list[Series] = []
    for record in series:
        last_start = max(len(record) - window, 0)
        starts = range(0, last_start + 1, stride or window)
        windows.extend(record.cut(start, start + window) for start in starts)
    return windows
