"""Rows of many sources: from what callers give to a file's own layout, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import Core
from .axes import learn_sizes, resolve, row_factor
from .errors import ContractError, InputError
from .inputs import Samples, as_array, by_name, refuse_not_finite
from .manifest import Axes, Manifest

__all__ = ["check_rows", "cut", "stack", "to_graph", "to_sources"]

Array = npt.NDArray[Any]


def check_rows(manifest: Manifest) -> None:
    """Raise ``ContractError`` where an input or output can't be told apart by source."""
    for spec in (*manifest.inputs, *manifest.outputs):
        if sum(row_factor(axis, manifest.batch) is not None for axis in spec.axes) != 1:
            raise ContractError(
                f"{spec.name} has no batch axis {manifest.batch}; open one stream() a source instead"
            )


def to_graph(
    core: Core, samples: Samples, rows: int, *, step: bool
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the data inputs in the file's layout, and the sizes of its named axes.

    Args:
        core: the model.
        samples: ``(K, I)`` for a step, else ``(K, L, I)``, by name where there are several inputs.
        rows: K.
        step: whether the time axis is left out and has size 1.

    Raises:
        InputError: another rank, width or dtype; NaN or infinity where the model checks.
    """
    manifest, given, arrays = core.manifest, by_name(samples, core.data), {}
    sizes = {manifest.batch or "": rows}
    for spec in core.data:
        array = as_array(spec.name, given[spec.name], spec.dtype)
        inner = tuple(axis for axis in spec.axes if axis != manifest.batch)
        seen = tuple(axis for axis in inner if not (step and axis == manifest.sequence))
        learn_sizes(spec.name, (manifest.batch or "", *seen), array.shape, sizes)
        if step and manifest.sequence is not None:
            sizes[manifest.sequence] = 1
        if core.check:
            refuse_not_finite(spec.name, array)
        array = array.reshape(resolve((manifest.batch or "", *inner), sizes) or ())
        place = spec.axes.index(manifest.batch or "")
        arrays[spec.name] = np.ascontiguousarray(np.moveaxis(array, 0, place)) if place else array
    return arrays, sizes


def to_sources(manifest: Manifest, outputs: Mapping[str, Array], *, step: bool) -> dict[str, Array]:
    """Return each output with a row a source in front; ``k*N`` rows become ``(N, k)``."""
    rows = {}
    for spec in manifest.outputs:
        array, axes = outputs[spec.name], spec.axes
        place = next(i for i, axis in enumerate(axes) if row_factor(axis, manifest.batch) is not None)
        factor = row_factor(axes[place], manifest.batch)
        if factor:
            array = array.reshape((*array.shape[:place], factor, -1, *array.shape[place + 1 :]))
            axes, place = (*axes[:place], factor, manifest.batch or "", *axes[place + 1 :]), place + 1
        if step and (gone := manifest.time_axis(axes)) is not None:
            array, place = array.squeeze(gone), place - (gone < place)
        rows[spec.name] = np.moveaxis(array, place, 0) if place else array
    return rows


def stack(
    core: Core, parts: Sequence[Mapping[str, npt.ArrayLike]], *, pad: bool
) -> tuple[dict[str, list[Any]], Array]:
    """Return each input's samples as a list over sources, and for chunks (``pad``) their lengths.

    Chunks come back at the longest one's length, with zeros at their end.

    Raises:
        InputError: unequal chunks for a file without ``lengths``; inputs of one source that disagree; a chunk
            that is ragged or of another dtype.
    """
    lists: dict[str, list[Any]] = {spec.name: [part[spec.name] for part in parts] for spec in core.data}
    if not pad:
        return lists, np.zeros(0, dtype=np.int64)
    for spec in core.data:
        lists[spec.name] = [as_array(spec.name, part, spec.dtype) for part in lists[spec.name]]
    places = {
        spec.name: place for spec in core.data if (place := _time_axis(spec.axes, core.manifest)) is not None
    }
    found = [
        [part.shape[place] if part.ndim > place else 0 for part in lists[name]]
        for name, place in places.items()
    ]
    lengths = np.array(found[0], dtype=np.int64)
    longest = int(lengths.max())
    if any(each != found[0] for each in found):
        raise InputError("a source's inputs have unequal lengths; give each the same number of steps")
    if lengths.min() < 1:
        raise InputError("an empty chunk came, or one without a time axis; leave its source out of this tick")
    if core.manifest.lengths is None and lengths.min() < longest:
        raise InputError(
            f"chunks of {lengths.min()} to {longest} steps came, but this file takes no lengths; "
            "give chunks of one length, or export it with lengths"
        )
    for name, place in places.items():
        lists[name] = [_pad_end(part, place, longest) for part in lists[name]]
    return lists, lengths


def cut(manifest: Manifest, rows: Mapping[str, Array], place: int, end: int | None) -> dict[str, Array]:
    """Return the outputs of the source in ``place``, those with a time axis up to ``end``."""
    own = {}
    for spec in manifest.outputs:
        array, axis = rows[spec.name][place], _time_axis(spec.axes, manifest)
        own[spec.name] = (
            array if end is None or axis is None else array[(slice(None),) * axis + (slice(end),)]
        )
    return own


def _time_axis(axes: Axes, manifest: Manifest) -> int | None:
    """Return the place of the time axis once the batch axis is gone."""
    return manifest.time_axis(tuple(axis for axis in axes if axis != manifest.batch))


def _pad_end(array: Array, place: int, longest: int) -> Array:
    widths = [(0, longest - size if axis == place else 0) for axis, size in enumerate(array.shape)]
    return np.pad(array, widths)
