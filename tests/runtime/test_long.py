"""Streams for long: a signal that fades away, memory, and drift."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FADING = """
import sys
import numpy as np
from lstm_edge_runtime import State, load

model = load(sys.argv[1])
silent = model.stream()
tiny = np.full(8, 0x000AE398, np.uint32).view(np.float32)  # 1e-39; numpy may be flushing here too
faded = {"x": tiny[:3], "gain": tiny[:1]}
silent.restore(State({"h_0": tiny.reshape(1, 1, 8)}, model.identity))
assert silent.state["h_0"].view(np.uint32).all()
silent.step(faded)
np.testing.assert_array_equal(silent.state["h_0"].view(np.uint32) << 1, 0)
"""


def test_a_state_that_fades_into_denormals_becomes_zero(path):
    """In a process of its own: the first session of a process decides on denormals."""
    subprocess.run([sys.executable, "-c", FADING, path("gru")], check=True)


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


@pytest.mark.system
@pytest.mark.parametrize(
    "count", [60_000, pytest.param(1_000_000, marks=pytest.mark.slow)]
)
def test_memory_stays_flat_and_a_long_stream_equals_chunks(model, count):
    stream = model.stream()
    chunks = model.stream()
    rng = np.random.default_rng(6)
    start = 0
    for block in range(count // 1000):
        x = rng.normal(size=(1000, 3)).astype(np.float32)
        for sample in x:
            stream.step(sample)
        chunks.process(x)
        if block == 9:
            start = rss()
    for name, array in stream.state.items():
        np.testing.assert_allclose(array, chunks.state[name], rtol=0, atol=1e-5)
    assert rss() - start < 1024 * 1024
    assert stream.steps_seen == count
