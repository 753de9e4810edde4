import gc
import pickle
import weakref
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import ContractError, InputError, StateError
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")  # numpy below 1.24


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    """The same values for the same arguments, whichever tests ran before."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_same_state(left, right) -> None:
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def feed(model, stream, name: str, x: np.ndarray):
    """One step or chunk of any of the files; ``x`` is (3,) or (L, 3)."""
    sample = {"x": x, "gain": x[..., :1]} if name == "gru" else x
    return stream.process(sample) if x.ndim == 2 else stream.step(sample)


STREAMABLE = ("lstm", "gru", "step", "unbatched")


@pytest.mark.parametrize("name", STREAMABLE)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_cutting_with_resets_saves_and_restores_equals_the_whole(opened, name, data):
    model = opened(name)
    steps = data.draw(st.integers(1, 24), "steps")
    x = (
        np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
        .normal(size=(steps, 3))
        .astype(np.float32)
    )
    whole = model.stream()
    expected = feed(model, whole, name, x)
    stream, place = model.stream(), 0
    while place < steps:
        action = data.draw(st.sampled_from(["step", "chunk", "move", "detour", "fresh"]), "action")
        if action == "step":
            result = feed(model, stream, name, x[place])
            place += 1
        elif action == "chunk":
            size = data.draw(st.integers(1, steps - place), "size")
            result = feed(model, stream, name, x[place : place + size])
            place += size
        elif action == "move":
            moved = pickle.loads(pickle.dumps(stream.state))
            stream = model.stream()
            stream.restore(moved)
        elif action == "detour":
            kept = stream.state
            feed(model, stream, name, x[:2])
            stream.restore(kept)
        else:
            stream.reset()
            place = 0
    results = result if isinstance(result, dict) else {"": result}
    for key, value in (expected if isinstance(expected, dict) else {"": expected}).items():
        last = value[-1] if key == "output" else value
        got = results[key][-1] if results[key].ndim > last.ndim else results[key]
        if name == "lstm":
            np.testing.assert_array_equal(got, last)
        np.testing.assert_allclose(got, last, atol=2e-6)
    for key, value in whole.state.items():
        np.testing.assert_allclose(stream.state[key], value, atol=2e-6)


def test_steps_equal_one_run_of_the_whole_sequence(path):
    model = load(path("lstm"))
    x = samples(1, 50, 3)
    outputs, state = model.run(x)
    stream = model.stream()
    for sample in x[0]:
        last = stream.step(sample)
    np.testing.assert_array_equal(last, outputs["logits"][0])
    assert_same_state(stream.state, state)
    assert stream.steps_seen == 50


def test_step_drops_the_axes_of_size_one_and_keeps_stacked_rows_and_sequences(opened):
    assert opened("lstm").stream().step([1, 2, 3]).shape == (4,)
    assert opened("lstm").stream().process(samples(1, 3)).shape == (4,)
    stream = opened("gru").stream()
    shapes = {k: v.shape for k, v in stream.step({"x": samples(3), "gain": [1]}).items()}
    assert shapes == {"logits": (2, 8), "output": (8,)}
    for length in (1, 6):
        result = stream.process({"x": samples(length, 3), "gain": samples(length, 1)})
        assert {k: v.shape for k, v in result.items()} == {"logits": (2, 8), "output": (length, 8)}


def test_a_sequence_output_holds_what_each_step_gives(opened):
    x, gain = samples(7, 3), samples(7, 1)
    stream = opened("gru").stream()
    stepped = [stream.step({"x": a, "gain": b})["output"] for a, b in zip(x, gain, strict=True)]
    np.testing.assert_allclose(
        opened("gru").stream().process({"x": x, "gain": gain})["output"], stepped, atol=1e-6
    )


def test_a_full_rank_sample_is_taken_too(model):
    x = samples(3)
    np.testing.assert_array_equal(model.stream().step(x[None, None]), model.stream().step(x))


def test_every_kind_of_sample_goes_in_alike_once_a_step_is_bound(model):
    stream = model.stream()
    stream.step(np.zeros(3, np.float32))
    start = stream.state
    plain = np.array([0.5, -2.0, 3.0], np.float32)
    wide = np.full((3, 2), 9, np.float32)
    wide[:, 0] = plain
    kinds = [plain, plain[None, None], plain.tolist(), plain.astype(float), plain.astype(">f4"), wide[:, 0],
             np.float16(plain), array("f", plain), np.ma.array(plain), {"x": plain}]  # fmt: skip
    for sample in kinds:
        stream.restore(start)
        result = stream.step(sample)
        expected = model.stream()
        expected.restore(start)
        np.testing.assert_array_equal(result, expected.process(plain[None]), err_msg=repr(sample))


def test_a_result_stays_as_it_was_when_the_stream_goes_on(model):
    stream = model.stream()
    first = stream.step(samples(3))
    kept = first.copy()
    stream.step(samples(3))
    np.testing.assert_array_equal(first, kept)
    state = stream.state
    held = state["h_0"].copy()
    stream.step(samples(3))
    np.testing.assert_array_equal(state["h_0"], held)


def test_a_reset_stream_equals_a_new_one_in_every_state(opened):
    for name in STREAMABLE:
        model = opened(name)
        stream = model.stream()
        feed(model, stream, name, samples(9, 3))
        stream.reset()
        assert_same_state(stream.state, model.stream().state)
        assert stream.steps_seen == 0


def test_two_streams_of_one_model_do_not_touch_each_other(model):
    a, b = model.stream(), model.stream()
    x = samples(20, 3)
    alone = model.stream().process(x)
    for sample in x:
        result = a.step(sample)
        b.step(-sample)
    np.testing.assert_array_equal(result, alone)


def test_a_state_moves_between_machines_through_a_file(path, tmp_path):
    x = samples(12, 3)
    expected = load(path("lstm")).stream().process(x)
    first = load(path("lstm")).stream()
    first.process(x[:5])
    first.state.save(tmp_path / "s.npz")
    second = load(path("lstm").read_bytes()).stream()
    second.restore(State.load(tmp_path / "s.npz"))
    np.testing.assert_array_equal(second.process(x[5:]), expected)


WRONG = [
    (np.zeros(4, np.float32), r"x has shape \(4,\), expected \(3,\)"),
    (np.zeros((2, 3), np.float32), r"x has shape \(2, 3\), expected \(3,\)"),
    (np.zeros((1, 2, 3), np.float32), r"x has shape \(1, 2, 3\), expected \(N, L, 3\) with N=1, L=1"),
    (np.zeros(3, complex), "x has dtype complex128, expected float32"),
    (np.zeros(0, np.float32), r"x has shape \(0,\)"),
    ("abc", "x has dtype"),
    ([1, None, 2], "not a regular array of numbers"),
    ({"z": [1, 2, 3]}, r"got inputs \['z'\]"),
]


@pytest.mark.parametrize(("sample", "message"), WRONG)
def test_a_wrong_sample_is_refused_and_the_state_is_unharmed(model, sample, message):
    stream = model.stream()
    stream.process(samples(4, 3))
    stream.step(samples(3))
    before, steps = stream.state, stream.steps_seen
    with pytest.raises(InputError, match=message):
        stream.step(sample)
    assert_same_state(stream.state, before)
    assert stream.steps_seen == steps


@pytest.mark.parametrize(
    "chunk",
    [np.zeros((0, 3), np.float32), np.zeros((4, 2), np.float32), np.zeros(3, np.float32), [[1, 2, 3], [1]]],
)
@pytest.mark.parametrize("name", ["lstm", "step", "unbatched"])
def test_a_wrong_chunk_is_refused_and_the_state_is_unharmed(opened, name, chunk):
    stream = opened(name).stream()
    stream.process(samples(5, 3))
    before = stream.state
    with pytest.raises(InputError):
        stream.process(chunk)
    assert_same_state(stream.state, before)
    assert stream.steps_seen == 5


def test_a_chunk_that_fails_half_way_leaves_the_state_at_its_start(path):
    stream = load(path("step"), check=True).stream()
    stream.process(samples(3, 3))
    before = stream.state
    chunk = samples(6, 3)
    chunk[4, 1] = np.nan
    with pytest.raises(InputError, match="input is nan"):
        stream.process(chunk)
    assert_same_state(stream.state, before)
    assert stream.steps_seen == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_checking_refuses_what_is_not_finite_and_not_checking_lets_it_in(content, bad):
    sample = np.array([0, bad, 0], np.float32)
    model = load(content("lstm"), check=True)
    stream, batch = model.stream(), model.streams(2)
    ids = [batch.add(), batch.add()]
    for _ in range(2):  # the first sample and the fast path
        stream.step(samples(3))
        before, in_batch = stream.state, batch.state(ids[0])
        for call in (
            lambda: stream.step(sample),
            lambda: stream.process(sample[None]),
            lambda: batch.step([sample, sample], ids),
            lambda: batch.process([[sample], [sample]], ids),
            lambda: model.run(sample[None, None]),
        ):
            with pytest.raises(InputError, match=r"x is (nan|inf) at"):
                call()
        assert_same_state(stream.state, before)
        assert_same_state(batch.state(ids[0]), in_batch)
    after = load(content("lstm")).stream().step(sample)
    assert after.shape == (4,)
    if model.engine == "native" and np.isnan(bad):
        assert np.isnan(after).all()


def test_a_sample_of_any_kind_of_float_is_converted(opened):
    model = opened("lstm")
    expected = model.stream().step(np.array([1, 2, 3], np.float32))
    for sample in ([1, 2, 3], np.array([1, 2, 3], np.float64), np.array([1, 2, 3], np.float16)):
        stream = model.stream()
        for _ in range(2):  # before and behind the fast path
            stream.reset()
            np.testing.assert_array_equal(stream.step(sample), expected)
    stream = model.stream()
    stream.step([1, 2, 3])
    with pytest.raises(InputError, match="shape"):
        stream.step(np.float16(1))


def tokens() -> bytes:
    """A file of one step a call that fails where a token is beyond its table: it counts tokens 0 to 3."""
    onnx = pytest.importorskip("onnx")
    info, node, kinds = onnx.helper.make_tensor_value_info, onnx.helper.make_node, onnx.TensorProto
    table = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "table")
    graph = onnx.helper.make_graph(
        [node("Gather", ["table", "token"], ["row"]), node("Add", ["h", "row"], ["hn"])],
        "g",
        [info("token", kinds.INT64, ["N"]), info("h", kinds.FLOAT, ["N", 4])],
        [info("hn", kinds.FLOAT, ["N", 4]), info("row", kinds.FLOAT, ["N", 4])],
        [table],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    manifest = Manifest(
        inputs=(TensorSpec("token", "int64", ("N",)),),
        outputs=(TensorSpec("row", "float32", ("N", 4)),),
        states=(StateSpec("h", "hn", "float32", ("N", 4)),),
        sequence=None,
    )
    onnx.helper.set_model_props(made, {KEY: manifest.to_json()})
    return made.SerializeToString()


def test_a_failure_inside_onnxruntime_leaves_the_state_as_it_was():
    stream = load(tokens()).stream()
    stream.step(1)
    before = stream.state
    with pytest.raises(
        ContractError, match=r"could not run the file: Gather '': indices .* out of data bounds"
    ):
        stream.step(4)
    assert_same_state(stream.state, before)
    stream.step(1)
    assert stream.state["h"].tolist() == [[0, 2, 0, 0]]


def test_another_models_state_is_refused_and_the_own_one_kept(opened):
    stream = opened("lstm").stream()
    stream.process(samples(5, 3))
    before = stream.state
    foreign = opened("gru").stream().state
    two_rows = opened("lstm").run(samples(2, 4, 3))[1]
    for state in (foreign, two_rows, dict(before), State({"h_0": before["h_0"]}, before.identity)):
        with pytest.raises(StateError):
            stream.restore(state)
        assert_same_state(stream.state, before)


def test_a_stream_that_is_dropped_frees_its_session(path, sessions):
    stream = load(path("lstm")).stream()
    stream.step(samples(3))
    stream.process(samples(4, 3))
    gone = weakref.ref(sessions.pop())
    del stream
    gc.collect()
    assert gone() is None


def test_the_first_step_never_sees_other_inputs_than_its_own():
    """A branch by an input's value (silero_vad's sampling rate) fails where a buffer still holds zeros."""
    onnx = pytest.importorskip("onnx")
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    number = lambda name, value: onnx.numpy_helper.from_array(np.array(value), name)  # noqa: E731
    good = onnx.helper.make_graph(
        [node("Add", ["x", "h"], ["sum"])], "good", [], [info("sum", onnx.TensorProto.FLOAT, None)]
    )
    bad = onnx.helper.make_graph(
        [node("Reshape", ["x", "wrong"], ["never"])],
        "bad",
        [],
        [info("never", onnx.TensorProto.FLOAT, None)],
        [number("wrong", [7, 7])],
    )
    graph = onnx.helper.make_graph(
        [
            node("Equal", ["sr", "rate"], ["same"]),
            node("If", ["same"], ["y"], then_branch=good, else_branch=bad),
            node("Identity", ["y"], ["hn"]),
        ],
        "g",
        [
            info("x", onnx.TensorProto.FLOAT, ["N", 3]),
            info("sr", onnx.TensorProto.INT64, []),
            info("h", onnx.TensorProto.FLOAT, ["N", 3]),
        ],
        [info("y", onnx.TensorProto.FLOAT, ["N", 3]), info("hn", onnx.TensorProto.FLOAT, ["N", 3])],
        [number("rate", 16000)],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", 3)), TensorSpec("sr", "int64", ())),
        outputs=(TensorSpec("y", "float32", ("N", 3)),),
        states=(StateSpec("h", "hn", "float32", ("N", 3)),),
        sequence=None,
    )
    onnx.helper.set_model_props(made, {KEY: manifest.to_json()})
    model = load(made.SerializeToString())
    stream = model.stream()
    with pytest.raises(ContractError, match="onnxruntime could not run the file"):
        stream.step({"x": [1, 2, 3], "sr": 8000})
    for _ in range(2):
        result = stream.step({"x": [1, 2, 3], "sr": 16000})
    assert result.tolist() == [2, 4, 6]
