"""Ratios of timings with bootstrap intervals."""

from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.manifest import Array

_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A ratio and its 95 % bootstrap interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} .. {self.high:.3f})"


def ratio_interval(new: Array, old: Array, *, paired: bool) -> Interval:
    """Return the ratio of ``new`` to ``old`` and its interval, by resampling rounds.

    Args:
        new: one number a round ``(rounds,)``, the median time of a block, say.
        old: the same of what it is compared with; as many rounds where ``paired``.
        paired: whether round i of both was measured side by side. Then each round's own ratio is resampled,
            so that what slowed both down at once cancels; else the two are resampled apart.

    The bootstrap is the percentile one (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
    chapter 13) on the median, seeded: the same numbers give the same interval.
    """
    generator = np.random.default_rng(0)
    if paired:
        ratios = new / old
        drawn = np.median(_resample(ratios, generator), axis=1)
        middle = float(np.median(ratios))
    else:
        drawn = np.median(_resample(new, generator), axis=1) / np.median(_resample(old, generator), axis=1)
        middle = float(np.median(new) / np.median(old))
    edge = (1 - _CONFIDENCE) / 2
    low, high = (float(value) for value in np.quantile(drawn, [edge, 1 - edge]))
    return Interval(middle, low, high)


def _resample(values: Array, generator: np.random.Generator) -> Array:
    picked: Array = values[generator.integers(0, len(values), (_RESAMPLES, len(values)))]
    return picked
