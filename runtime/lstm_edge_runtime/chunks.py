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
        stop = start + size
        chunk = take_steps(manifest.time_axes, feeds, start=start, stop=stop)
        if manifest.lengths is not None and manifest.lengths in feeds:
            lengths = feeds[manifest.lengths]
            remaining = np.minimum(lengths - start, size)
            chunk[manifest.lengths] = remaining.astype(lengths.dtype)
        outputs = run(chunk | states)
        states = manifest.states_out(outputs)
        start = stop
        yield outputs


def take_steps(
    axes: Mapping[str, int], feeds: Mapping[str, Array], start: int, stop: int
) -> dict[str, Array]:
    """Return a case's steps from ``start`` to ``stop``; inputs without a time axis are
    unchanged.
    """
    taken = dict(feeds)
    for name, axis in axes.items():
        if name in taken:
            taken[name] = taken[name].take(range(start, stop), axis)
    return taken


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
        name = spec.name
        arrays = [chunk[name] for chunk in chunks]
        if name in time:
            joined[name] = _concatenate(name, arrays, time[name])
        elif name in manifest.counts:
            joined[name] = np.sum(arrays, axis=0, dtype=arrays[0].dtype)
        elif folds_time(manifest, spec.axes):
            del joined[name]
    return joined


def folds_time(manifest: Manifest, axes: Axes) -> bool:
    """Return True if steps are part of an axis that is not time, such as ``N*L``."""
    if manifest.time_axis(axes) is not None:
        return False
    return any(manifest.sequence in axis_names(axis) for axis in axes)


def _concatenate(name: str, arrays: Sequence[Array], axis: int) -> Array:
    """Join the chunks of an output along its time axis."""
    try:
        return np.concatenate(arrays, axis)
    except ValueError as error:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise CheckFailedError(f"{name} has shapes {shapes} in two chunks") from error
