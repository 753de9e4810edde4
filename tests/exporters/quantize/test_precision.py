"""Stored weights: small in the file, gone when a session opens, right to their last bit."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from lstm_edge_exporters.quantize import precision


def _stored(content, how, *arguments):
    model = ir.from_proto(onnx.load_model_from_string(content))
    how(model, *arguments)
    return ir.to_proto(model)


def _stored_names(proto):
    return {tensor.name for tensor in proto.graph.initializer if tensor.name.endswith((".int8", ".float16"))}


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 8),
    width=st.integers(256, 300),
    spread=st.integers(-30, 30),
    seed=st.integers(0, 99),
    axis=st.sampled_from([-1, -2]),
)
def test_an_int8_weight_is_within_half_a_step_of_its_row(rows, width, spread, seed, axis):
    weight = np.random.default_rng(seed).normal(size=(rows, width)) * 2.0**spread
    weight[0] = 0
    weight = weight.astype(np.float32)
    dims = {-1: [width, rows], -2: [rows, width]}[axis]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(axis == -1))],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", None])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", dims[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    proto = _stored(content.SerializeToString(), precision.store_int8, {"Gemm"})
    held, scale = map(numpy_helper.to_array, proto.graph.initializer)
    step = np.abs(weight).max(axis=axis, keepdims=True) / 127
    assert held.dtype == np.int8
    assert np.all(np.abs(held.astype(np.float64) * scale - weight) <= step * 0.5 * 1.0001 + 1e-30)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    ("how", "arguments"),
    [
        (precision.store_int8, ({"LSTM", "GRU", "RNN", "Gemm"},)),
        (precision.fp16_storage, ()),
    ],
)
def test_onnxruntime_folds_the_decoding_away_at_load(network, tmp_path, kind, how, arguments):
    proto = _stored(network(kind), how, *arguments)
    assert len(_stored_names(proto)) >= 2
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not operators & {"Cast", "Mul", "DequantizeLinear"}


def test_fp16_leaves_a_weight_beyond_its_range_as_it_is(network):
    def edit(graph):
        big = next(tensor for tensor in graph.initializer if tensor.name == "W0")
        array = numpy_helper.to_array(big).copy()
        array[0, 0, 0] = 1e6
        big.CopyFrom(numpy_helper.from_array(array, "W0"))

    proto = _stored(network(edit=edit), precision.fp16_storage)
    held = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert held["W0"] == onnx.TensorProto.FLOAT
    assert held["R0.float16"] == onnx.TensorProto.FLOAT16


def test_an_embedding_table_is_stored_by_row():
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(40, 16)) * np.exp2(rng.integers(-8, 8, size=(40, 1)))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "tokens"], ["y"])],
        "g",
        [helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["L"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["L", 16])],
        [numpy_helper.from_array(table, "table")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    proto = _stored(content.SerializeToString(), precision.store_int8, {"Gather"})
    assert len(_stored_names(proto)) == 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"tokens": np.arange(40)})
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found - table) <= step * 0.5001)


@pytest.mark.parametrize("scheme", [*precision.schemes("arm"), *precision.schemes("x86")], ids=str)
def test_a_matrix_of_three_axes_runs_with_every_scheme(scheme):
    """A projection has one: with a scale per channel onnxruntime 1.32 quantizes it and refuses to run it."""
    weights = {"w": (1, 16, 20), "v": (20, 16)}
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["L", 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, "L", 16])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    proto = precision.int8_dynamic(ir.from_proto(content), scheme)
    x = {"x": rng.normal(size=(5, 16)).astype(np.float32)}
    expected, found = (
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, x
        )[0]
        for each in (content, proto)
    )
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert {node.op_type for node in proto.graph.node} & {"DynamicQuantizeMatMul", "MatMulInteger"}
