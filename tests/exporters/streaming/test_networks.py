"""The networks of the table in docs/streaming.md stream, and are equal to the whole."""

import pytest

from benchmarks.proof.streaming import compare_stream
from benchmarks.proof.streaming_networks import NETWORKS

SYSTEM = ("ConvTasNet", "StftMask")


def marks(name):
    return () if name == "OverlapAdd" else pytest.mark.system if name in SYSTEM else pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in NETWORKS])
def test_a_stream_is_the_whole_network(name):
    assert compare_stream(NETWORKS[name]).ok
