"""What a node makes of arrays that are known when the graph is compiled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from lstm_edge_runtime.errors import UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array

_MOST = 1 << 24
"""Numbers that a value may have whose shape the file stores."""
_MADE = {"ConstantOfShape": 0, "Expand": 1}
"""Operators that make a tensor of any size, and their input that is its shape."""


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return an attribute of a node as a Python value; a tensor as an array."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return found.value.numpy() if found.type is ir.AttributeType.TENSOR else found.value


def evaluate(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> list[Array]:
    """Return the outputs of a node of ``ai.onnx``, by onnx's reference implementation.

    Raises:
        UnsupportedError: it does not take these arrays, or is not implemented.
    """
    place = _MADE.get(node.op_type)
    shape = None if place is None or place >= len(arrays) else arrays[place]
    if shape is not None and np.prod(np.abs(shape.astype("float64"))) > _MOST:
        raise UnsupportedError(f"a tensor of shape {shape.tolist()}")
    names = [f"i{number}" if array is not None else "" for number, array in enumerate(arrays)]
    outs = [f"o{number}" for number in range(len(node.outputs))]
    proto: Any = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(outs)
    made = onnx.helper.make_graph(
        [proto],
        "node",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names if name],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in outs],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(each) for each in ReferenceEvaluator(model).run(None, feeds)]
    except Exception as error:  # whatever the implementation raises for sizes that do not fit
        raise UnsupportedError(f"stored tensors that do not fit ({first_line(error)})") from error
