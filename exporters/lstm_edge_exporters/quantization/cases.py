"""What a smaller file is judged on: single samples from a reset state, and a long run of them on end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Manifest

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
    """Give a case of batch 1 for each sample, at most 1,000 of them, evenly picked.

    Raises:
        InputError: an input that is missing or unknown, or arrays of unequal counts.
    """
    specs = {spec.name: spec for spec in manifest.inputs if spec.name != manifest.lengths}
    if set(samples.inputs) != set(specs):
        raise InputError(
            f"the data has {sorted(samples.inputs)}, the file takes {sorted(specs)}; name each once"
        )
    beside = {"targets": samples.targets, "lengths": samples.lengths}
    counts = {name: len(array) for name, array in {**samples.inputs, **beside}.items() if array is not None}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"the data holds {counts} samples; expected one count above 0")
    cases = []
    for index in picked(samples):
        length = None if samples.lengths is None else int(samples.lengths[index])
        inputs = {}
        for name, spec in specs.items():
            axes = [axis for axis in spec.axes if axis != manifest.batch]
            array = samples.inputs[name][index]
            if length is not None and manifest.sequence in axes and array.ndim == len(axes):
                array = array.take(range(length), axis=axes.index(manifest.sequence))
            if manifest.batch in spec.axes:
                array = np.expand_dims(array, spec.axes.index(manifest.batch))
            inputs[name] = array
        cases.append(Case(inputs))
    return cases


def picked(samples: Samples) -> list[int]:
    """Give the indices of the samples that are judged."""
    count = len(next(iter(samples.inputs.values())))
    return [round(place) for place in np.linspace(0, count - 1, min(count, _MOST_SAMPLES))]
