"""What a score must beat: predictions that need no network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .series import SeriesSet

_PERSISTENT = 0.5
"""Change from step to step, in standard deviations, up to which persistence is hard to beat."""
_LAGS, _CRITICAL = 8, -2.86
"""Changes before the present one that the Dickey-Fuller test takes into account, and its 5 % quantile."""
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
        before = rows + 1 - season
        there = torch.where(before >= series.begin[series.owner(rows)], before, rows)
        found.append(Baseline(f"one season of {season} steps ago", values[there]))
    return found


def persists(series: Sequence[npt.NDArray[np.floating]]) -> bool:
    """Return whether every channel wanders: its next value is near to the present one, at whatever level.

    The change from step to step is small, and the augmented Dickey-Fuller test (Said and Dickey, "Testing for
    unit roots in autoregressive-moving average models of unknown order", Biometrika 1984) does not reject a
    unit root at 5 % in half of the series or more.

    Args:
        series: ``(L, C)`` each; those of few steps are not tested.
    """
    values = np.concatenate([one - one.mean(axis=0) for one in series])
    changes = np.concatenate([np.diff(one, axis=0) for one in series])
    small = np.sqrt((changes**2).mean(axis=0)) <= _PERSISTENT * values.std(axis=0)
    long = [one for one in series if len(one) > 4 * _LAGS]
    return bool(long) and all(
        small[column] and np.median([_root_statistic(one[:, column]) for one in long]) > _CRITICAL
        for column in range(values.shape[1])
    )


def _root_statistic(values: npt.NDArray[np.floating]) -> float:
    """Return the Dickey-Fuller t statistic of ``(L,)``, with a constant."""
    changes = np.diff(values.astype(np.float64))
    lagged = [changes[_LAGS - lag : len(changes) - lag] for lag in range(1, _LAGS + 1)]
    x, y = np.column_stack([values[_LAGS:-1], *lagged]), changes[_LAGS:]
    x, y = x - x.mean(axis=0), y - y.mean()
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    variance = ((y - x @ found) ** 2).sum() / (len(x) - _LAGS - 2) * np.linalg.pinv(x.T @ x)[0, 0]
    return float(found[0] / np.sqrt(variance)) if variance > 0 else 0.0


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
