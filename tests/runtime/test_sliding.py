"""A sliding window gives at every step what the window alone gives from reset."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, LstmEdgeError, StateError
from lstm_edge_runtime.manifest import AxisRange
from lstm_edge_runtime.native import installed


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
    for sample in (
        np.zeros(4, np.float32),
        np.zeros((1, 3), np.float32),
        "abc",
        [1, [2], 3],
    ):
        with pytest.raises(InputError, match="x "):
            stream.step(sample)
    with pytest.raises(InputError, match="x has shape"):
        stream.process(5.0)
    assert stream.steps_seen == 1
    with pytest.raises(InputError, match="window is 0, expected a whole number from 1"):
        model.stream(window=0)
    with pytest.raises(InputError, match="remove reset_every"):
        model.stream(window=2, reset_every=3)


def test_a_refused_sample_leaves_the_window_as_it_was(path):
    model = load(path("lstm"), check=True)
    x = np.random.default_rng(8).normal(size=(9, 3)).astype(np.float32)
    stream = model.stream(window=3)
    with pytest.raises(InputError, match="x is nan"):  # also before the window is full
        stream.step([np.nan, 0, 0])
    for sample in x[:4]:
        stream.step(sample)
    with pytest.raises(InputError, match="x is nan"):
        stream.step([0, np.nan, 0])
    assert stream.steps_seen == 4
    expected = model.run(x[None, 2:5])[0]["logits"][0]
    np.testing.assert_array_equal(stream.step(x[4]), expected)


def tokens(engine):
    """Return a model of tokens: an embedding with five rows, and a running sum."""
    return load(TOKENS.with_suffix(f".{engine}"))


TOKENS = Path(__file__).parent / "data" / "tokens.onnx"
WRONG_TOKENS = {
    "a fraction": 1.7,
    "no number": np.nan,
    "text": "3",
    "a bool": True,
    "too large for the dtype": 2**70,
    "unsigned beyond the dtype": np.uint64(2**63 + 1),
    "outside the table": 99,
    "below the table": -6,
}


@pytest.mark.parametrize("engine", ["onnx", "lep"] if installed() else ["onnx"])
@pytest.mark.parametrize("token", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
def test_a_window_refuses_the_tokens_that_a_stream_refuses(engine, token):
    model = tokens(engine)
    with pytest.raises(LstmEdgeError):
        model.stream().step(token)
    stream = model.stream(window=3)
    fresh = model.stream(window=3)
    for number in range(6):  # before the window is full, and after
        with pytest.raises(LstmEdgeError):
            stream.step(token)
        expected = fresh.step(number % 5)
        np.testing.assert_array_equal(stream.step(number % 5), expected)
        assert (expected is None) == (number < 2)


def test_chunks_of_a_window_have_any_length_and_the_window_one_of_the_file(content):
    for name, samples in (
        ("lstm", np.ones((3, 3), np.float32)),
        ("tokens", np.ones(3, np.int64)),
    ):
        model = load(content(name))
        manifest = model.manifest._replace(ranges={"L": AxisRange(4, 8)})
        model.manifest = model._engine.manifest = manifest
        stream = model.stream(window=6)
        assert stream.step(samples[0]) is None
        assert stream.process(samples[:2]) is None
        expected = np.asarray(stream.process(np.concatenate([samples] * 4)))
        window = np.stack([samples[0]] * 6)[None]
        got = next(iter(model.run(window)[0].values()))[0]
        np.testing.assert_array_equal(expected, got if got.ndim < 2 else got[-1])
        for window, nearest in ((3, 4), (9, 8)):
            with pytest.raises(
                InputError, match=f"window is {window}, .*; use {nearest}"
            ):
                model.stream(window=window)


def test_a_window_within_the_delay_is_refused_and_one_in_units_is_not(opened):
    with pytest.raises(InputError, match="has a delay of 2 frames; use at least 3"):
        opened("late").stream(window=2)
    with pytest.raises(InputError, match="expected a multiple of 4, the unit"):
        opened("strided").stream(window=6)
    strided = opened("strided")
    x = np.random.default_rng(9).normal(size=(17, 3)).astype(np.float32)
    stream = strided.stream(window=8)
    steps = [stream.step(sample) for sample in x]
    assert [step is None for step in steps] == [True] * 7 + [False] * 10
    outputs, _ = strided.run(x[None, -8:])
    for name, array in outputs.items():
        np.testing.assert_allclose(
            steps[-1][name], array[0, -1] if array.ndim > 2 else array[0], atol=1e-6
        )


def test_a_second_thread_is_refused_in_a_window(model):
    stream = model.stream(window=2)
    with stream._entry:
        for call in (
            lambda: stream.step(np.zeros(3)),
            lambda: stream.process(np.zeros((2, 3))),
            stream.reset,
        ):
            with pytest.raises(StateError, match="another thread is using this stream"):
                call()


@pytest.mark.parametrize("name", ["lstm", "strided"])
def test_steps_chunks_and_refusals_follow_one_another(opened, name):
    model = opened(name)
    unit = model.manifest.unit
    width = model.inputs[0].axes[-1]
    window = 4 * unit
    x = np.random.default_rng(2).normal(size=(12 * unit, width)).astype(np.float32)
    stream = model.stream(window=window)

    def expected(end):
        results = model.run(x[None, end - window : end])[0]
        rows = {key: array[0] for key, array in results.items()}
        return {key: row[-1] if row.ndim > 1 else row for key, row in rows.items()}

    def check(result, end):
        results = result if isinstance(result, dict) else {"logits": result}
        for key, array in expected(end).items():
            np.testing.assert_array_equal(results[key], array)

    for end in range(1, window + 1):
        result = stream.step(x[end - 1])
    check(result, window)
    for end in range(window + 1, 6 * unit + 1):
        masked = np.ma.masked_less(x[end - 1], np.inf)
        for sample in (masked, np.zeros(width + 1, np.float32), "abc"):
            with pytest.raises(InputError):
                stream.step(sample)
        sample = x[end - 1]
        check(stream.step(sample.tolist() if end % 2 else sample), end)
    check(stream.process(x[6 * unit : 9 * unit]), 9 * unit)
    first = None
    for end in range(9 * unit + 1, 12 * unit + 1):
        result = stream.step(x[end - 1])
        first = result if first is None else first
        check(result, end)
    check(first, 9 * unit + 1)  # a result is a copy
    stream.reset()
    assert stream.step(x[0]) is None


def test_an_index_outside_its_table_leaves_the_window_as_it_was(opened):
    model = opened("tokens")
    stream = model.stream(window=2)
    tokens = np.array([1, 2, 0, 3])
    for token in tokens[:3]:
        stream.step(token)
    with pytest.raises(LstmEdgeError):
        stream.step(np.array(10**6))
    result = stream.step(tokens[3])
    expected = model.run(tokens[None, 2:])[0]
    (row,) = (array[0] for array in expected.values())
    np.testing.assert_array_equal(result, row[-1] if row.ndim > 1 else row)
