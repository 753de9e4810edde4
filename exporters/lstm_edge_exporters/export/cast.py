"""The only rounding: a graph in float64 becomes a file in float32.

What is computed of sizes alone stays in float64, in which every size is exact, until it meets data.
"""

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
        values = (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs))
        for value in values:
            if value not in wide:
                _narrow_value(value)
        for node in graph:
            if not (node.outputs and node.outputs[0] in wide):
                _narrow_attributes(node)
    common.RemoveUnusedNodesPass()(narrow)
    proto = to_proto(narrow)
    proto.ir_version = IR_VERSION
    return proto


def _sizes(model: ir.Model) -> set[ir.Value]:
    """Return the float64 values that are sizes, or computed of them by exact operators."""
    found: set[ir.Value] = set()
    for node in model.graph:
        value = node.outputs[0] if node.outputs else None
        if value is None or value.dtype != ir.DataType.DOUBLE or node.op_type not in _EXACT:
            continue
        floats = [each for each in node.inputs if each is not None and each.dtype == ir.DataType.DOUBLE]
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


def _narrow_value(value: ir.Value) -> None:
    if value.dtype == ir.DataType.DOUBLE:
        value.dtype = ir.DataType.FLOAT
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)


def _narrow_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if name in ("to", "dtype") and attribute.type is ir.AttributeType.INT:
            if attribute.as_int() == ir.DataType.DOUBLE:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
        elif attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.DOUBLE:
            array = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))


def widened(proto: onnx.ModelProto, exact: ir.Model | None = None) -> ir.Model:
    """Return a file's graph in float64.

    Args:
        proto: the file, in float32 or float16.
        exact: a graph in float64; where the file has its constants rounded, they replace the file's.
    """
    model = ir.from_proto(proto)
    constants = {} if exact is None else dict(exact.graph.initializers)
    attributes = {} if exact is None else {node.name: node.attributes for node in exact.graph}
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)):
            if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                value.dtype = ir.DataType.DOUBLE
        for name, value in graph.initializers.items():
            array = value.const_value.numpy() if value.const_value is not None else None
            if array is not None and array.dtype in (np.float32, np.float16):
                known = constants.get(name)
                own = None if known is None or known.const_value is None else known.const_value.numpy()
                same = own is not None and _rounds_to(own, array)
                value.const_value = ir.tensor(
                    own if same and own is not None else array.astype(np.float64), name=name
                )
        for node in graph:
            if node.op_type == "ConstantOfShape" and "value" not in node.attributes:  # zeros of float32
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1)))
            _widen_attributes(node, attributes.get(node.name, {}))
    return model


def _widen_attributes(node: ir.Node, exact: object) -> None:
    known: dict[str, ir.Attr] = dict(exact)  # type: ignore[call-overload]
    for name, attribute in list(node.attributes.items()):
        if name in ("to", "dtype") and attribute.type is ir.AttributeType.INT:
            if attribute.as_int() in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.DOUBLE))
        elif attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype.is_floating_point():
            array = attribute.as_tensor().numpy().astype(np.float64)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        elif attribute.type is ir.AttributeType.FLOAT and name in known:
            own = known[name].as_float()
            if np.float32(own) == np.float32(attribute.as_float()):
                node.attributes[name] = ir.AttrFloat32(name, own)
        elif name in ("value_float", "value_floats"):
            floats = attribute.as_float() if name == "value_float" else attribute.as_floats()
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array(floats, np.float64)))


def _rounds_to(exact: Array, array: Array) -> bool:
    return exact.shape == array.shape and exact.astype(array.dtype).tobytes() == array.tobytes()
