"""Real data as cases: single samples, and a long run of them one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array, Axes, Manifest

from ..chunks import take_steps

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


def sample_feeds(samples: Samples, manifest: Manifest, most: int = _MAX_SAMPLES) -> list[dict[str, Array]]:
    """Return the data inputs of ``selected`` samples, batch axis of 1 included, cut to their whole units.

    Raises:
        InputError: as ``check_samples``.
    """
    check_samples(samples, manifest)
    return [_sample(samples, manifest, index) for index in selected(samples, most)]


def _sample(samples: Samples, manifest: Manifest, index: int) -> dict[str, Array]:
    feeds = {}
    for spec in manifest.data_inputs:
        row, batch = samples.inputs[spec.name][index], manifest.batch_axis(spec.axes)
        feeds[spec.name] = (row if batch is None else np.expand_dims(row, batch)).astype(spec.dtype)
    steps = manifest.steps(feeds) if samples.lengths is None else int(samples.lengths[index])
    return take_steps(manifest.time_axes, feeds, 0, steps // manifest.unit * manifest.unit)


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


def selected(samples: Samples, most: int = _MAX_SAMPLES) -> list[int]:
    """Return the indices of the samples that are judged: at most ``most``, evenly spread."""
    count = len(next(iter(samples.inputs.values())))
    return [round(place) for place in np.linspace(0, count - 1, min(count, most))]


def _row_axes(axes: Axes, manifest: Manifest) -> Axes:
    return tuple(axis for axis in axes if axis != manifest.batch)


def check_samples(samples: Samples, manifest: Manifest) -> None:
    """Refuse data that does not fit a file.

    Raises:
        InputError: an input that is missing or unknown, not finite, of numbers that its dtype can't hold, or
            with lengths that do not fit; or arrays of unequal counts.
    """
    names = {spec.name for spec in manifest.data_inputs}
    if set(samples.inputs) != names:
        raise InputError(
            f"the data has {sorted(samples.inputs)}, the file takes {sorted(names)}; name each once"
        )
    others = {"targets": samples.targets, "lengths": samples.lengths}
    counts = {name: len(array) for name, array in {**samples.inputs, **others}.items() if array is not None}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"the data holds {counts} samples; expected one count above 0")
    for spec in manifest.data_inputs:
        name, dtype, axes = spec.name, np.dtype(spec.dtype), _row_axes(spec.axes, manifest)
        array = samples.inputs[name]
        if array.ndim != 1 + len(axes):
            raise InputError(
                f"{name} has shape {array.shape}; expected (samples, {', '.join(map(str, axes))})"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinity; clean the data first")
        with np.errstate(invalid="ignore"):
            if dtype.kind in "iu" and (array.astype(dtype) != array).any():
                raise InputError(f"{name} holds {array.min()}..{array.max()}, expected {dtype} numbers")
        time = manifest.time_axis(axes)
        if samples.lengths is not None and time is not None:
            low, high, longest = min(samples.lengths), max(samples.lengths), array.shape[1 + time]
            if not 1 <= low <= high <= longest:
                raise InputError(f"lengths holds {low}..{high}; expected 1..{longest}, the steps of {name}")


def class_numbers(targets: Array, manifest: Manifest) -> Array:
    """Return class numbers ``(samples,)``; names are turned into them.

    Raises:
        InputError: a class that the file does not know.
    """
    task = manifest.task
    assert task is not None
    width = next(spec.width for spec in manifest.outputs if spec.name == task.output)
    if targets.dtype.kind in "US":
        numbers = {name: number for number, name in enumerate(task.labels)}
        unknown = sorted({str(name) for name in targets} - set(numbers))
        if unknown:
            known = ", ".join(numbers) or "none by name"
            raise InputError(f"the data has the class {unknown[0]!r}; the file knows {known}")
        return np.array([numbers[str(name)] for name in targets])
    whole = targets.dtype.kind in "iu" and targets.ndim == 1 and targets.min() >= 0
    if not whole or (isinstance(width, int) and targets.max() >= width):
        raise InputError(
            f"the truth is {targets.dtype} {targets.shape}; expected ({len(targets)},) class names or "
            f"numbers below {width}"
        )
    return targets
