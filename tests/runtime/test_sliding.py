"""A sliding window gives at every step what the window alone gives from reset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.ort import sealed

pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper


def made(path, *, backward=False):
    """Write an LSTM of 2 features and 3 hidden units that returns its last hidden state."""
    rng, directions = np.random.default_rng(0), 1 + backward
    shapes = {"W": (directions, 12, 2), "R": (directions, 12, 3), "B": (directions, 24)}
    stored = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    options = {"hidden_size": 3, "direction": "bidirectional" if backward else "forward"}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "W", "R", "B", "", "h", "c"], ["", "hn", "cn"], **options),
        helper.make_node("Transpose", ["hn"], ["o"], perm=[1, 0, 2]),
        helper.make_node("Flatten", ["o"], ["out"]),
    ]
    axes = (directions, "N", 3)
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 2)),),
        outputs=(TensorSpec("out", "float32", ("N", 3 * directions)),),
        states=tuple(StateSpec(a, b, "float32", axes) for a, b in {"h": "hn", "c": "cn"}.items()),
    )

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", ["N", "L", 2]), *(info(name, axes) for name in ("h", "c"))],
        [info("out", ["N", 3 * directions]), *(info(name, axes) for name in ("hn", "cn"))],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key=KEY, value=manifest.to_json())
    path.write_bytes(sealed(model.SerializeToString()))
    return load(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sliding") / "m.onnx")


@settings(deadline=None, max_examples=30, derandomize=True)
@given(window=st.integers(1, 6), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_every_step_is_a_run_of_the_last_window(model, window, sizes):
    x = np.random.default_rng(sum(sizes)).normal(size=(sum(sizes), 2)).astype(np.float32)
    by_step, by_chunk = model.stream(window=window), model.stream(window=window)
    begin = 0
    for size in sizes:
        for sample in x[begin : begin + size]:
            found = by_step.step(sample)
        chunk = by_chunk.process(x[begin : begin + size])
        begin += size
        assert by_step.steps_seen == by_chunk.steps_seen == begin
        if begin < window:
            assert found is None
            assert chunk is None
            continue
        expected = model.run(x[None, begin - window : begin])[0]["out"][0]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(chunk, expected)
    by_step.reset()
    assert (by_step.steps_seen, by_step.step(x[0]) is None) == (0, window > 1)


def test_a_bidirectional_network_streams_over_a_window(tmp_path):
    model = made(tmp_path / "b.onnx", backward=True)
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    stream = model.stream(window=4)
    for end, sample in enumerate(x, 1):
        found = stream.step(sample)
        if end >= 4:
            np.testing.assert_array_equal(found, model.run(x[None, end - 4 : end])[0]["out"][0])


def test_what_does_not_fit_is_refused_and_leaves_no_trace(model):
    stream = model.stream(window=2)
    stream.step(np.zeros(2, np.float32))
    for sample in (np.zeros(3, np.float32), np.zeros((1, 2), np.float32)):
        with pytest.raises(InputError, match="got samples"):
            stream.step(sample)
    assert stream.steps_seen == 1
    with pytest.raises(InputError, match="window is 0, expected a whole number from 1"):
        model.stream(window=0)
    with pytest.raises(InputError, match="remove reset_every"):
        model.stream(window=2, reset_every=3)
