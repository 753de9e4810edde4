import numpy as np
import pytest

from lstm_edge.timing.rounds import Rounds, Timed, calibration_workload, interleave
from lstm_edge_exporters.bootstrap import ratio_interval


def test_percentiles_are_in_microseconds():
    found = Timed(np.arange(1, 101) * 1000, np.zeros(1)).latency
    assert (found.p50, found.max, found.count) == (50.5, 100.0, 100)
    assert found.p90 == pytest.approx(90.1)
    assert found.p99 == pytest.approx(99.01)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("truth", [1.0, 1.3])
def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says(paired, truth):
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(120):
        old = generator.lognormal(0, 0.1, 25)
        new = generator.lognormal(0, 0.1, 25) * truth
        interval = ratio_interval(new, old, paired=paired)
        assert interval.low <= interval.ratio <= interval.high
        held += interval.low <= truth <= interval.high
    assert held / 120 > 0.88


def test_pairing_cancels_what_slowed_both_down():
    generator = np.random.default_rng(2)
    disturbed = np.where(np.arange(21) % 3 == 0, 5.0, 1.0)
    old = disturbed * generator.normal(100, 1, 21)
    new = disturbed * generator.normal(110, 1, 21)
    interval = ratio_interval(new, old, paired=True)
    assert 1.08 < interval.low < interval.high < 1.12


def test_noise_is_zero_for_what_does_not_change_and_grows_with_it():
    assert Rounds({}, np.full(10, 7.0), None).noise == 0
    assert Rounds({}, np.linspace(1, 2, 11), None).noise == pytest.approx(0.8 / 1.5)


def test_every_round_times_every_call_and_the_order_turns():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = interleave(calls, 1e-9, 6)
    assert set(found.timed) == set("abc")
    assert {len(timed.rounds) for timed in found.timed.values()} == {6}
    assert {timed.latency.count for timed in found.timed.values()} == {18}
    blocks = "".join(order)[9:]  # after three calls each to warm up
    first_of_rounds = blocks[::9]
    assert first_of_rounds == "abcabc"
    assert len(found.calibration) == 6


def test_a_slower_call_takes_longer_and_fewer_of_it_fit():
    found = interleave(
        {"once": calibration_workload, "thrice": lambda: [calibration_workload() for _ in range(3)]}, 0.3, 5
    )
    once, thrice = found.timed["once"], found.timed["thrice"]
    assert 2 < ratio_interval(thrice.rounds, once.rounds, paired=True).ratio < 4.5
    assert once.latency.count > thrice.latency.count
