"""Random graphs that are valid: recurrent networks as other exporters may write them."""

from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["recurrent_graph"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_UNARY = ("Tanh", "Relu", "Sigmoid", "Neg", "Abs", "Identity", "Elu", "Softplus", "HardSigmoid")


class _Graph:
    """A graph as it grows; ``value`` is what the last node gave, ``(N, L, width)``."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.draw = rng, np.random.default_rng(rng.getrandbits(32))
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.opset = rng.choice((13, 14, 16, 17, 18, 20, 21))
        self.value, self.width, self.names = "", 0, 0

    def name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def store(self, *shape: int, integers: list[int] | None = None) -> str:
        array = self.draw.normal(size=shape).astype(np.float32) if integers is None else np.array(integers)
        self.stored.append(numpy_helper.from_array(array, self.name()))
        return self.stored[-1].name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def begin(self) -> None:
        self.width = self.rng.randint(1, 6)
        if self.rng.random() < 0.2:
            self.inputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", "L"]))
            (self.value,) = self.add("Gather", self.store(7, self.width), "tokens")
        else:
            self.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "L", self.width]))
            self.value = "x"

    def point(self) -> None:
        """Add something that each step does by itself."""
        kind = self.rng.choice(("unary", "unary", "scale", "dense", "norm", "residual"))
        if kind == "unary":
            (self.value,) = self.add(self.rng.choice(_UNARY), self.value)
        elif kind == "scale":
            (self.value,) = self.add(
                self.rng.choice(("Add", "Mul", "Sub")), self.value, self.store(self.width)
            )
        elif kind == "dense":
            width = self.rng.randint(1, 6)
            (self.value,) = self.add("MatMul", self.value, self.store(self.width, width))
            self.width = width
        elif kind == "norm" and self.opset >= 17:
            (self.value,) = self.add("LayerNormalization", self.value, self.store(self.width), axis=-1)
        else:
            (inner,) = self.add(self.rng.choice(_UNARY), self.value)
            (self.value,) = self.add("Add", self.value, inner)

    def layer(self) -> None:
        """Add a recurrent layer, its states from zeros, from constants or from inputs."""
        rng, kind, hidden = self.rng, self.rng.choice(tuple(_GATES)), self.rng.randint(1, 6)
        direction = rng.choice(("forward",) * 6 + ("reverse", "bidirectional"))
        ways = 2 if direction == "bidirectional" else 1
        gates = _GATES[kind] * hidden
        states = ["", ""][: 2 if kind == "LSTM" else 1]
        how = rng.choice(("none", "zeros", "inputs"))
        if how == "inputs":
            for place in range(len(states)):
                states[place] = f"initial_{self.name()}"
                axes = [ways, "N", hidden]
                self.inputs.append(helper.make_tensor_value_info(states[place], TensorProto.FLOAT, axes))
        elif how == "zeros":
            (shape,) = self.add("Shape", self.value)
            (rows,) = self.add("Gather", shape, self.store(integers=[0]))
            ends = self.store(integers=[ways]), self.store(integers=[hidden])
            (whole,) = self.add("Concat", ends[0], rows, ends[1], axis=0)
            (zeros,) = self.add("ConstantOfShape", whole)
            states = [zeros] * len(states)
        (along,) = self.add("Transpose", self.value, perm=[1, 0, 2])
        weights = [self.store(ways, gates, self.width), self.store(ways, gates, hidden)]
        bias = self.store(ways, 2 * gates) if rng.random() < 0.7 else ""
        more = {"linear_before_reset": rng.randint(0, 1)} if kind == "GRU" else {}
        given = self.add(
            kind, along, *weights, bias, "", *states,
            outputs=1 + len(states), hidden_size=hidden, direction=direction, **more,
        )  # fmt: skip
        if how == "inputs" or rng.random() < 0.3:
            for name in given[1:]:
                self.outputs.append(
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, [ways, "N", hidden])
                )
        (turned,) = self.add("Transpose", given[0], perm=[2, 0, 1, 3])
        self.width = ways * hidden
        (self.value,) = self.add("Reshape", turned, self.store(integers=[0, 0, self.width]))

    def end(self) -> onnx.ModelProto:
        axes: list[object] = ["N", "L", self.width]
        last = self.rng.choice(("steps", "steps", "last", "mean"))
        if last == "last":
            ends = (self.store(integers=[-1]), self.store(integers=[2**31]), self.store(integers=[1]))
            (cut,) = self.add("Slice", self.value, *ends[:2], ends[2])
            (self.value,) = self.add("Squeeze", cut, self.store(integers=[1]))
            axes = ["N", self.width]
        elif last == "mean" and self.opset >= 18:
            (self.value,) = self.add("ReduceMean", self.value, self.store(integers=[1]), keepdims=0)
            axes = ["N", self.width]
        self.nodes.append(helper.make_node("Identity", [self.value], ["y"]))
        self.outputs.insert(0, helper.make_tensor_value_info("y", TensorProto.FLOAT, axes))
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.stored)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def recurrent_graph(rng: Random) -> onnx.ModelProto:
    """Return a valid model with one to three recurrent layers, without a manifest."""
    graph = _Graph(rng)
    graph.begin()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        for _ in range(rng.randrange(3)):
            graph.point()
        graph.layer()
    for _ in range(rng.randrange(3)):
        graph.point()
    return graph.end()
