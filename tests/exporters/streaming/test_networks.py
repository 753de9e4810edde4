"""The networks of the table in docs/streaming.md stream, and are equal to the whole."""

import pytest

from benchmarks.proof.streaming import compare_stream
from benchmarks.proof.streaming_networks import NETWORKS

QUICK = ("OverlapAdd", "StftMask")
MARKS = {"ConvTasNet": pytest.mark.system}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=MARKS.get(name, pytest.mark.slow))
        for name in NETWORKS
    ],
)
def test_a_stream_is_the_whole_network(name):
    assert compare_stream(NETWORKS[name]).ok
