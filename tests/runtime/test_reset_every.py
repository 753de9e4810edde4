"""Streams that start again from reset by themselves, and files whose training started every window so."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import ContractError, FileFormatError, InputError, StateWarning
from lstm_edge_runtime.manifest import KEY, Manifest, Signal, StateSpec, TensorSpec, Trained
from lstm_edge_runtime.state import to_arrays

CARRIED, FROM_RESET, WHOLE = Trained(True, 20, 0.5), Trained(False, 20, 1.0), Trained(False, None, 1.0)


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    """The same values for the same arguments, whichever tests ran before."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(name: str, x: np.ndarray):
    """What a step ``(3,)`` or a chunk ``(L, 3)`` of any of the files takes."""
    return {"x": x, "gain": x[..., :1]} if name == "gru" else x


def outputs(result) -> dict[str, np.ndarray]:
    return result if isinstance(result, dict) else {"": result}


def assert_same(left, right) -> None:
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def restated(path, **changes):
    """Return a file's bytes with another manifest."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    entry = next(each for each in model.metadata_props if each.key == KEY)
    entry.value = Manifest.from_json(entry.value)._replace(**changes).to_json()
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["lstm", "gru", "step", "unbatched"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_stream_gives_what_one_gives_that_is_reset_by_hand_before_each_window(opened, name, data):
    model, every = opened(name), data.draw(st.integers(1, 9), "every")
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
    stream, by_hand, age = model.stream(reset_every=every), model.stream(reset_every="never"), 0
    actions = st.sampled_from(["step", "chunk", "move", "detour", "reset", "refused"])
    for action in data.draw(st.lists(actions, min_size=1, max_size=12), "actions"):
        if action in ("step", "chunk"):
            x = rng.normal(size=(1 if action == "step" else data.draw(st.integers(1, 20)), 3)).astype("f")
            start, parts = 0, []
            while start < len(x):
                if age == every:
                    by_hand.reset()
                    age = 0
                size = min(every - age, len(x) - start)
                piece = x[start : start + size]
                parts.append(
                    outputs(
                        by_hand.step(inputs(name, x[0]))
                        if action == "step"
                        else by_hand.process(inputs(name, piece))
                    )
                )
                start, age = start + size, age + size
            got = outputs(
                stream.step(inputs(name, x[0])) if action == "step" else stream.process(inputs(name, x))
            )
            for key, value in got.items():
                sequence = key == "output" and action == "chunk"
                last = np.concatenate([part[key] for part in parts]) if sequence else parts[-1][key]
                np.testing.assert_array_equal(value, last)
        elif action == "move":
            moved = pickle.loads(pickle.dumps(stream.state))
            stream = model.stream(reset_every=every)
            stream.restore(moved)
        elif action == "detour":
            kept = stream.state
            stream.process(inputs(name, rng.normal(size=(every + 2, 3)).astype("f")))
            stream.restore(kept)
        elif action == "reset":
            stream.reset()
            by_hand.reset()
            age = 0
        else:
            with pytest.raises(InputError):
                stream.step(inputs(name, np.zeros(7, "f")))
            with pytest.raises(InputError):
                stream.process(inputs(name, np.zeros((2, 7), "f")))
        assert stream.state.age == age
        assert_same(stream.state, by_hand.state)


def test_a_chunk_across_windows_ends_as_a_run_of_its_last_window(opened):
    model = opened("lstm")
    x = samples(50, 3)
    stream = model.stream(reset_every="window")
    assert stream.reset_every == 20
    result = stream.process(x)
    alone, state = model.run(x[None, 40:])
    np.testing.assert_array_equal(result, alone["logits"][0])
    assert_same(stream.state, state)
    assert (stream.state.age, state.age, stream.steps_seen) == (10, 10, 50)


@pytest.mark.parametrize("cut", [3, 7, 10, 11])
def test_a_state_saved_midway_goes_on_to_start_again_at_the_right_step(opened, cut, tmp_path):
    model, x = opened("lstm"), samples(25, 3)
    whole = model.stream(reset_every=7)
    expected = [whole.step(sample) for sample in x]
    first = model.stream(reset_every=7)
    for sample in x[:cut]:
        first.step(sample)
    first.state.save(tmp_path / "s.npz")
    second, batch = model.stream(reset_every=7), model.streams(2, reset_every=7)
    source = batch.add()
    second.restore(State.load(tmp_path / "s.npz"))
    batch.restore(source, State.load(tmp_path / "s.npz"))
    for sample, wanted in zip(x[cut:], expected[cut:], strict=True):
        np.testing.assert_array_equal(second.step(sample), wanted)
        np.testing.assert_array_equal(batch.step({source: sample})[source], wanted)


def test_a_state_older_than_the_window_starts_again_at_once(model):
    x = samples(12, 3)
    carried = model.stream(reset_every="never")
    carried.process(x)
    stream = model.stream(reset_every=5)
    stream.restore(carried.state)
    np.testing.assert_array_equal(stream.step(x[0]), model.stream(reset_every="never").step(x[0]))
    assert stream.state.age == 1


def test_a_saved_state_without_its_age_or_with_a_false_one_is_refused(model, tmp_path):
    stream = model.stream(reset_every=5)
    stream.process(samples(4, 3))
    arrays = to_arrays(stream.state)
    for age in (None, np.array(-1), np.array(1.5), np.zeros(2, int)):
        saved = {name: array for name, array in arrays.items() if name != "age"}
        np.savez(tmp_path / "s.npz", **saved, **({} if age is None else {"age": age}))
        with pytest.raises(FileFormatError, match=r"has age|has no 'age'"):
            State.load(tmp_path / "s.npz")


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


def test_a_step_that_the_engine_refuses_at_a_boundary_leaves_states_and_ages(engine):
    model = load(tokens() if engine == "onnxruntime" else to_native(tokens()))
    stream, batch = model.stream(reset_every=2), model.streams(1, reset_every=2)
    source = batch.add()
    for token in (1, 2):
        stream.step(token)
        batch.step({source: token})
    for call in (lambda: stream.step(4), lambda: batch.step({source: 4}), lambda: stream.process([1, 2, 4])):
        with pytest.raises((ContractError, InputError)):
            call()
        for state in (stream.state, batch.state(source)):
            assert (state["h"].tolist(), state.age) == ([[0, 1, 1, 0]], 2)
    stream.step(3)
    batch.step({source: 3})
    for state in (stream.state, batch.state(source)):
        assert (state["h"].tolist(), state.age) == ([[0, 0, 0, 1]], 1)


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "40", "windows", [3]])
def test_what_is_no_number_of_steps_is_refused(model, every):
    for open_one in (lambda: model.stream(reset_every=every), lambda: model.streams(2, reset_every=every)):
        with pytest.raises(InputError, match="expected a positive integer, 'window' or 'never'"):
            open_one()


def test_the_window_of_a_file_that_does_not_say_is_an_error_with_what_to_do(opened):
    with pytest.raises(InputError, match=r"has no training window.*reset_every=100"):
        opened("gru").stream(reset_every="window")


@pytest.mark.parametrize(
    ("trained", "window", "words"),
    [
        (None, 20, 'windows of 20 steps.*reset_every="window"\\), model.stream\\(window=20\\) '),
        (FROM_RESET, None, 'windows of 20 steps.*reset_every="window"\\)'),
        (WHOLE, None, "whole samples.*Use model.stream\\(reset_every=STEPS\\)"),
    ],
)
def test_a_stream_that_outlives_what_was_trained_warns_once(path, trained, window, words):
    content = restated(path("lstm"), trained=trained, signal=Signal(window=window))
    with pytest.warns(StateWarning, match=words) as caught:
        stream = load(content).stream()
    assert [warning.filename for warning in caught] == [__file__]
    assert stream.reset_every is None
    model = load(content)
    with pytest.warns(StateWarning, match=r"model.streams\(3, reset_every="):
        model.streams(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.stream()
        load(content).selftest()
        for every in (7, "never"):
            load(content).stream(reset_every=every)
            load(content).streams(3, reset_every=every)


@pytest.mark.parametrize("trained", [None, CARRIED])
def test_a_file_that_was_trained_with_carried_states_or_does_not_say_is_not_warned_of(path, trained):
    content = restated(path("lstm"), trained=trained, signal=Signal())
    model = load(content)
    assert model.stream().reset_every is None
    assert model.streams(3).reset_every is None
    assert model.manifest.reset_every is None


def longest_frames() -> bytes:
    """A file whose frames end with the longest row: ``y = x + h``, and h counts the valid steps."""
    onnx = pytest.importorskip("onnx")
    info, node, kinds = onnx.helper.make_tensor_value_info, onnx.helper.make_node, onnx.TensorProto
    constants = {"zero": [0], "one": [1]}
    graph = onnx.helper.make_graph(
        [
            node("ReduceMax", ["lengths"], ["most"], keepdims=1),
            node("Slice", ["x", "zero", "most", "one"], ["valid"]),
            node("Unsqueeze", ["h", "one"], ["held"]),
            node("Add", ["valid", "held"], ["y"]),
            node("Cast", ["lengths"], ["steps"], to=kinds.FLOAT),
            node("Unsqueeze", ["steps", "one"], ["more"]),
            node("Add", ["h", "more"], ["h_n"]),
        ],
        "g",
        [
            info("x", kinds.FLOAT, ["N", "L", 3]),
            info("lengths", kinds.INT64, ["N"]),
            info("h", kinds.FLOAT, ["N", 3]),
        ],
        [info("y", kinds.FLOAT, ["N", "M", 3]), info("h_n", kinds.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 3)), TensorSpec("lengths", "int64", ("N",))),
        outputs=(TensorSpec("y", "float32", ("N", "longest", 3)),),
        states=(StateSpec("h", "h_n", "float32", ("N", 3)),),
        lengths="lengths",
    )
    onnx.helper.set_model_props(model, {KEY: manifest.to_json()})
    return model.SerializeToString()


def test_frames_that_end_with_the_longest_row_have_one_shape_with_and_without_resets():
    model, results = load(longest_frames()), []
    x = samples(2, 7, 3)
    for every in ("never", 100, 4):
        batch = model.streams(2, reset_every=every)
        ids = [batch.add(), batch.add()]
        results.append(batch.process(x, ids, [5, 2]))
        assert results[-1].shape == (2, 5, 3)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0][:, :4], results[2][:, :4])
    np.testing.assert_array_equal(results[2][0, 4], x[0, 4])
