"""Real data as cases: single samples, and a long run of them one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.chunks import take_steps
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array, Manifest, TensorSpec

_MAX_SAMPLES = 1000


@dataclass(frozen=True)
class Samples:
    """Real data to judge on, one sample after another, each from a reset state."""

    inputs: Mapping[str, Array]
    """Per graph input that is neither a state nor ``lengths``: ``(samples, ...)``, then
    the input's axes without its batch axis, so ``(samples, L, I)`` for ``x``."""
    targets: Array | None = None
    """``(samples,)`` class numbers or names, or ``(samples, C)`` values for
    regression."""
    lengths: Array | None = None
    """``(samples,)`` valid steps of each sample; None if all are full."""


def sample_feeds(
    samples: Samples, manifest: Manifest, most: int = _MAX_SAMPLES
) -> list[dict[str, Array]]:
    """Return the data inputs of ``selected`` samples, batch axis of 1 included, cut to
    their whole units.

    Raises:
        InputError: as ``check_samples``, or a sample shorter than a unit.
    """
    check_samples(samples, manifest)
    return [_sample(samples, manifest, index) for index in selected(samples, most)]


def _sample(samples: Samples, manifest: Manifest, index: int) -> dict[str, Array]:
    """Return the inputs of one sample, cut to whole units."""
    feeds = {}
    for spec in manifest.data_inputs:
        row = samples.inputs[spec.name][index]
        batch = manifest.batch_axis(spec.axes)
        if batch is not None:
            row = np.expand_dims(row, batch)
        feeds[spec.name] = row.astype(spec.dtype)
    steps = manifest.steps(feeds)
    if samples.lengths is not None:
        steps = int(samples.lengths[index])
    whole_units = steps // manifest.unit * manifest.unit
    if not whole_units:
        raise InputError(
            f"sample {index} has {steps} steps, expected {manifest.unit} or more, the"
            " unit of the file; leave it out"
        )
    return take_steps(manifest.time_axes, feeds, start=0, stop=whole_units)


def join_samples(
    feeds: Sequence[Mapping[str, Array]], manifest: Manifest, steps: int
) -> dict[str, Array]:
    """Return one long sample of ``steps`` time steps: all of them one after another,
    repeated as needed.

    Inputs without a time axis are the first sample's.
    """
    joined = dict(feeds[0])
    for name, axis in manifest.time_axes.items():
        if name in joined:
            full = np.concatenate([feed[name] for feed in feeds[:steps]], axis=axis)
            joined[name] = full.take(np.arange(steps) % full.shape[axis], axis=axis)
    return joined


def selected(samples: Samples, most: int = _MAX_SAMPLES) -> list[int]:
    """Return the indices of the samples that are judged: at most ``most``, evenly
    spread.
    """
    count = len(next(iter(samples.inputs.values())))
    return [round(index) for index in np.linspace(0, count - 1, min(count, most))]


def check_samples(samples: Samples, manifest: Manifest) -> None:
    """Refuse data that does not fit a file.

    Raises:
        InputError: an input that is missing or unknown, not finite, of numbers that its
            dtype can't hold, or with lengths that do not fit; or arrays of unequal
            counts.
    """
    names = {spec.name for spec in manifest.data_inputs}
    if set(samples.inputs) != names:
        raise InputError(
            f"the data has {sorted(samples.inputs)}, the file takes {sorted(names)};"
            " name each once"
        )
    _check_counts(samples)
    for spec in manifest.data_inputs:
        array = samples.inputs[spec.name]
        axes = tuple(axis for axis in spec.axes if axis != manifest.batch)
        if array.ndim != 1 + len(axes):
            raise InputError(
                f"{spec.name} has shape {array.shape}; expected (samples,"
                f" {', '.join(map(str, axes))})"
            )
        _check_numbers(spec, array)
        time = manifest.time_axis(axes)
        if samples.lengths is not None and time is not None:
            _check_lengths(spec.name, samples.lengths, array.shape[1 + time])


def _check_counts(samples: Samples) -> None:
    """Refuse arrays of different numbers of samples, or of none."""
    arrays = {
        **samples.inputs,
        "targets": samples.targets,
        "lengths": samples.lengths,
    }
    counts = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"the data holds {counts} samples; expected one count above 0")


def _check_numbers(spec: TensorSpec, array: Array) -> None:
    """Refuse numbers that are not finite, or that an input's dtype can't hold."""
    dtype = np.dtype(spec.dtype)
    with np.errstate(invalid="ignore"):
        is_exact = dtype.kind not in "iu" or (array.astype(dtype) == array).all()
    if not np.isfinite(array).all() or not is_exact:
        raise InputError(
            f"{spec.name} holds {array.min()}..{array.max()}, expected {dtype} numbers"
        )


def _check_lengths(name: str, lengths: Array, steps: int) -> None:
    """Refuse lengths below 1 or beyond the steps of an input."""
    if not 1 <= min(lengths) <= max(lengths) <= steps:
        raise InputError(
            f"lengths holds {min(lengths)}..{max(lengths)}; expected 1..{steps}, the"
            f" steps of {name}"
        )
