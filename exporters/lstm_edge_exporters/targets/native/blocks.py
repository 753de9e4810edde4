"""Weights with blocks of zeros: only the other blocks are stored."""

from typing import NamedTuple

import numpy as np

from lstm_edge_runtime.manifest import Array

SHAPE = (16, 1)
"""Rows and columns of a block."""
INT8_SHAPE = (8, 4)
"""The same for int8 weights of quantized inputs."""
LIST_START = 2
"""Numbers of a list of blocks before its first band: rows and columns of a block."""
_MOST_STORED = 0.5
"""Largest fraction of blocks that are not zero in a matrix that is stored in blocks."""
BAND_COST = 6
"""Time of a band besides its blocks, as a number of blocks."""
_BLOCK_COST = 1 / 0.6
"""Time of a block in a long band, in units of the same weights' time in a dense product."""
_MOST_COLUMNS = 1 << 15
"""Columns are numbered in int16."""


class Blocks(NamedTuple):
    """The blocks of a matrix that are not zero, band after band."""

    numbers: Array
    """``(blocks, rows * columns)``, each row after row."""
    counts: Array
    """Number of blocks in each band of rows."""
    columns: Array
    """First column of each block."""
    shape: tuple[int, int]
    """Rows and columns of a block."""

    def listed(self) -> Array:
        """Return the list of blocks of the program file."""
        ends = np.cumsum(self.counts)[:-1]
        bands = zip(self.counts, np.split(self.columns, ends), strict=True)
        parts = [np.append(count, columns) for count, columns in bands]
        return np.concatenate([self.shape, *parts]).astype(np.int16)


def find_blocks(
    weights: Array, *, quantized: bool, gates: int = 1, band_cost: float = 0
) -> Blocks | None:
    """Return the blocks of ``weights (M, K)`` that are not zero.

    None if the dense product takes less time, if more than half of the blocks or none
    at all are stored, or if a block would span two gates.
    """
    rows, columns = shape = INT8_SHAPE if quantized else SHAPE
    height, width = weights.shape
    if height % (gates * rows) or width >= _MOST_COLUMNS:
        return None
    padded = np.pad(weights, ((0, 0), (0, -width % columns)))
    blocks = padded.reshape(height // rows, rows, -1, columns).swapaxes(1, 2)
    stored = blocks.any((2, 3))
    dense = stored.shape[1]
    in_blocks = (stored.sum(1).mean() + band_cost) * _BLOCK_COST
    if not stored.any() or stored.mean() > _MOST_STORED or in_blocks > dense:
        return None
    numbers = blocks[stored].reshape(-1, rows * columns)
    return Blocks(
        numbers=numbers,
        counts=stored.sum(1),
        columns=stored.nonzero()[1] * columns,
        shape=shape,
    )
