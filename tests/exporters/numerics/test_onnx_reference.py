"""An ONNX graph in float64: ONNX's recurrent operators, and every other one, perturbed as float32 rounds."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from lstm_edge_exporters.numerics.noise import compare_outputs, expected
from lstm_edge_exporters.numerics.onnx_reference import OnnxReference

OPS = {"LSTM": (4, 3), "GRU": (3, 2), "RNN": (1, 2)}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    op=st.sampled_from(sorted(OPS)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    lengths=st.booleans(),
    biased=st.booleans(),
    started=st.booleans(),
    peepholes=st.booleans(),
    clip=st.sampled_from([None, 0.7]),
    linear=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_float64_operators_compute_what_onnxruntime_does(
    op, direction, lengths, biased, started, peepholes, clip, linear, seed
):
    rng = np.random.default_rng(seed)
    gates, outputs = OPS[op]
    I, H, N, L = 3, 4, 3, 6  # noqa: E741
    D = 2 if direction == "bidirectional" else 1

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    feeds = {"X": draw(L, N, I), "W": draw(D, gates * H, I), "R": draw(D, gates * H, H)}
    names = ["X", "W", "R", "", "", ""]
    for place, name, array, wanted in (
        (3, "B", draw(D, 2 * gates * H), biased),
        (4, "lens", np.array([L, 2, 1], np.int32), lengths),
        (5, "h", draw(D, N, H), started),
    ):
        if wanted:
            feeds[name], names[place] = array, name
    if op == "LSTM":
        names += ["c" if started else "", "P" if peepholes else ""]
        feeds |= ({"c": draw(D, N, H)} if started else {}) | ({"P": draw(D, 3 * H)} if peepholes else {})
    options = {"hidden_size": H, "direction": direction}
    if clip is not None:
        options["clip"] = clip
    if op == "GRU":
        options["linear_before_reset"] = int(linear)
    outs = ["Y", "Y_h", "Y_c"][:outputs]
    kinds = {np.dtype("float32"): onnx.TensorProto.FLOAT, np.dtype("int32"): onnx.TensorProto.INT32}
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, **options)],
        "g",
        [
            helper.make_tensor_value_info(name, kinds[array.dtype], array.shape)
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    reference = OnnxReference(
        model, lambda feeds: dict(zip(outs, session.run(outs, dict(feeds)), strict=True))
    )
    known = expected(reference, feeds)
    for record in compare_outputs(known.ref32, known):
        assert record.ok, record
        assert record.floor < 1e-4
        assert known.ref64[record.name].dtype == np.float64


@pytest.mark.parametrize("operator", ["Gelu", "LayerNormalization", "Softmax", "Clip"])
@pytest.mark.parametrize("declared", [True, False])
def test_an_operator_whose_body_depends_on_its_types_is_perturbed(operator, declared):
    scale = {"LayerNormalization": ["scale"]}.get(operator, [])
    graph = helper.make_graph(
        [
            helper.make_node("Exp", ["x"], ["positive"]),
            helper.make_node(operator, ["positive", *scale], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones(4, np.float32), "scale")] if scale else [],
    )
    if declared:
        graph.value_info.append(helper.make_tensor_value_info("positive", onnx.TensorProto.FLOAT, [3, 4]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    reference = OnnxReference(model, lambda feeds: {"y": session.run(None, dict(feeds))[0]})
    x = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    known = expected(reference, {"x": x})
    assert all(record.ok for record in compare_outputs(known.ref32, known))
    assert np.all((known.floors["y"] > 0) & (known.floors["y"] < 1e-5))
