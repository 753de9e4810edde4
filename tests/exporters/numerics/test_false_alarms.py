"""A sample of ``benchmarks/proof/false_alarms.py``: healthy networks, with new seeds, are never refused."""

import sys

import numpy as np
import pytest

from benchmarks.proof import engines, false_alarms, healthy


@pytest.fixture(scope="module")
def apart():
    """Engines in processes of their own."""
    slowest = {"LSTM_EDGE_ISA": engines.INSTRUCTION_SETS[-1]}
    found = [
        engines.Engine("onnxruntime", sys.executable, "onnxruntime", {}),
        engines.Engine("native", sys.executable, "native", slowest),
    ]
    yield found
    for engine in found:
        engine.close()


@pytest.mark.parametrize("place", range(3))
def test_no_healthy_network_is_refused_or_raises_an_alarm(apart, place):
    rng = np.random.default_rng((20, place))
    form = healthy.FORMS[int(rng.integers(len(healthy.FORMS)))]
    tally = false_alarms.Tally()
    problems = false_alarms.examine(healthy.draw_network(form, rng), tally, place, engines=apart)
    assert problems == []
    assert tally.ran["onnxruntime"] == 1


def test_equal_roundings_that_cancel_in_few_draws_are_drawn_more_often():
    """Over 1,000 steps a unit's three roundings, kept at every step, cancelled in the first eight draws."""
    network = healthy.draw_network("leak", *(np.random.default_rng((1727, each)) for each in (344, 1376)))
    assert false_alarms.examine(network, false_alarms.Tally(), 1376) == []
