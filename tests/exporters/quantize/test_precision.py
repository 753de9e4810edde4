"""Stored weights: small in the file, folded when a session opens, exact to the last
bit."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from lstm_edge_exporters.quantize import precision

from .conftest import make_model


def _stored(content, how, *arguments):
    model = ir.from_proto(onnx.load_model_from_string(content))
    how(model, *arguments)
    return ir.to_proto(model)


def _run(model, feeds):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def _stored_names(proto):
    return {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.name.endswith((".int8", ".float16"))
    }


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 8),
    width=st.integers(256, 300),
    spread=st.integers(-30, 30),
    seed=st.integers(0, 99),
    axis=st.sampled_from([-1, -2]),
)
def test_an_int8_weight_is_within_half_a_step_of_its_row(
    rows, width, spread, seed, axis
):
    weight = np.random.default_rng(seed).normal(size=(rows, width)) * 2.0**spread
    weight[0] = 0
    weight = weight.astype(np.float32)
    gemm = f"Gemm <transB = {int(axis == -1)}>"
    content = make_model(
        f"g (float[N,K] x) => (float[N,M] y) {{ y = {gemm} (x, w) }}", {"w": weight}
    )
    proto = _stored(content.SerializeToString(), precision.store_int8, {"Gemm"})
    held, scale = map(numpy_helper.to_array, proto.graph.initializer)
    step = np.abs(weight).max(axis=axis, keepdims=True) / 127
    assert held.dtype == np.int8
    assert np.all(
        np.abs(held.astype(np.float64) * scale - weight) <= step * 0.5 * 1.0001 + 1e-30
    )


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    ("how", "arguments"),
    [
        (precision.store_int8, ({"LSTM", "GRU", "RNN", "Gemm"},)),
        (precision.fp16_storage, ()),
    ],
)
def test_onnxruntime_folds_the_decoding_away_at_load(
    network, tmp_path, kind, how, arguments
):
    proto = _stored(network(kind), how, *arguments)
    assert len(_stored_names(proto)) >= 2
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    operators = {
        node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node
    }
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
    table = (
        rng.normal(size=(40, 16)) * np.exp2(rng.integers(-8, 8, size=(40, 1)))
    ).astype(np.float32)
    content = make_model(
        "g (int64[L] tokens) => (float[L,16] y) { y = Gather (table, tokens) }",
        {"table": table},
    )
    proto = _stored(content.SerializeToString(), precision.store_int8, {"Gather"})
    assert len(_stored_names(proto)) == 1
    got = _run(proto, {"tokens": np.arange(40)})
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(got - table) <= step * 0.5001)


@pytest.mark.parametrize(
    "scheme", [*precision.schemes("arm"), *precision.schemes("x86")], ids=str
)
def test_a_matrix_of_three_axes_runs_with_every_scheme(scheme):
    """A projection has one: with a scale per channel onnxruntime 1.32 quantizes it and
    refuses to run it."""
    rng = np.random.default_rng(0)
    text = (
        "g (float[L,16] x) => (float[1,L,16] y) { h = MatMul (x, w) y = MatMul (h, v) }"
    )
    content = make_model(
        text, {"w": rng.normal(size=(1, 16, 20)), "v": rng.normal(size=(20, 16))}
    )
    proto = precision.int8_dynamic(ir.from_proto(content), scheme)
    x = {"x": rng.normal(size=(5, 16)).astype(np.float32)}
    expected, got = (_run(model, x) for model in (content, proto))
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert {node.op_type for node in proto.graph.node} & {
        "DynamicQuantizeMatMul",
        "MatMulInteger",
    }


@pytest.mark.parametrize("scheme", precision.schemes("x86"), ids=str)
@pytest.mark.parametrize("stores", [False, True])
def test_a_vector_has_one_scale_and_no_integer_arithmetic(scheme, stores):
    rng = np.random.default_rng(0)
    content = make_model(
        "g (float[L,300] x) => (float[L] y) { h = MatMul (x, w) y = MatMul (h, v) }",
        {"w": rng.normal(size=(300, 300)), "v": rng.normal(size=300)},
    )
    if stores:
        proto = precision.int8_storage(ir.from_proto(content))
    else:
        proto = precision.int8_dynamic(ir.from_proto(content), scheme)
    x = {"x": rng.normal(size=(5, 300)).astype(np.float32)}
    expected, got = (_run(model, x) for model in (content, proto))
    assert np.abs(got - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("operator", "nodes"),
    [
        ("Gemm", "y = Gemm (x, w)"),
        ("MatMul", "y = MatMul (x, w)"),
    ],
)
def test_a_product_without_attributes_has_a_scale_per_column(operator, nodes):
    weight = np.random.default_rng(0).normal(size=(300, 3)) * [1.0, 30.0, 1000.0]
    content = make_model(
        f"g (float[N,K] x) => (float[N,M] y) {{ {nodes} }}",
        {"w": weight.astype(np.float32)},
    )
    proto = _stored(content.SerializeToString(), precision.store_int8, {operator})
    held, scale = map(numpy_helper.to_array, proto.graph.initializer)
    assert scale.size == 3
    np.testing.assert_allclose(
        scale.ravel(), np.abs(weight).max(axis=0) / 127, rtol=1e-6
    )
    assert (np.abs(held).max(axis=0) == 127).all()
