"""What a score must beat: predictions that need no network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .series import SeriesSet

__all__ = ["Baseline", "find_season", "forecast_baselines", "majority_baseline", "mean_baseline"]

_CORRELATED = 0.3
"""Least autocorrelation at a season's lag."""
_PEAK = 0.9
"""As a fraction of the highest one: a season's multiples correlate as highly as the season."""


@dataclass(frozen=True)
class Baseline:
    """Predictions for some steps of a set."""

    name: str
    """Reads behind "RMSE of" a value or "accuracy of"."""
    values: Tensor
    """Class indices ``int64 (K,)``, or values in their own units ``float64 (K, C)``."""


def majority_baseline(y: Tensor, labels: Sequence[str], count: int) -> Baseline:
    """Return the most frequent class of the training samples ``y (S,)``, ``count`` times."""
    most = int(torch.bincount(y).argmax())
    return Baseline(f"always {labels[most]!r}", torch.full((count,), most))


def mean_baseline(mean: Sequence[float], count: int) -> Baseline:
    """Return the mean of the training targets, ``count`` times."""
    return Baseline("the mean", torch.tensor(mean, dtype=torch.float64).expand(count, -1))


def forecast_baselines(values: Tensor, series: SeriesSet, rows: Tensor, season: int | None) -> list[Baseline]:
    """Return persistence and the seasonal naive forecast of the next step.

    Args:
        values: ``float64 (T, C)``, what is forecast as it is at each step of the set.
        series: the set.
        rows: ``int64 (K,)``, the steps at which the next one is forecast.
        season: steps of a season; where none has passed yet, its forecast is persistence.
    """
    found = [Baseline("the same as now", values[rows])]
    if season is not None:
        owner = torch.searchsorted(series.begin, rows, right=True) - 1
        before = rows + 1 - season
        there = torch.where(before >= series.begin[owner], before, rows)
        found.append(Baseline(f"one season of {season} steps ago", values[there]))
    return found


def find_season(series: Sequence[npt.NDArray[np.floating]]) -> int | None:
    """Return how many steps a season takes: the lag of the first high peak of the autocorrelation, or None.

    Each array ``(L, C)`` is a series. The autocorrelations of all series and channels are averaged. A peak
    lies behind the first negative value, up to half of the longest series, and is at least 0.3.
    """
    most = max(len(one) for one in series) // 2 + 1
    total, pairs = np.zeros(most), np.zeros(most)
    for one in series:
        centered, lags = one - one.mean(axis=0), len(one) // 2 + 1
        centered = centered[:, centered.any(axis=0)]
        if centered.size:
            power = np.abs(np.fft.rfft(centered, 2 * len(one), axis=0)) ** 2
            sums = np.fft.irfft(power, axis=0)[:lags]
            total[:lags] += (sums / sums[0]).mean(axis=1) * len(one)
            pairs[:lags] += len(one) - np.arange(lags)
    correlation = total / np.maximum(pairs, 1)
    negative = np.flatnonzero(correlation < 0)
    if not len(negative):
        return None
    behind = correlation[negative[0] :]
    high = np.flatnonzero(behind >= max(_CORRELATED, _PEAK * behind.max()))
    if not len(high):
        return None
    first = high[: np.flatnonzero(np.diff(high, append=len(behind) + 1) > 1)[0] + 1]
    return int(negative[0] + first[behind[first].argmax()])
