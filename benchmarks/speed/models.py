"""Models of four sizes with random weights, as ONNX files and as the PyTorch module beside them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import CLASSES, SIZES

__all__ = ["write_model"]


def write_model(folder: Path, size: str) -> Path:
    """Write ``size``'s file into ``folder``: standard LSTM nodes and a linear head on the last step."""
    features, hidden, layers = SIZES[size]
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Transpose", ["x"], ["y_0"], perm=[1, 0, 2])]
    weights: list[onnx.TensorProto] = []

    def uniform(name: str, *shape: int) -> None:
        bound = hidden**-0.5
        weights.append(numpy_helper.from_array(rng.uniform(-bound, bound, shape).astype(np.float32), name))

    entering, leaving = {}, {}
    for state in "hc":
        entering[state], leaving[state] = [f"{state}_0"], [f"{state}_n"]
        if layers > 1:
            entering[state] = [f"{state}_in_{i}" for i in range(layers)]
            leaving[state] = [f"{state}_out_{i}" for i in range(layers)]
            nodes.append(
                helper.make_node("Split", [f"{state}_0"], entering[state], axis=0, num_outputs=layers)
            )
    for i in range(layers):
        uniform(f"W{i}", 1, 4 * hidden, features if i == 0 else hidden)
        uniform(f"R{i}", 1, 4 * hidden, hidden)
        uniform(f"B{i}", 1, 8 * hidden)
        inputs = [f"y_{i}", f"W{i}", f"R{i}", f"B{i}", "", entering["h"][i], entering["c"][i]]
        outputs = [f"Y_{i}", leaving["h"][i], leaving["c"][i]]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=hidden))
        if i + 1 < layers:
            nodes.append(helper.make_node("Squeeze", [f"Y_{i}", "one"], [f"y_{i + 1}"]))
    if layers > 1:
        nodes += [helper.make_node("Concat", leaving[state], [f"{state}_n"], axis=0) for state in "hc"]
        weights.append(numpy_helper.from_array(np.array([1]), "one"))
    uniform("head", hidden, CLASSES)
    weights.append(numpy_helper.from_array(np.array(layers - 1), "last"))
    nodes.append(helper.make_node("Gather", ["h_n", "last"], ["top"], axis=0))
    nodes.append(helper.make_node("MatMul", ["top", "head"], ["logits"]))
    value, state_axes = helper.make_tensor_value_info, [layers, "N", hidden]
    graph = helper.make_graph(
        nodes,
        size,
        [
            value("x", TensorProto.FLOAT, ["N", "L", features]),
            value("h_0", TensorProto.FLOAT, state_axes),
            value("c_0", TensorProto.FLOAT, state_axes),
        ],
        [
            value("logits", TensorProto.FLOAT, ["N", CLASSES]),
            value("h_n", TensorProto.FLOAT, state_axes),
            value("c_n", TensorProto.FLOAT, state_axes),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / f"{size}.onnx"
    onnx.save(model, path)
    return path
