"""The networks of the table in docs/benchmarks.md stream, and are equal to what they compute at once."""

import pytest

from benchmarks.proof.streaming import compare_stream
from benchmarks.proof.streaming_networks import NETWORKS

SYSTEM = ("StftMask",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.system if name in SYSTEM else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_a_stream_is_the_network(name):
    assert compare_stream(NETWORKS[name]).ok
