"""Indices from inputs: in range they pick what they did, out of range they are told and read nothing."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.targets.c._indices import check_indices
from lstm_edge_runtime.errors import UnsupportedError

DATA = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
OPERATORS = {
    # operator and attributes: shape of the indices, sizes of what each one picks from
    ("Gather", ()): ((2, 2), [2]),
    ("Gather", (("axis", 2),)): ((), [4]),
    ("GatherElements", (("axis", -2),)): ((2, 2, 4), [3]),
    ("GatherND", ()): ((3, 2), [2, 3]),
    ("GatherND", (("batch_dims", 1),)): ((2, 1), [3]),
    ("ScatterElements", (("axis", 1),)): ((2, 1, 4), [3]),
    ("ScatterND", ()): ((1, 3), [2, 3, 4]),
}


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def built(operator, attributes, shape, dtype=TensorProto.INT64, opset=17):
    """A graph with the operator on ``DATA``, its indices an input behind an Identity."""
    stored = [numpy_helper.from_array(DATA, "data")]
    inputs = ["data", "i"]
    if operator.startswith("Scatter"):
        # ScatterND at points of all axes takes one value a point
        updates = np.full(shape[:-1] if operator == "ScatterND" else shape, -1, np.float32)
        stored.append(numpy_helper.from_array(updates, "updates"))
        inputs.append("updates")
    nodes = [
        helper.make_node("Identity", ["indices"], ["i"]),
        helper.make_node(operator, inputs, ["y"], **dict(attributes)),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("indices", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("operator", "attributes", "dtype"),
    [
        (*each, dtype)
        for each in OPERATORS
        for dtype in ("int64", "int32")
        if dtype == "int64" or "ND" not in each[0]  # those take int64 alone
    ],
)
def test_indices_in_range_pick_what_they_did_and_others_are_told(operator, attributes, dtype):
    shape, sizes = OPERATORS[operator, attributes]
    plain = built(operator, attributes, shape, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    assert check_indices(model, None)
    before, after = session(plain), session(model)
    bounds = np.array(sizes) if len(sizes) > 1 else sizes[0]
    worst = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    for turn in range(40):
        indices = np.asarray(rng.integers(-bounds, bounds, shape or None), dtype)
        if turn % 2:
            where = rng.integers(indices.size)
            limit = np.broadcast_to(bounds, shape).flat[where]
            strange = (limit, -limit - 1, worst.max, worst.min, limit + 500, 4294967299)[turn % 6]
            indices.flat[where] = min(max(int(strange), worst.min), worst.max)
            assert after.run(None, {"indices": np.asarray(indices)})[1].tolist() == [1]
        else:
            y, wrong = after.run(None, {"indices": np.asarray(indices)})
            np.testing.assert_array_equal(y, before.run(None, {"indices": np.asarray(indices)})[0])
            assert wrong.tolist() == [0]


@given(st.integers(9, 17))
def test_every_operator_set_has_what_a_check_needs(opset):
    model = built("Gather", (), (2, 2), opset=opset)
    check_indices(model, None)
    assert session(model).run(None, {"indices": np.array([[0, 1], [2, 0]])})[1].tolist() == [1]


def test_indices_that_no_input_decides_are_left_alone():
    model = built("Gather", (), (2, 2))
    assert not check_indices(model, "indices")
    assert [node.op_type for node in model.graph.node] == ["Identity", "Gather"]


def test_an_operator_that_can_not_be_checked_is_refused():
    graph = helper.make_graph(
        [helper.make_node("ArrayFeatureExtractor", ["data", "indices"], ["y"], domain="ai.onnx.ml")],
        "g",
        [helper.make_tensor_value_info("indices", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(DATA, "data")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    with pytest.raises(UnsupportedError, match="ArrayFeatureExtractor takes its indices from an input"):
        check_indices(helper.make_model(graph, opset_imports=opsets), None)
