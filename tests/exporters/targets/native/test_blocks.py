"""Which matrices are stored in blocks."""

import numpy as np
import pytest

from lstm_edge_exporters.targets.native.blocks import (
    BAND_COST,
    INT8_SHAPE,
    SHAPE,
    find_blocks,
)

CASES = [
    # rows, columns, blocks that are not zero in each band, int8, in blocks
    (512, 128, 25, False, True),
    (512, 128, 64, False, True),
    (512, 128, 65, False, False),
    (128, 8, 1, False, False),
    (128, 32, 13, False, True),
    (128, 32, 14, False, False),
    (512, 128, 6, True, True),
    (512, 128, 13, True, True),
    (512, 128, 14, True, False),
    (128, 32, 1, True, False),
    (512, 512, 64, True, True),
    (512, 128, 0, True, False),
]


@pytest.mark.parametrize(("rows", "columns", "stored", "int8", "expected"), CASES)
def test_blocks_are_stored_where_the_product_takes_less_time_in_them(
    rows: int, columns: int, stored: int, int8: bool, expected: bool
) -> None:
    height, width = INT8_SHAPE if int8 else SHAPE
    weights = np.zeros((rows, columns), "float32")
    weights[::height, : stored * width : width] = 1
    found = find_blocks(weights, quantized=int8, gates=4, band_cost=BAND_COST)
    assert (found is not None) == expected
    if found is not None:
        assert len(found.numbers) == found.counts.sum() == stored * rows // height
