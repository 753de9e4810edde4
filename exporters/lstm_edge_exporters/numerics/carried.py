"""Ways to run a case in chunks with states carried, for a file and for its reference alike.

Each is a ``noise.Procedure``: given to ``noise.expected`` it also says what rounding costs on the way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.carried import join_chunks, run_chunks
from lstm_edge_runtime.manifest import Manifest

from .noise import Procedure, Run

__all__ = ["in_chunks", "last_steps", "random_sizes"]

Array = npt.NDArray[Any]
_LONGEST = 8


def random_sizes(total: int, rng: np.random.Generator) -> list[int]:
    """Cut ``total`` steps into chunks at random, with a single step first and last.

    Of an output without a time axis only the last chunk's counts, and one of several steps would hide that
    the network looks a few steps back.
    """
    sizes = [1]
    while (rest := total - 1 - sum(sizes)) > 0:
        sizes.append(int(rng.integers(1, min(_LONGEST, rest) + 1)))
    return [*sizes, 1] if total > 1 else [1]


def in_chunks(manifest: Manifest, sizes: Sequence[int]) -> Procedure:
    """Carry the states from chunk to chunk; give what one call on the whole would."""

    def procedure(run: Run, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return join_chunks(manifest, list(run_chunks(run, manifest, feeds, sizes)))

    return procedure


def last_steps(manifest: Manifest, sizes: Sequence[int]) -> Procedure:
    """Carry the states from chunk to chunk; give every output after each chunk, ``(chunks, ...)``.

    Outputs with a time axis give their last step, with a time axis of size 1; what folds time into another
    axis is left out.
    """

    def procedure(run: Run, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        record: dict[str, list[Array]] = {}
        time = {
            spec.name: axis
            for spec in manifest.outputs
            if (axis := manifest.time_axis(spec.axes)) is not None
        }
        for outputs in run_chunks(run, manifest, feeds, sizes):
            for name in join_chunks(manifest, [outputs]):
                array = outputs[name]
                record.setdefault(name, []).append(array.take([-1], time[name]) if name in time else array)
        return {name: np.stack(arrays) for name, arrays in record.items()}

    return procedure
