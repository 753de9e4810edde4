"""A sliding window gives at every step what the window alone gives from reset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    window=st.integers(1, 6), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6)
)
def test_every_step_is_a_run_of_the_last_window(model, window, sizes):
    x = (
        np.random.default_rng(sum(sizes))
        .normal(size=(sum(sizes), 3))
        .astype(np.float32)
    )
    by_step = model.stream(window=window)
    by_chunk = model.stream(window=window)
    end = 0
    for size in sizes:
        steps = [by_step.step(sample) for sample in x[end : end + size]]
        chunk = by_chunk.process(x[end : end + size])
        end += size
        assert by_step.steps_seen == by_chunk.steps_seen == end
        if end < window:
            assert (steps, chunk) == ([None] * size, None)
        else:
            expected = model.run(x[None, end - window : end])[0]["logits"][0]
            np.testing.assert_array_equal(steps[-1], expected)
            np.testing.assert_array_equal(chunk, expected)
    by_step.reset()
    assert (by_step.steps_seen, by_step.step(x[0]) is None) == (0, window > 1)


def test_a_network_that_can_not_be_streamed_runs_over_a_window(content):
    model = load(content("late"))
    x = np.ones((4, 3), np.float32)
    model.manifest = model.manifest._replace(unstreamable="layer lstm is bidirectional")
    expected = model.run(x[None])[0]["logits"]
    np.testing.assert_array_equal(
        model.stream(window=4).process(x), expected[0, -1]
    )  # of every step, the last


def test_a_sample_that_does_not_fit_is_refused_and_leaves_no_trace(model):
    stream = model.stream(window=2)
    stream.step(np.zeros(3, np.float32))
    for sample in (np.zeros(4, np.float32), np.zeros((1, 3), np.float32)):
        with pytest.raises(InputError, match="got samples"):
            stream.step(sample)
    assert stream.steps_seen == 1
    with pytest.raises(InputError, match="window is 0, expected a whole number from 1"):
        model.stream(window=0)
    with pytest.raises(InputError, match="remove reset_every"):
        model.stream(window=2, reset_every=3)
