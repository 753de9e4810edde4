"""A sample of ``benchmarks/false_alarms.py``: healthy networks, with new seeds, are never refused."""

import secrets
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's modules, imported as a user's run does."""
    sys.path.insert(0, str(BENCHMARKS))
    import engines
    import false_alarms
    import healthy

    slowest = {"LSTM_EDGE_ISA": engines.INSTRUCTION_SETS[-1]}
    apart = [
        engines.Engine("onnxruntime", sys.executable, "onnxruntime", {}),
        engines.Engine("native", sys.executable, "native", slowest),
    ]
    yield false_alarms, healthy, apart
    for engine in apart:
        engine.close()
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("place", range(4))
def test_no_healthy_network_is_refused_or_raises_an_alarm(benchmark, place):
    false_alarms, healthy, engines = benchmark
    seed = secrets.randbits(32)
    rng = np.random.default_rng(seed)
    form = healthy.FORMS[int(rng.integers(len(healthy.FORMS)))]
    tally = false_alarms.Tally()
    problems = false_alarms.examine(healthy.draw_network(form, rng), tally, place, engines=engines)
    assert problems == [], f"seed {seed}: {problems}"
    assert tally.ran["onnxruntime"] == 1
