"""The networks of the table in docs/stream.md stream, and are equal to what they compute at once."""

import pytest

from benchmarks.proof.streaming import compare_stream
from benchmarks.proof.streaming_networks import NETWORKS
from lstm_edge_runtime.errors import UnsupportedError

REFUSED = ("LearnedPositions", "SinePositions", "LocalAttention", "OverlapAdd")
SYSTEM = ("ConvTasNet", "StftMask")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.system if name in SYSTEM else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_a_stream_is_the_network(name):
    if name in REFUSED:
        with pytest.raises(UnsupportedError, match=r"restarts with every call|selects frames"):
            compare_stream(NETWORKS[name])
    else:
        assert compare_stream(NETWORKS[name]).ok
