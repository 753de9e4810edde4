"""Real data as cases: single samples, and a long run of them one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array, Axes, Manifest

__all__ = ["Samples", "join_samples", "sample_feeds", "selected"]

_MAX_SAMPLES = 1000


@dataclass(frozen=True)
class Samples:
    """Real data to judge on, one sample after another, each from a reset state."""

    inputs: Mapping[str, Array]
    """Per graph input that is neither a state nor ``lengths``: ``(samples, ...)``, then the input's axes
    without its batch axis, so ``(samples, L, I)`` for ``x``."""
    targets: Array | None = None
    """``(samples,)`` class numbers or names, or ``(samples, C)`` values for regression."""
    lengths: Array | None = None
    """``(samples,)`` valid steps of each sample; None where all are full."""


def sample_feeds(samples: Samples, manifest: Manifest) -> list[dict[str, Array]]:
    """Return the data inputs of each selected sample, batch axis of 1 included, cut to its length.

    Raises:
        InputError: an input that is missing or unknown, not finite, or with lengths that do not fit; or
            arrays of unequal counts.
    """
    specs = {spec.name: spec for spec in manifest.data_inputs}
    if set(samples.inputs) != set(specs):
        raise InputError(
            f"the data has {sorted(samples.inputs)}, the file takes {sorted(specs)}; name each once"
        )
    axes = {name: tuple(axis for axis in spec.axes if axis != manifest.batch) for name, spec in specs.items()}
    _check(samples, axes, manifest.sequence)
    return [
        {name: _sample(samples, manifest, specs[name].axes, name, index) for name in specs}
        for index in selected(samples)
    ]


def join_samples(feeds: Sequence[Mapping[str, Array]], manifest: Manifest, steps: int) -> dict[str, Array]:
    """Return one long sample of ``steps`` time steps: all of them one after another, repeated as needed.

    Inputs without a time axis are the first sample's.
    """
    joined = dict(feeds[0])
    for name, axis in manifest.time_axes.items():
        if name in joined:
            every = np.concatenate([each[name] for each in feeds[:steps]], axis=axis)
            joined[name] = every.take(np.arange(steps) % every.shape[axis], axis=axis)
    return joined


def selected(samples: Samples) -> list[int]:
    """Return the indices of the samples that are judged: at most 1,000, evenly spread."""
    count = len(next(iter(samples.inputs.values())))
    return [round(place) for place in np.linspace(0, count - 1, min(count, _MAX_SAMPLES))]


def _sample(samples: Samples, manifest: Manifest, axes: Axes, name: str, index: int) -> Array:
    array = samples.inputs[name][index]
    row_axes = tuple(axis for axis in axes if axis != manifest.batch)
    time = manifest.time_axis(row_axes)
    if samples.lengths is not None and time is not None:
        array = array.take(range(samples.lengths[index]), axis=time)
    batch = manifest.batch_axis(axes)
    return array if batch is None else np.expand_dims(array, batch)


def _check(samples: Samples, row_axes: Mapping[str, Axes], sequence: str | None) -> None:
    """Refuse what does not fit ``row_axes``, the axes of one sample of each input."""
    others = {"targets": samples.targets, "lengths": samples.lengths}
    counts = {name: len(array) for name, array in {**samples.inputs, **others}.items() if array is not None}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"the data holds {counts} samples; expected one count above 0")
    for name, axes in row_axes.items():
        array = samples.inputs[name]
        if array.ndim != 1 + len(axes):
            raise InputError(
                f"{name} has shape {array.shape}; expected (samples, {', '.join(map(str, axes))})"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinity; clean the data first")
        if samples.lengths is not None and sequence in axes:
            low, high, longest = (
                min(samples.lengths),
                max(samples.lengths),
                array.shape[1 + axes.index(sequence)],
            )
            if not 1 <= low <= high <= longest:
                raise InputError(f"lengths holds {low}..{high}; expected 1..{longest}, the steps of {name}")
