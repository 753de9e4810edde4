"""Where the numbers of values lie while a graph is compiled."""

import numpy as np
import pytest

from lstm_edge_exporters.targets.native.memory import Memory, Value
from lstm_edge_exporters.targets.native.operations import Code
from lstm_edge_exporters.targets.native.program import ProgramWriter
from lstm_edge_runtime.native import Past

FRAMES = 6
WIDTH = 3


def joined_frames():
    """Return memory and the addresses of six past frames and a new one, ``(7, 3)``."""
    writer = ProgramWriter(1)
    memory = Memory(writer)
    ring = Past(groups=1, frames=FRAMES, inner=WIDTH)
    past = writer.past("past", ring, np.zeros((1, 1, FRAMES, WIDTH), np.float32))
    x = writer.input("x", WIDTH)
    new = memory.value(x, (1, 1, WIDTH))
    addresses = memory.with_past(past, ring, new, 1)
    return memory, addresses.reshape(FRAMES + 1, WIDTH)


@pytest.mark.parametrize(
    ("first", "end", "step"),
    [(0, 7, 1), (2, 7, 1), (3, 5, 1), (1, 7, 2), (2, 7, 4), (5, 6, 1)],
)
def test_a_window_holds_the_frames_that_are_read_and_no_others(first, end, step):
    memory, frames = joined_frames()
    read = frames[first:end:step]
    row = memory.row(Value(read))
    assert memory.writer.width(row) == read.size
    assert len(memory.writer.operations) == 1, "the window itself, without copies"


def test_readers_of_the_same_frames_share_a_window():
    memory, frames = joined_frames()
    memory.row(Value(frames[2:5]))
    memory.row(Value(frames[2:5, ::-1]))
    codes = [operation[0] for operation in memory.writer.operations]
    assert codes.count(Code.WINDOW) == 1
    assert set(codes[1:]) == {Code.COPY}
