"""Running a file on a sequence in chunks, with the states carried, and comparing with the whole sequence.

The noise floor is measured: float inputs and the states that pass from chunk to chunk are perturbed by one
unit in the last place, and what that does to the outputs is what rounding alone may do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.tolerance import Comparison, compare, limit_for

__all__ = ["Axis", "ChunkRun", "chunk_sizes", "compare_chunks", "join", "perturbed", "run_chunks"]

Array = npt.NDArray[Any]
Run = Callable[
    [Mapping[str, Array], Mapping[str, Array] | None, int], tuple[dict[str, Array], dict[str, Array]]
]
"""Runs once: data inputs, states by input name (None for the reset values), time steps -> every output, those
of states among them, and the states again by input name."""
Axis = Mapping[str, int]
"""Input name to its time axis; inputs without one are given whole to every chunk."""

_DRAWS = 2


@dataclass(frozen=True)
class ChunkRun:
    """How a file fed in chunks compares with the whole."""

    sizes: tuple[int, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def worst(self) -> Comparison:
        """The output that is nearest to its limit, or farthest past it."""
        return max(self.comparisons, key=lambda each: each.ratio)


def chunk_sizes(total: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Split ``total`` steps at random, with a single step first and last.

    Of an output without a time axis only the last chunk's counts, and one of several steps would hide that
    the network looks a few steps back.
    """
    sizes: list[int] = [1]
    while (rest := total - 1 - sum(sizes)) > 0:
        sizes.append(int(rng.integers(1, min(8, rest) + 1)))
    return (*sizes, 1) if total > 1 else (1,)


def run_chunks(
    run: Run, feeds: Mapping[str, Array], axes: Axis, sizes: Sequence[int], jitter: np.random.Generator | None
) -> list[dict[str, Array]]:
    """Run chunks one after the other with the states carried; return each one's outputs."""
    state: dict[str, Array] | None = None
    outputs, start = [], 0
    for size in sizes:
        part = {
            name: array.take(range(start, start + size), axes[name]) if name in axes else array
            for name, array in feeds.items()
        }
        if jitter is not None:
            part = {name: perturbed(array, jitter) for name, array in part.items()}
            state = state and {name: perturbed(array, jitter) for name, array in state.items()}
        given, state = run(part, state, size)
        outputs.append(given)
        start += size
    return outputs


def compare_chunks(
    run: Run, feeds: Mapping[str, Array], axes: Axis, sizes: Sequence[int], rng: np.random.Generator
) -> ChunkRun:
    """Compare the outputs and last states of the whole with those of the chunks."""
    total = sum(sizes)
    whole, _ = run(feeds, None, total)
    chunked = _joined(run, feeds, axes, sizes, None, whole)
    nearby = [_joined(run, feeds, axes, sizes, rng, whole) for _ in range(_DRAWS)]
    found = []
    for name, expected in whole.items():
        dtype = expected.dtype.name if expected.dtype.kind == "f" else "float32"
        floor = max(
            compare(name, each[name], chunked[name], floor=0, limit=0, dtype=dtype).max_abs for each in nearby
        )
        floor = floor if np.isfinite(floor) else 0.0
        limit = limit_for(expected, floor, dtype) if expected.dtype.kind == "f" else 0.0
        found.append(compare(name, chunked[name], expected, floor=floor, limit=limit, dtype=dtype))
    return ChunkRun(tuple(sizes), tuple(found))


def join(parts: Sequence[Array], whole: Array) -> Array:
    """Join chunks along the axis on which they are shorter than the whole; else return the last."""
    last = parts[-1]
    if last.ndim != whole.ndim:
        return last
    shorter = [
        axis
        for axis in range(whole.ndim)
        if len({*(part.shape[axis] for part in parts), whole.shape[axis]}) > 1
    ]
    return np.concatenate(parts, axis=shorter[0]) if len(shorter) == 1 else last


def _joined(
    run: Run,
    feeds: Mapping[str, Array],
    axes: Axis,
    sizes: Sequence[int],
    jitter: np.random.Generator | None,
    whole: Mapping[str, Array],
) -> dict[str, Array]:
    outputs = run_chunks(run, feeds, axes, sizes, jitter)
    return {name: join([each[name] for each in outputs], expected) for name, expected in whole.items()}


def perturbed(array: Array, rng: np.random.Generator) -> Array:
    """Return floats moved by one unit in the last place, up or down at random."""
    if array.dtype.kind != "f":
        return array
    direction = np.where(rng.integers(0, 2, array.shape) == 1, np.inf, -np.inf).astype(array.dtype)
    result: Array = np.where(array == 0, array, np.nextafter(array, direction))
    return result
