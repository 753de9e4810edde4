import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lstm_edge.cost import measure_cost
from lstm_edge_runtime.onnx_reader import read_onnx

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MIXING = {"LSTM": 9, "GRU": 8, "RNN": 1}


def recurrent(op="LSTM", features=3, hidden=5, classes=2, directions=1, fixed=None, packed_dims=False):
    """One recurrent node and a dense layer; time and batch are dynamic unless ``fixed`` names L."""
    gates, rng = GATES[op], np.random.default_rng(0)
    weights = {
        "W": (directions, gates * hidden, features),
        "R": (directions, gates * hidden, hidden),
        "B": (directions, 2 * gates * hidden),
        "K": (directions * hidden, classes),
        "b": (classes,),
    }
    stored = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    stored.append(numpy_helper.from_array(np.array([0, directions * hidden]), "flat"))
    direction = "bidirectional" if directions == 2 else "forward"
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node(
            op, ["xt", "W", "R", "B", "", "h_0"], ["Y", "h_n"], hidden_size=hidden, direction=direction
        ),
        helper.make_node("Transpose", ["h_n"], ["ht"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["ht", "flat"], ["flat_h"]),
        helper.make_node("Gemm", ["flat_h", "K", "b"], ["z"]),
        helper.make_node("Relu", ["z"], ["logits"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [
            info("x", TensorProto.FLOAT, ["N", fixed or "L", features]),
            info("h_0", TensorProto.FLOAT, [directions, "N", hidden]),
        ],
        [
            info("logits", TensorProto.FLOAT, ["N", classes]),
            info("h_n", TensorProto.FLOAT, [directions, "N", hidden]),
        ],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_step_costs_what_the_operators_equations_say(op, directions):
    content = recurrent(op, features=3, hidden=5, classes=2, directions=directions).SerializeToString()
    cost = measure_cost(content, read_onnx(content))
    gates = GATES[op]
    cell = 2 * gates * 5 * (3 + 5) + 2 * gates * 5 + MIXING[op] * 5
    dense = 2 * directions * 5 * 2 + 2
    relu = 2
    assert cost.flops == directions * cell + dense + relu
    assert cost.uncounted == ()
    assert cost.parameters == directions * (gates * 5 * (3 + 5) + 2 * gates * 5) + directions * 5 * 2 + 2


def test_a_fixed_time_axis_costs_its_whole_call():
    content = recurrent(fixed=7).SerializeToString()
    single = recurrent(fixed=1).SerializeToString()
    whole, step = (measure_cost(each, read_onnx(each)).flops for each in (content, single))
    dense = 2 * 5 * 2 + 2 + 2
    assert whole - dense == 7 * (step - dense)


def test_inner_graphs_constants_and_large_weights_are_counted():
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(7, np.float32))),
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Identity", ["sum"], ["sum_2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_2", TensorProto.FLOAT, []),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "w"], ["y"]),
            helper.make_node("Det", ["square"], ["d"]),
            helper.make_node("Loop", ["trips", "go", "d"], ["e"], body=body),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 300])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 300]),
            helper.make_tensor_value_info("e", TensorProto.FLOAT, []),
        ],
        [
            numpy_helper.from_array(np.ones(300, np.float32), "w"),
            numpy_helper.from_array(np.eye(2, dtype=np.float32), "square"),
            numpy_helper.from_array(np.array(2), "trips"),
            numpy_helper.from_array(np.array(True), "go"),
        ],
    )
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    cost = measure_cost(content, read_onnx(content))
    assert cost.parameters == 300 + 7 + 4
    assert cost.flops == 300
    assert cost.uncounted == ("Det", "Loop")


def test_a_file_that_does_not_run_with_one_step_says_why_and_keeps_its_parameters():
    model = recurrent()
    model.graph.node[0].attribute[0].ints[:] = [0, 1, 2]  # x (N, L, I) reaches the LSTM as it is: runs
    model.graph.node[4].input[1] = "W"
    content = model.SerializeToString()
    cost = measure_cost(content, read_onnx(content))
    assert cost.flops is None
    assert cost.parameters > 0
    assert cost.reason


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(["LSTM", "GRU", "RNN"]),
    features=st.integers(1, 9),
    hidden=st.integers(1, 9),
    directions=st.sampled_from([1, 2]),
)
def test_any_size_counts_the_elements_that_onnx_counts(op, features, hidden, directions):
    model = recurrent(op, features, hidden, directions=directions)
    content = model.SerializeToString()
    assert onnx.load_model_from_string(content) == model
    expected = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    assert measure_cost(content, read_onnx(content)).parameters == expected
