"""What must be true before the quantizer runs is made true, and the network stays what it was."""

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.quantize.prepare import prepare

H, WIDTH = 6, 5


def _weights():
    rng = np.random.default_rng(0)
    return {
        "W": rng.normal(size=(1, 4 * H, WIDTH)).astype(np.float32),
        "R": rng.normal(size=(1, 4 * H, H)).astype(np.float32),
        "B": rng.normal(size=(1, 8 * H)).astype(np.float32),
    }


def _model(nodes, initializers, inputs=(), layout=0):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, ["L", "N", WIDTH]), *inputs],
        [info(name, TensorProto.FLOAT, None) for name in nodes[-1].output if name],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _prepared(proto):
    model = ir.from_proto(proto)
    prepare(model)
    return ir.to_proto(model)


def _same(left, right, feeds):
    one, two = (
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for proto in (left, right)
    )
    for a, b in zip(one.run(None, feeds), two.run(None, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


def _lstm(**more):
    return helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "h", "c"], hidden_size=H, **more)


def _feeds():
    return {"x": np.random.default_rng(1).normal(size=(4, 2, WIDTH)).astype(np.float32)}


def _lstm_weights_are_initializers(proto):
    held = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    nodes = [node for node in proto.graph.node if node.op_type == "LSTM"]
    return nodes and all(len(held.get(name, ())) == 3 for node in nodes for name in node.input[1:3])


def test_weights_held_by_constant_nodes_become_initializers():
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in _weights().items()
    ]
    before = _model([*constants, _lstm()], {})
    after = _prepared(before)
    assert _lstm_weights_are_initializers(after)
    _same(before, after, _feeds())


def test_weights_put_together_from_parts_are_folded():
    weights = _weights()
    parts = {f"W{k}": part[0] for k, part in enumerate(np.split(weights.pop("W"), 4, axis=1))}
    nodes = [
        helper.make_node("Concat", list(parts), ["flat"], axis=0),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["W"]),
        helper.make_node("Transpose", ["Rt"], ["R"], perm=[0, 2, 1]),
        _lstm(),
    ]
    held = {**parts, "axis": np.array([0]), "Rt": weights.pop("R").transpose(0, 2, 1).copy(), **weights}
    before = _model(nodes, held)
    after = _prepared(before)
    assert _lstm_weights_are_initializers(after)
    assert [node.op_type for node in after.graph.node] == ["LSTM"]
    _same(before, after, _feeds())


def test_what_depends_on_an_input_is_not_folded():
    weights = _weights()
    nodes = [helper.make_node("Mul", ["W0", "scale"], ["W"]), _lstm()]
    inputs = [helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])]
    before = _model(nodes, {"W0": weights.pop("W"), **weights}, inputs)
    after = _prepared(before)
    assert [node.op_type for node in after.graph.node] == ["Mul", "LSTM"]
    _same(before, after, {**_feeds(), "scale": np.array([2.0], np.float32)})


def test_two_nodes_never_share_a_weight():
    weights = _weights()
    again = helper.make_node("LSTM", ["x", "W", "R", ""], ["", "h2", ""], hidden_size=H)
    out = helper.make_node("Add", ["h", "h2"], ["sum"])
    before = _model([_lstm(), again, out], weights)
    after = _prepared(before)
    used = [name for node in after.graph.node if node.op_type == "LSTM" for name in node.input[1:3]]
    assert len(set(used)) == 4
    _same(before, after, _feeds())


def test_initializers_listed_among_the_inputs_are_taken_out_of_them():
    weights = _weights()
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape))
        for name, array in weights.items()
    ]
    after = _prepared(_model([_lstm()], weights, inputs))
    assert [value.name for value in after.graph.input] == ["x"]
