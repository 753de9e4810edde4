"""The only rounding: a graph in float64 becomes a file in float32.

What is computed of sizes alone stays in float64, in which every size is exact, until it
meets data.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from lstm_edge_runtime.manifest import Array

from .graph import Builder, is_data_free, to_proto
from .versions import IR_VERSION

DTYPE_ATTRIBUTES = frozenset(["dtype", "output_datatype", "to"])
"""Attributes that hold the dtype of a node's output."""


def to_float32(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` with every float of data in float32, each constant rounded
    once.
    """
    # a clone would share the types of its values
    rounded = ir.from_proto(ir.to_proto(model))
    sizes = _sizes(rounded)
    for node in list(rounded.graph.all_nodes()):
        _cast_sizes(node, sizes)
    _convert(rounded, (ir.DataType.DOUBLE,), after=ir.DataType.FLOAT, unchanged=sizes)
    common.RemoveUnusedNodesPass()(rounded)
    proto = to_proto(rounded)
    proto.ir_version = IR_VERSION
    return proto


def _arrays(graph: Any) -> dict[str, Array]:
    """Return the stored initializers of a graph by name."""
    arrays = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            arrays[name] = value.const_value.numpy()
    return arrays


def _convert(
    model: ir.Model,
    before: Collection[ir.DataType],
    after: ir.DataType,
    unchanged: Collection[ir.Value] = (),
) -> None:
    """Replace the dtypes ``before`` of all values except ``unchanged``, and of attributes,
    in place.
    """
    for graph in (model.graph, *model.graph.subgraphs()):
        computed = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *computed):
            if value not in unchanged and value.dtype in before:
                value.dtype = after
                if value.const_value is not None:
                    array = value.const_value.numpy().astype(after.numpy())
                    value.const_value = ir.tensor(array, name=value.name)
        for node in graph:
            if not (node.outputs and node.outputs[0] in unchanged):
                _retype(node, before, after)


def _retype(node: ir.Node, before: Collection[ir.DataType], after: ir.DataType) -> None:
    """Change the types that a node's attributes name or hold."""
    for name, attribute in list(node.attributes.items()):
        if name in DTYPE_ATTRIBUTES and attribute.type is ir.AttributeType.INT:
            if attribute.as_int() in before:
                node.attributes[name] = ir.AttrInt64(name, int(after))
        elif attribute.type is ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in before:
                array = tensor.numpy().astype(after.numpy())
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))


def _sizes(model: ir.Model) -> set[ir.Value]:
    """Return the float64 scalars that are computed of sizes and constants alone, with
    these constants.
    """
    sizes = set()
    for node in model.graph:
        for value in node.outputs:
            if not _is_double(value) or value.shape != () or not is_data_free(value):
                continue
            sizes.add(value)
            for operand in node.inputs:
                if operand is None or not operand.is_initializer():
                    continue
                if _is_double(operand):
                    sizes.add(operand)
    return sizes


def _is_double(value: ir.Value) -> bool:
    """Return True for values of float64."""
    return value.dtype == ir.DataType.DOUBLE


def _cast_sizes(node: ir.Node, sizes: set[ir.Value]) -> None:
    """Cast operands in ``sizes`` to float32 where they meet data."""
    if node.op_type == "Cast" or (node.outputs and node.outputs[0] in sizes):
        return
    for index, value in enumerate(node.inputs):
        if value in sizes:
            assert value is not None
            rounded = Builder(node, str(value.name)).cast(value, ir.DataType.FLOAT)
            node.replace_input_with(index, rounded)


def widened(proto: onnx.ModelProto, exact: ir.Model | None = None) -> ir.Model:
    """Return a file's graph in float64.

    Args:
        proto: the file, in float32 or float16.
        exact: a graph in float64; if the file has its constants rounded, they replace
            the file's.
    """
    model = ir.from_proto(proto)
    arrays = {} if exact is None else _arrays(exact.graph)
    attributes = {}
    if exact is not None:
        attributes = {node.name: node.attributes for node in exact.graph}
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, array in _arrays(graph).items():
            array64 = arrays.get(name, array)
            if _rounds_to(array64, array):
                value = graph.initializers[name]
                tensor = ir.tensor(array64, name=name)
                value.const_value = tensor
                value.dtype = tensor.dtype
        for node in graph:
            if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
                zero = ir.tensor(np.zeros(1))  # the default is a float32
                node.attributes["value"] = ir.AttrTensor("value", zero)
            _widen_numbers(node, attributes.get(node.name, {}))
    _convert(model, (ir.DataType.FLOAT, ir.DataType.FLOAT16), ir.DataType.DOUBLE)
    return model


def _rounds_to(array64: Array, array: Array) -> bool:
    """Return True if an array is ``array64``, rounded once."""
    if array64.shape != array.shape:
        return False
    return array64.astype(array.dtype).tobytes() == array.tobytes()


def _widen_numbers(node: ir.Node, exact: Mapping[str, ir.Attr]) -> None:
    """Set attributes that are numbers to those of ``exact``, and numbers of a
    ``Constant`` as a tensor.
    """
    for name, attribute in list(node.attributes.items()):
        if name in ("value_float", "value_floats"):
            del node.attributes[name]
            array = np.array(attribute.value, np.float64)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
        elif attribute.type is ir.AttributeType.FLOAT and name in exact:
            number = exact[name].as_float()
            if np.float32(number) == np.float32(attribute.as_float()):
                node.attributes[name] = ir.AttrFloat32(name, number)
