"""Small recurrent graphs, written the way frameworks write them."""

import io
import warnings

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.options import parse_axes

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Network:
    """Collects nodes and weights; opset-dependent operators are written as the opset
    wants them."""

    def __init__(self, opset=17, seed=0):
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes = []
        self.weights = []
        self.taken = 0

    def const(self, array, name=None):
        self.taken += 1
        name = name or f"const_{self.taken}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape):
        return self.const((self.rng.standard_normal(shape) * 0.4).astype(np.float32))

    def add(self, operator, inputs, outputs=1, name="", **attributes):
        self.taken += 1
        if isinstance(outputs, int):
            outputs = [
                f"{operator.lower()}_{self.taken}_{index}" for index in range(outputs)
            ]
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=name, **attributes)
        )
        return outputs[0] if len(outputs) == 1 else outputs

    def squeeze(self, value, *axes, operator="Squeeze"):
        if self.opset < 13:
            return self.add(operator, [value], axes=axes)
        return self.add(operator, [value, self.const(np.array(axes))])

    def slice(self, value, start, stop, axis):
        if self.opset < 10:
            return self.add("Slice", [value], starts=[start], ends=[stop], axes=[axis])
        return self.add(
            "Slice", [value, *(self.const(np.array([n])) for n in (start, stop, axis))]
        )

    def sizes(self, x, *axes):
        """Axes of ``x`` (ints from its shape) and fixed sizes (given as ``-size``), as
        one int64 vector."""
        shape = self.add("Shape", [x])
        parts = [
            self.const(np.array([-a])) if a < 0 else self.slice(shape, a, a + 1, 0)
            for a in axes
        ]
        return self.add("Concat", parts, axis=0)

    def zeros(self, x, *axes):
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
        return self.add("ConstantOfShape", [self.sizes(x, *axes)], value=value)

    def recurrent(
        self,
        operator,
        x,
        width,
        hidden,
        *,
        lengths="",
        h="",
        c="",
        outputs=("Y", "Y_h"),
        name=None,
        peepholes=False,
        bias=True,
        **attributes,
    ):
        """Add a node; gives the names of its Y and Y_h, whichever of ``outputs`` are
        asked for."""
        self.taken += 1
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        rows = GATES[operator] * hidden
        inputs = [
            x,
            self.weight(directions, rows, width),
            self.weight(directions, rows, hidden),
        ]
        inputs += [self.weight(directions, 2 * rows) if bias else "", lengths, h]
        if operator == "LSTM":
            inputs += [c, self.weight(directions, 3 * hidden) if peepholes else ""]
        while not inputs[-1]:
            inputs.pop()
        names = [
            f"{operator.lower()}{self.taken}_{key}" if key in outputs else ""
            for key in ("Y", "Y_h", "Y_c")
        ]
        while not names[-1]:
            names.pop()
        node = name if name is not None else f"{operator.lower()}{self.taken}"
        self.nodes.append(
            helper.make_node(
                operator, inputs, names, name=node, hidden_size=hidden, **attributes
            )
        )
        return names

    def graph(self, inputs, outputs, name="g"):
        values = [
            helper.make_tensor_value_info(key, dtype, axes)
            for key, (dtype, axes) in {
                k: v if isinstance(v, tuple) else (TensorProto.FLOAT, v)
                for k, v in inputs.items()
            }.items()
        ]
        return helper.make_graph(
            self.nodes,
            name,
            values,
            [
                helper.make_tensor_value_info(key, TensorProto.FLOAT, None)
                for key in outputs
            ],
            self.weights,
        )

    def model(self, inputs, outputs, **options):
        ir_version = 3 if self.opset < 9 else 8
        graph = self.graph(inputs, outputs)
        if ir_version < 4:
            graph.input.extend(
                helper.make_tensor_value_info(w.name, w.data_type, list(w.dims))
                for w in self.weights
            )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=ir_version,
            **options,
        )


def _torch_file(module, example, **options):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), example, None if options["dynamo"] else buffer, **options
        )
    if program is not None:
        program.save(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def torch_file():
    return _torch_file


def _lift_freed(content):
    """Lift a file, with the options that the first attempt asks for if its axes are
    fixed."""
    lifted = lift(content)
    _, _, options = lifted.manifest.unstreamable.partition("free its axes: ")
    if not options:
        return lifted
    pairs = [text.split("=") for text in options.split("--input ")[1:]]
    inputs = {name: parse_axes(axes.strip()) for name, axes in pairs}
    return lift(content, LiftConfig(inputs=inputs))


@pytest.fixture(scope="session")
def lift_freed():
    return _lift_freed


@pytest.fixture(scope="session")
def network():
    return Network
