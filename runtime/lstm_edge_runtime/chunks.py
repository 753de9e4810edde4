"""Run a case in chunks, with states carried from each chunk to the next."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from .axes import axis_names
from .errors import CheckFailedError
from .manifest import Array, Axes, Manifest

Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Function from every input by name to every output by name, including states."""


def run_chunks(
    run: Runner, manifest: Manifest, feeds: Mapping[str, Array], sizes: Sequence[int]
) -> Iterator[Mapping[str, Array]]:
    """Yield every chunk's outputs, each run from the last states of the previous one.

    Args:
        run: runs the file, or its reference.
        manifest: the contract.
        feeds: the full sequence. Rows may end only in the last chunk. Without lengths,
            ``run`` uses its own.
        sizes: steps of each chunk.
    """
    states: dict[str, Array] = {}
    start = 0
    for size in sizes:
        chunk = {**take_steps(manifest.time_axes, feeds, start, start + size), **states}
        if manifest.lengths is not None and manifest.lengths in feeds:
            lengths = feeds[manifest.lengths]
            remaining = np.minimum(lengths - start, size)
            chunk[manifest.lengths] = remaining.astype(lengths.dtype)
        outputs = run(chunk)
        states = manifest.states_out(outputs)
        start += size
        yield outputs


def take_steps(
    axes: Mapping[str, int], feeds: Mapping[str, Array], start: int, stop: int
) -> dict[str, Array]:
    """Return a case's steps from ``start`` to ``stop``; inputs without a time axis are
    unchanged.
    """
    return {
        name: array.take(range(start, stop), axis=axes[name]) if name in axes else array
        for name, array in feeds.items()
    }


def join_chunks(
    manifest: Manifest, chunks: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """Return the outputs of one call on the full sequence.

    Outputs with a time axis are concatenated, counts of steps are added, the others are
    those of the last chunk. Outputs that fold time (see ``folds_time``) are left out.

    Raises:
        CheckFailedError: chunks of an output differ in another axis than time.
    """
    joined = dict(chunks[-1])
    time = manifest.time_axes
    for spec in manifest.outputs:
        pieces = [chunk[spec.name] for chunk in chunks]
        if spec.name in time:
            joined[spec.name] = _concatenate(spec.name, pieces, time[spec.name])
        elif spec.name in manifest.counts:
            joined[spec.name] = np.sum(pieces, axis=0, dtype=pieces[0].dtype)
        elif folds_time(manifest, spec.axes):
            del joined[spec.name]
    return joined


def folds_time(manifest: Manifest, axes: Axes) -> bool:
    """Return True if steps are part of an axis that is not time, such as ``N*L``."""
    if manifest.time_axis(axes) is not None:
        return False
    return any(manifest.sequence in axis_names(axis) for axis in axes)


def _concatenate(name: str, pieces: Sequence[Array], axis: int) -> Array:
    """Join the chunks of an output along its time axis."""
    shapes = {piece.shape[:axis] + piece.shape[axis + 1 :] for piece in pieces}
    if len(shapes) > 1:
        got = " and ".join(str(piece.shape) for piece in pieces)
        raise CheckFailedError(f"{name} has shapes {got} in two chunks")
    return np.concatenate(pieces, axis)
