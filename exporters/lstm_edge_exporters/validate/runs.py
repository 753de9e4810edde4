"""Ways to run a case that are not one call: in pieces with states carried, and row by row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Axes, Manifest

from ..numerics.noise import Procedure, Run

__all__ = [
    "Cuts",
    "case_size",
    "even_cuts",
    "in_chunks",
    "on_record",
    "random_cuts",
    "row_by_row",
    "take_row",
]

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Cuts = Sequence[tuple[int, int]]


def random_cuts(length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Cut ``length`` steps at random places, single steps among the pieces."""
    inner = np.flatnonzero(rng.random(length - 1) < rng.choice([0.1, 0.4])) + 1
    edges = [0, *map(int, inner), length]
    return list(pairwise(edges))


def even_cuts(length: int, size: int) -> list[tuple[int, int]]:
    """Cut ``length`` steps into pieces of ``size``; the last may be shorter."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def in_chunks(manifest: Manifest, cuts: Cuts) -> Procedure:
    """Carry the states from piece to piece; give what one call on the whole would.

    Outputs with a time axis are put together, the others are those of the last piece; what folds time into
    another axis (``(N*L, C)``) is left out.
    """

    def procedure(run: Run, feeds: Feeds) -> dict[str, Array]:
        pieces = list(_carried(manifest, cuts, run, feeds))
        last = dict(pieces[-1])
        for spec in manifest.outputs:
            if _folds_time(manifest, spec.axes):
                del last[spec.name]
            elif manifest.sequence in spec.axes:
                axis = spec.axes.index(manifest.sequence)
                last[spec.name] = np.concatenate([piece[spec.name] for piece in pieces], axis=axis)
        return last

    return procedure


def on_record(manifest: Manifest, cuts: Cuts) -> Procedure:
    """Carry the states from piece to piece; give every piece's outputs, stacked over the pieces.

    Outputs with a time axis give their last step, so that pieces of any length stack; what folds time into
    another axis is left out.
    """

    def procedure(run: Run, feeds: Feeds) -> dict[str, Array]:
        axes = {
            spec.name: spec.axes.index(manifest.sequence)
            for spec in manifest.outputs
            if manifest.sequence in spec.axes
        }
        record: dict[str, list[Array]] = {}
        folded = {spec.name for spec in manifest.outputs if _folds_time(manifest, spec.axes)}
        for piece in _carried(manifest, cuts, run, feeds):
            for name in piece.keys() - folded:
                array = piece[name]
                record.setdefault(name, []).append(array.take(-1, axis=axes[name]) if name in axes else array)
        return {name: np.stack(arrays) for name, arrays in record.items()}

    return procedure


def _folds_time(manifest: Manifest, axes: Axes) -> bool:
    """Tell whether an axis is worked out from the time axis, such as ``N*L`` or ``L//2``."""
    words = [axis for axis in axes if isinstance(axis, str) and axis != manifest.sequence]
    return any(re.search(rf"\b{re.escape(manifest.sequence or '')}\b", word) for word in words)


def _carried(manifest: Manifest, cuts: Cuts, run: Run, feeds: Feeds) -> Iterator[Mapping[str, Array]]:
    timed = {
        spec.name: spec.axes.index(manifest.sequence)
        for spec in manifest.inputs
        if manifest.sequence in spec.axes
    }
    states = {state.input: feeds[state.input] for state in manifest.states}
    for start, stop in cuts:
        piece = dict(feeds) | states
        for name, axis in timed.items():
            piece[name] = feeds[name].take(range(start, stop), axis=axis)
        if manifest.lengths is not None:
            piece[manifest.lengths] = np.full_like(feeds[manifest.lengths], stop - start)
        outputs = run(piece)
        states = {state.input: outputs[state.output] for state in manifest.states}
        yield outputs


def case_size(manifest: Manifest, feeds: Feeds) -> tuple[int, int]:
    """Return a case's rows and time steps; 1 where an axis has no name."""
    sizes: dict[str | None, int] = {manifest.batch: 1, manifest.sequence: 1}
    for spec in manifest.inputs:
        for axis, size in zip(spec.axes, feeds[spec.name].shape, strict=True):
            if isinstance(axis, str) and axis in sizes:
                sizes[axis] = size
    return sizes[manifest.batch], sizes[manifest.sequence]


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
