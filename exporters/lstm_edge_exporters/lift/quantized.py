"""Files that are quantized dynamically: the same network in float, in which chunks can be compared.

A dynamic quantizer scales every call's activations by themselves, so that even a perfect state leaves
differences as large as a quantization step. Whether chunks equal the whole is a matter of the graph, and is
tried on its float twin: int8 weights times their scales, activations as they are.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import UniqueNames, constant, forget_shapes, infer_shapes
from ..recurrent import QUANTIZED

STEP = "lstm_edge.step"
"""The key in the ``meta`` of a twin's weight of how far apart its neighboring values are; an array that
broadcasts against it."""

_INTEGER = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_OPERATORS = (QUANTIZED, "DynamicQuantizeLinear", "DynamicQuantizeMatMul", *_INTEGER)
_W, _R, _W_SCALE, _R_SCALE = 1, 2, 8, 10
"""Places among a quantized LSTM's inputs; each scale is followed by its zero point."""


def is_quantized(model: ir.Model) -> bool:
    """Return whether the graph has quantized operators."""
    return any(node.op_type in _OPERATORS for node in ir.traversal.RecursiveGraphIterator(model.graph))


def float_twin(model: ir.Model) -> ir.Model | None:
    """Return the same network in float; None if a quantized operator has no constant weights."""
    copy = model.clone()
    names = UniqueNames(copy.graph)
    for node in [node for node in copy.graph if node.op_type in _OPERATORS]:
        values = _in_float(copy.graph, node, names)
        if values is None:
            return None
        for old, new in zip(node.outputs, values, strict=False):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            if new.producer() is not None and new.is_graph_output():
                new.name, old.name = old.name, f"{old.name}.quantized"
        copy.graph.remove(node, safe=True)
    if is_quantized(copy):
        return None
    forget_shapes(copy)
    for node in copy.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = None
    infer_shapes(copy)
    return copy


def _in_float(graph: ir.Graph, node: ir.Node, names: UniqueNames) -> Sequence[ir.Value] | None:
    """Add nodes that replace a quantized node's outputs."""

    def weight(array: Array, step: Array | None = None, source: ir.Value | None = None) -> ir.Value:
        title = names.unique(f"{node.name if source is None else source.name}.float")
        value = ir.val(title, const_value=ir.tensor(array.astype(np.float32)))
        value.const_value.name = value.name  # type: ignore[union-attr]
        value.meta[STEP] = step
        graph.register_initializer(value)
        return value

    def insert(new: ir.Node) -> Sequence[ir.Value]:
        for value in new.outputs:
            value.name = names.unique(f"{node.name}.float")
        graph.insert_before(node, new)
        return new.outputs

    inputs = node.inputs
    if node.op_type == "DynamicQuantizeLinear":
        one, zero = weight(np.array(1.0)), weight(np.array(0.0))
        return [*insert(ir.node("Identity", [inputs[0]])), one, zero]
    if node.op_type in _INTEGER:
        quantized, zero_point = constant(inputs[1]), constant(inputs[3] if len(inputs) > 3 else None)
        if quantized is None:
            return None
        shift = np.zeros(1) if zero_point is None else zero_point.astype(np.float64)
        if node.op_type == "ConvInteger":
            shift = shift.reshape(-1, *[1] * (quantized.ndim - 1))
        plain = weight(quantized.astype(np.float64) - shift, np.ones(1), inputs[1])
        return insert(ir.Node("", _INTEGER[node.op_type], [inputs[0], plain], node.attributes.values()))
    if node.op_type != QUANTIZED:
        return None
    weights = [_dequantized(node, *places) for places in ((_W, _W_SCALE), (_R, _R_SCALE))]
    if None in weights:
        return None
    plain_weights = [
        weight(found[0].swapaxes(1, 2), found[1].swapaxes(1, 2), inputs[place])
        for place, found in zip((_W, _R), weights, strict=True)
        if found is not None
    ]
    given = [inputs[0], *plain_weights, *inputs[3:8]]
    return insert(ir.Node("", "LSTM", given, node.attributes.values(), num_outputs=len(node.outputs)))


def _dequantized(node: ir.Node, weight: int, scale: int) -> tuple[Array, Array] | None:
    """Return the weights ``(D, I, 4*H)`` in float64, and how far apart their values are."""
    arrays = [constant(node.inputs[place]) for place in (weight, scale, scale + 1)]
    if any(array is None for array in arrays):
        return None
    quantized, scales, zero_points = (np.asarray(array, np.float64) for array in arrays)
    rows = len(quantized)
    steps = scales.reshape(rows, 1, -1)
    return (quantized - zero_points.reshape(rows, 1, -1)) * steps, steps
