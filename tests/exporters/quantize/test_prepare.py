"""Preparing a graph for the quantizer does not change its results."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.quantize.prepare import prepare

H = 6
WIDTH = 5
LSTM = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "h", "c"], hidden_size=H)
_RNG = np.random.default_rng(0)
WEIGHTS = {
    "W": _RNG.normal(size=(1, 4 * H, WIDTH)).astype(np.float32),
    "R": _RNG.normal(size=(1, 4 * H, H)).astype(np.float32),
    "B": _RNG.normal(size=(1, 8 * H)).astype(np.float32),
}


def _constants():
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in WEIGHTS.items()
    ], {}


def _parts():
    parts = {
        f"W{k}": part[0] for k, part in enumerate(np.split(WEIGHTS["W"], 4, axis=1))
    }
    nodes = [
        helper.make_node("Concat", list(parts), ["flat"], axis=0),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["W"]),
        helper.make_node("Transpose", ["Rt"], ["R"], perm=[0, 2, 1]),
    ]
    turned = WEIGHTS["R"].transpose(0, 2, 1).copy()
    return nodes, {**parts, "axis": np.array([0]), "Rt": turned, "B": WEIGHTS["B"]}


def _shared():
    return [
        helper.make_node("LSTM", ["x", "W", "R", ""], ["", "h2", ""], hidden_size=H)
    ], WEIGHTS


def _of_an_input():
    held = {"W0": WEIGHTS["W"], "R": WEIGHTS["R"], "B": WEIGHTS["B"]}
    return [helper.make_node("Mul", ["W0", "scale"], ["W"])], held


@pytest.mark.parametrize(
    ("write", "operators"),
    [
        (_constants, ["LSTM"]),
        (_parts, ["LSTM"]),
        (_shared, ["LSTM", "LSTM", "Add"]),
        (_of_an_input, ["Mul", "LSTM"]),
    ],
)
def test_weights_become_initializers_of_their_own_and_results_stay(write, operators):
    nodes, held = write()
    nodes = [*nodes, LSTM]
    if write is _shared:
        nodes.append(helper.make_node("Add", ["h", "h2"], ["sum"]))
    info = helper.make_tensor_value_info
    names = [name for name in nodes[-1].output if name]
    inputs = [info("x", TensorProto.FLOAT, ["L", "N", WIDTH])]
    inputs += [
        info(name, TensorProto.FLOAT, array.shape)
        for name, array in held.items()
        if write is _shared
    ]
    inputs += [info("scale", TensorProto.FLOAT, [1])] if write is _of_an_input else []
    weights = [numpy_helper.from_array(array, name) for name, array in held.items()]
    outputs = [info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    before = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    model = ir.from_proto(before)
    prepare(model)
    after = ir.to_proto(model)
    assert [node.op_type for node in after.graph.node] == operators
    initializers = {weight.name for weight in after.graph.initializer}
    used = [
        name
        for node in after.graph.node
        if node.op_type == "LSTM"
        for name in node.input[1:3]
    ]
    assert len(set(used)) == len(used)
    assert write is _of_an_input or initializers.issuperset(used)
    assert not initializers & {value.name for value in after.graph.input}
    feeds = {
        "x": np.random.default_rng(1).normal(size=(4, 2, WIDTH)).astype(np.float32)
    }
    feeds |= {"scale": np.array([2.0], np.float32)} if write is _of_an_input else {}
    expected, got = (
        onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, feeds)
        for proto in (before, after)
    )
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
