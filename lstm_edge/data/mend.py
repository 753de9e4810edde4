"""Fill in missing values, and resample timestamped samples to one rate."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError, counted

from .config import ReadConfig
from .recordings import Recording, Recordings

_JITTER, _RATE = 0.1, 0.01
"""Relative differences from the usual interval between samples, and of rates, that are not reported."""


def mend_missing(path: Path, recordings: Recordings, mode: str) -> Recordings:
    """Return recordings without NaN in their features.

    Args:
        path: for messages.
        recordings: with NaN for missing features.
        mode: ``interpolate`` or ``drop-row``.

    Raises:
        InputError: all values of a feature, or all steps of a series, are missing.
    """
    mended, gaps, steps = [], 0, 0
    for one in recordings.series:
        lacking = np.isnan(one.x)
        gaps, steps = gaps + int(lacking.sum()), steps + int(lacking.any(axis=1).sum())
        if not lacking.any():
            mended.append(one)
            continue
        if lacking.all(axis=0).any() or lacking.any(axis=1).all():
            raise InputError(
                f"{path}: series {one.name!r} has a feature, or all of its steps, with only missing values"
            )
        mended.append(_interpolate(one, lacking) if mode == "interpolate" else one.take(~lacking.any(axis=1)))
    if not gaps:
        return recordings
    total = sum(one.x.size for one in recordings.series)
    done, advice = (
        (f"{gaps} of {total} feature values were missing and interpolated", "a device has to fill in its own")
        if mode == "interpolate"
        else (f"{counted(steps, 'step')} with missing features were dropped", "")
    )
    note = f"{done}; {advice}" if advice else done
    return replace(recordings, series=tuple(mended), missing=done, notes=(*recordings.notes, note))


def _interpolate(one: Recording, lacking: npt.NDArray[np.bool_]) -> Recording:
    x, steps = one.x.copy(), np.arange(len(one.x))
    for column, gaps in zip(x.T, lacking.T, strict=True):
        column[gaps] = np.interp(steps[gaps], steps[~gaps], column[~gaps])
    return replace(one, x=x)


def mend_rate(
    recordings: Recordings, times: Sequence[npt.NDArray[np.float64]], config: ReadConfig
) -> Recordings:
    """Return recordings with the rate of their timestamps, or resampled to the requested rate.

    Features and values are interpolated linearly; classes are those of the previous sample.

    Args:
        recordings: the series, in order.
        times: of each series, seconds ``(L,)``, increasing.
        config: with the requested rate, if any.
    """
    gaps = np.concatenate([np.diff(each) for each in times])
    if not gaps.size:
        return recordings
    usual = float(np.median(gaps))
    odd = int((np.abs(gaps - usual) > _JITTER * usual).sum())
    asked = config.sampling_rate
    if asked is None or (not odd and abs(asked * usual - 1) <= _RATE):
        note = (
            f"{odd} of {len(gaps)} intervals differ from the usual {usual:.4g} s by more than {_JITTER:.0%}; "
            "--rate resamples to one rate"
        )
        notes = (*recordings.notes, *((note,) if odd else ()))
        return replace(recordings, sampling_rate=asked or float(f"{1 / usual:.6g}"), notes=notes)
    series = tuple(_resample(one, each, asked) for one, each in zip(recordings.series, times, strict=True))
    note = f"resampled from about {1 / usual:.4g} Hz to {asked:g} Hz by their timestamps"
    return replace(recordings, series=series, sampling_rate=asked, notes=(*recordings.notes, note))


def _resample(one: Recording, times: npt.NDArray[np.float64], rate: float) -> Recording:
    count = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1
    grid = times[0] + np.arange(count) / rate
    y = one.y
    if y is not None and y.ndim == 1:
        y = y[np.clip(np.searchsorted(times, grid + 1e-9, side="right") - 1, 0, None)]
    elif y is not None:
        y = _on_lines(grid, times, y).astype(y.dtype)
    return replace(one, x=_on_lines(grid, times, one.x), y=y)


def _on_lines(
    grid: npt.NDArray[np.float64], times: npt.NDArray[np.float64], values: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    return np.stack([np.interp(grid, times, column) for column in values.T], axis=1)
