"""What a smaller file is judged on: single samples from a reset state, and a long run of them on end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes, Manifest

from ._config import Samples

__all__ = ["STEPS", "Case", "cases_from", "picked"]

STEPS = 1000
"""Time steps in the long run."""
_MOST_SAMPLES = 1000

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One call from a given state."""

    inputs: Mapping[str, Array]
    """Every input that is neither a state nor ``lengths``, batch axis included."""
    lengths: Array | None = None
    state: Mapping[str, Array] | None = None
    """None for the reset values."""


def cases_from(samples: Samples, manifest: Manifest) -> list[Case]:
    """Return a case of batch 1 for each sample, at most 1,000 of them, evenly picked.

    Raises:
        InputError: an input that is missing or unknown, not finite, or with lengths that do not fit; or
            arrays of unequal counts.
    """
    specs = {spec.name: spec for spec in manifest.inputs if spec.name != manifest.lengths}
    if set(samples.inputs) != set(specs):
        raise InputError(
            f"the data has {sorted(samples.inputs)}, the file takes {sorted(specs)}; name each once"
        )
    own = {name: tuple(axis for axis in spec.axes if axis != manifest.batch) for name, spec in specs.items()}
    _check(samples, own, manifest.sequence)
    cases = []
    for index in picked(samples):
        inputs = {}
        for name, axes in own.items():
            array = samples.inputs[name][index]
            if samples.lengths is not None and manifest.sequence in axes:
                array = array.take(range(samples.lengths[index]), axis=axes.index(manifest.sequence))
            if manifest.batch in specs[name].axes:
                array = np.expand_dims(array, specs[name].axes.index(manifest.batch))
            inputs[name] = array
        cases.append(Case(inputs))
    return cases


def _check(samples: Samples, own: Mapping[str, Axes], sequence: str | None) -> None:
    """Refuse what does not fit ``own``, the axes of one sample of each input."""
    beside = {"targets": samples.targets, "lengths": samples.lengths}
    counts = {name: len(array) for name, array in {**samples.inputs, **beside}.items() if array is not None}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"the data holds {counts} samples; expected one count above 0")
    for name, axes in own.items():
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


def picked(samples: Samples) -> list[int]:
    """Return the indices of the samples that are judged."""
    count = len(next(iter(samples.inputs.values())))
    return [round(place) for place in np.linspace(0, count - 1, min(count, _MOST_SAMPLES))]
