"""Rows and sizes of a case: counting them, taking a row out, and running each alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Manifest

from ..numerics.noise import Run

__all__ = ["case_size", "first_rows", "row_by_row", "take_row"]

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


def case_size(manifest: Manifest, feeds: Feeds) -> tuple[int, int]:
    """Return a case's rows and time steps; 1 where an axis has no name."""
    sizes: dict[str | None, int] = {manifest.batch: 1, manifest.sequence: 1}
    for spec in manifest.inputs:
        for axis, size in zip(spec.axes, feeds[spec.name].shape, strict=True):
            if isinstance(axis, str) and axis in sizes:
                sizes[axis] = size
    return sizes[manifest.batch], sizes[manifest.sequence]


def first_rows(manifest: Manifest, feeds: Feeds, count: int) -> dict[str, Array]:
    """Return the first ``count`` rows of a case, or all where it has fewer."""
    axes = {spec.name: spec.axes for spec in manifest.inputs} | {
        each.input: each.axes for each in manifest.states
    }
    found = dict(feeds)
    for name, array in feeds.items():
        axis = manifest.batch_axis(axes[name])
        if axis is not None:
            found[name] = array.take(range(min(count, array.shape[axis])), axis=axis)
    return found


def take_row(manifest: Manifest, name: str, array: Array, row: int, rows: int) -> Array:
    """Return what of an input or output belongs to ``row``; the array itself where it has no batch axis.

    An axis of ``k*N`` holds k blocks of N, as a stacked read-out does.
    """
    axis = _batch_axis(manifest, name)
    return array if axis is None else array.take(np.arange(row, array.shape[axis], rows), axis=axis)


def row_by_row(manifest: Manifest, run: Run) -> Run:
    """Return a runner that runs each row of a batch alone and puts the outputs together."""

    def alone(feeds: Mapping[str, Array]) -> dict[str, Array]:
        rows = next(
            (
                size
                for name, array in feeds.items()
                for label, size in zip(_axes(manifest)[name], array.shape, strict=True)
                if label == manifest.batch
            ),
            1,
        )
        parts = [
            run({each: take_row(manifest, each, array, row, rows) for each, array in feeds.items()})
            for row in range(rows)
        ]
        return {each: _together(manifest, each, [part[each] for part in parts]) for each in parts[0]}

    return alone


def _together(manifest: Manifest, name: str, parts: list[Array]) -> Array:
    axis = _batch_axis(manifest, name)
    if axis is None:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return np.stack(parts, axis + 1).reshape(shape)


def _batch_axis(manifest: Manifest, name: str) -> int | None:
    for axis, label in enumerate(_axes(manifest)[name]):
        if isinstance(label, str) and (label == manifest.batch or label.endswith(f"*{manifest.batch}")):
            return axis
    return None


def _axes(manifest: Manifest) -> dict[str, tuple[int | str, ...]]:
    axes = {spec.name: spec.axes for spec in (*manifest.inputs, *manifest.outputs)}
    for state in manifest.states:
        axes |= {state.input: state.axes, state.output: state.axes}
    return axes
