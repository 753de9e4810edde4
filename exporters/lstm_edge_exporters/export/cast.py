"""The only rounding: a graph in float64 becomes a file in float32.

What is computed of sizes alone stays in float64, in which every size is exact, until it meets data.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from lstm_edge_runtime.manifest import Array

from ..graph import Builder, is_data_free, to_proto

_EXACT = frozenset(
    "Add Cast Ceil Clip Div Expand Floor Max Min Mul Neg Reshape Sub Unsqueeze".split()  # noqa: SIM905
)
"""Operators on sizes that onnxruntime has in float64."""
IR_VERSION = 8
"""The ONNX IR version of files; 8 is read by onnxruntime 1.14 (February 2023) and later."""


def to_float32(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` with every float of data in float32, each constant rounded once.

    Raises:
        UnsupportedError: the weights do not fit into one file.
    """
    narrow = ir.from_proto(ir.to_proto(model))  # a clone would share the types of its values
    wide = _sizes(narrow)
    for node in list(narrow.graph):
        _settle(node, wide)
    for graph in (narrow.graph, *narrow.graph.subgraphs()):
        for value in _values(graph):
            if value not in wide and value.dtype == ir.DataType.DOUBLE:
                value.dtype = ir.DataType.FLOAT
                if value.const_value is not None:
                    value.const_value = ir.tensor(
                        value.const_value.numpy().astype(np.float32), name=value.name
                    )
        for node in graph:
            if not (node.outputs and node.outputs[0] in wide):
                _retype(node, (ir.DataType.DOUBLE,), ir.DataType.FLOAT)
    common.RemoveUnusedNodesPass()(narrow)
    proto = to_proto(narrow)
    proto.ir_version = IR_VERSION
    return proto


def _values(graph: Any) -> tuple[ir.Value, ...]:
    return (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs))


def _arrays(graph: Any) -> dict[str, Array]:
    values = graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in values if value.const_value is not None}


def _retype(node: ir.Node, before: Collection[ir.DataType], after: ir.DataType) -> None:
    """Replace the dtypes ``before`` among a node's attributes."""
    for name, attribute in list(node.attributes.items()):
        if name in ("to", "dtype") and attribute.type is ir.AttributeType.INT:
            if attribute.as_int() in before:
                node.attributes[name] = ir.AttrInt64(name, int(after))
        elif attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in before:
            array = attribute.as_tensor().numpy().astype(after.numpy())
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))


def _sizes(model: ir.Model) -> set[ir.Value]:
    """Return the float64 values that are sizes, or computed of them by exact operators."""
    found: set[ir.Value] = set()
    for node in model.graph:
        value = node.outputs[0] if node.outputs else None
        if value is None or value.dtype != ir.DataType.DOUBLE or node.op_type not in _EXACT:
            continue
        floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.DOUBLE]
        source = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
        from_size = node.op_type == "Cast" and source is not None and source.is_integer()
        derived = any(each in found for each in floats)
        others = all(each in found or each.is_initializer() for each in floats)
        if (from_size or (derived and others)) and is_data_free(value):
            found.add(value)
    return found


def _settle(node: ir.Node, wide: set[ir.Value]) -> None:
    """Give the operands of a node one dtype: a cast in front of data, float64 constants among sizes."""
    keeps = bool(node.outputs) and node.outputs[0] in wide
    for place, value in enumerate(node.inputs):
        if value is None:
            continue
        if value in wide and not keeps and node.op_type != "Cast":
            cast = Builder(node, str(value.name)).cast(value, ir.DataType.FLOAT)
            node.replace_input_with(place, cast)
        elif keeps and value.is_initializer() and value.const_value is not None:
            own = Builder(node, str(value.name)).constant(value.const_value.numpy(), "wide")
            node.replace_input_with(place, own)
            wide.add(own)


def widened(proto: onnx.ModelProto, exact: ir.Model | None = None) -> ir.Model:
    """Return a file's graph in float64.

    Args:
        proto: the file, in float32 or float16.
        exact: a graph in float64; if the file has its constants rounded, they replace the file's.
    """
    model, narrow = ir.from_proto(proto), (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    known = {} if exact is None else _arrays(exact.graph)
    attributes = {} if exact is None else {node.name: node.attributes for node in exact.graph}
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in _values(graph):
            if value.dtype in narrow:
                value.dtype = ir.DataType.DOUBLE
        for name, array in _arrays(graph).items():
            if array.dtype in (np.float32, np.float16):
                own = known.get(name, array)
                same = own.shape == array.shape and own.astype(array.dtype).tobytes() == array.tobytes()
                exactly = (own if same else array).astype(np.float64)
                graph.initializers[name].const_value = ir.tensor(exactly, name=name)
        for node in graph:
            if node.op_type == "ConstantOfShape" and "value" not in node.attributes:  # zeros of float32
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1)))
            _retype(node, narrow, ir.DataType.DOUBLE)
            _widen_numbers(node, attributes.get(node.name, {}))
    return model


def _widen_numbers(node: ir.Node, exact: Mapping[str, ir.Attr]) -> None:
    """Give numbers among attributes the digits of ``exact``, and a ``Constant`` of numbers a tensor."""
    for name, attribute in list(node.attributes.items()):
        if name in ("value_float", "value_floats"):
            del node.attributes[name]
            array = np.array(attribute.value, np.float64)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
        elif attribute.type is ir.AttributeType.FLOAT and name in exact:
            own = exact[name].as_float()
            same = np.float32(own) == np.float32(attribute.as_float())
            node.attributes[name] = ir.AttrFloat32(name, own) if same else attribute
