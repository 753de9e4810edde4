"""Running a case in chunks with the states carried: the one way, for every check that does so."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import Axes, Manifest

__all__ = ["Run", "even_sizes", "join_chunks", "run_chunks"]

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Every input by name in, every output by name out, states among both."""


def even_sizes(total: int, size: int) -> list[int]:
    """Return the sizes of chunks of ``size`` steps that make ``total``; the last may be shorter."""
    return [min(size, total - start) for start in range(0, total, size)]


def run_chunks(
    run: Run, manifest: Manifest, feeds: Mapping[str, Array], sizes: Sequence[int]
) -> Iterator[Mapping[str, Array]]:
    """Return every chunk's outputs, each run from the states that the one before left.

    Args:
        run: runs the file, or its reference.
        manifest: which inputs have the time axis, and the states.
        feeds: the whole case. The last chunk is the only one that a row may end in. Lengths that are left
            out are those that ``run`` takes then.
        sizes: steps of each chunk.
    """
    time = {
        spec.name: axis for spec in manifest.inputs if (axis := manifest.time_axis(spec.axes)) is not None
    }
    states: dict[str, Array] = {}
    start = 0
    for size in sizes:
        chunk = {**feeds, **states}
        for name, axis in time.items():
            chunk[name] = np.ascontiguousarray(feeds[name].take(range(start, start + size), axis=axis))
        if manifest.lengths is not None and manifest.lengths in feeds:
            chunk[manifest.lengths] = np.minimum(feeds[manifest.lengths] - start, size).astype(
                feeds[manifest.lengths].dtype
            )
        outputs = run(chunk)
        states = manifest.states_out(outputs)
        start += size
        yield outputs


def join_chunks(manifest: Manifest, chunks: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the outputs that one call on the whole gives.

    Outputs with a time axis are put together, counts of steps add up, the others are those of the last chunk;
    what folds time into another axis (``N*L``, ``L//2``) is left out.
    """
    joined = dict(chunks[-1])
    for name in manifest.counts:
        joined[name] = np.sum([chunk[name] for chunk in chunks], axis=0, dtype=joined[name].dtype)
    for spec in manifest.outputs:
        if _folds_time(spec.axes, manifest.sequence):
            del joined[spec.name]
        elif (axis := manifest.time_axis(spec.axes)) is not None:
            joined[spec.name] = np.concatenate([chunk[spec.name] for chunk in chunks], axis=axis)
    return joined


def _folds_time(axes: Axes, sequence: str | None) -> bool:
    """Tell whether an axis is an expression of the time axis."""
    word = re.compile(rf"\b{re.escape(sequence)}\b") if sequence else None
    return word is not None and any(
        isinstance(axis, str) and axis != sequence and word.search(axis) for axis in axes
    )
