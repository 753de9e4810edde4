"""Constants that the translation makes, computed in float64 and rounded once.

onnxscript computes them in float32: weights divided by their norm, batch norms folded into the layer in front
of them. There, one rounding of a scale moves all weights of a channel the same way, and a sum over many
inputs farther than rounding each weight once does.
"""

import numpy as np
import onnx
import onnx.utils
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ..graph import KEEPING, RANDOM, Builder, constant, to_proto, values_read
from ..numerics.compare import REFUSALS
from ..numerics.graph64 import Graph64
from .record import DOMAIN

_NORM = "BatchNormalization"
_EPSILON = 1e-5
"""ONNX's default."""


def fold_constants(model: ir.Model) -> None:
    """Replace what a graph computes from its weights alone by the result, in place.

    What only moves weights is exact, and left to onnxscript.
    """
    weights = {value for value in model.graph.initializers.values() if not value.is_graph_input()}
    fixed, computed = set(weights), dict[ir.Value, None]()
    for node in model.graph:
        read = {*values_read(node)}
        if node.domain or node.op_type in RANDOM or not read <= fixed:
            continue
        fixed.update(node.outputs)
        if read & weights:
            weights.update(node.outputs)
            if read & computed.keys() or node.op_type not in KEEPING:
                computed |= dict.fromkeys(node.outputs)
    ends = [
        each
        for each in computed
        if each.dtype == ir.DataType.FLOAT and any(node.outputs[0] not in fixed for node, _ in each.uses())
    ]
    if not ends:
        return
    try:
        part = onnx.utils.Extractor(to_proto(model)).extract_model([], [str(each.name) for each in ends])
        arrays = Graph64(part).values({})
    except (UnsupportedError, *REFUSALS):  # onnxscript folds it, or the file computes it
        return
    for each in ends:
        made = each.producer()
        assert made is not None
        value = Builder(made, str(each.name)).constant(arrays[str(each.name)].astype(np.float32), "value")
        ir.convenience.replace_all_uses_with(each, value, replace_graph_outputs=True)


def hide_batch_norms(model: ir.Model) -> None:
    """Make batch norms operators that onnxscript does not know, in place, until ``fold_batch_norms``."""
    for node in model.graph:
        if node.op_type == _NORM and not node.domain:
            node.domain = DOMAIN


def fold_batch_norms(model: ir.Model) -> None:
    """Fold each hidden BatchNormalization into the Conv, ConvTranspose or Gemm that only it reads, in place.

    With s = scale / sqrt(var + epsilon), W becomes s W and b becomes s (b - mean) + bias, rounded once. See
    BatchNormalization in ONNX's Operators.md.
    """
    for node in [each for each in model.graph if (each.domain, each.op_type) == (DOMAIN, _NORM)]:
        node.domain = ""
        assert node.inputs[0] is not None
        layer = node.inputs[0].producer()
        if layer is None or layer.op_type not in ("Conv", "ConvTranspose", "Gemm") or not _is_alone(layer):
            continue
        arrays = [constant(each) for each in (*layer.inputs[1:], *node.inputs[1:])]
        known = [array.astype(np.float64) for array in arrays if array is not None]
        if len(known) < len(arrays) or layer.attributes.get_float("beta", 1.0) != 1.0:
            continue
        weights, *bias, scale, shift, mean, var = known
        factor = scale / np.sqrt(var + node.attributes.get_float("epsilon", _EPSILON))
        _store(layer, 1, _scaled(layer, weights, factor))
        _store(layer, 2, ((bias[0] if bias else 0.0) - mean) * factor + shift)
        ir.convenience.replace_all_uses_with(node.outputs[0], layer.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def _is_alone(layer: ir.Node) -> bool:
    """Return whether nothing else reads what a layer computes, nor its weights."""
    values = [layer.outputs[0], *layer.inputs[1:]]
    return all(
        each is not None and len(each.uses()) == 1 and not (each.is_graph_output() or each.is_graph_input())
        for each in values
    )


def _scaled(layer: ir.Node, weights: Array, factor: Array) -> Array:
    """Multiply the weights of each output channel by its factor."""
    if layer.op_type == "ConvTranspose":  # (in, out / groups, ...)
        grouped = weights.reshape(layer.attributes.get_int("group", 1), -1, *weights.shape[1:])
        wide = factor.reshape(len(grouped), 1, -1, *[1] * (weights.ndim - 2))
        return (grouped * wide).reshape(weights.shape)
    first = layer.op_type == "Conv" or layer.attributes.get_int("transB", 0) == 1
    return weights * (factor.reshape(-1, *[1] * (weights.ndim - 1)) if first else factor)


def _store(layer: ir.Node, place: int, array: Array) -> None:
    """Make ``array`` an input of the layer, under the name of the one that it replaces."""
    narrow = array.astype(np.float32)
    if len(layer.inputs) > place:
        value = layer.inputs[place]
        assert value is not None
        value.const_value = ir.tensor(narrow, name=value.name)
    else:
        build = Builder(layer, str(layer.inputs[1].name).removesuffix(".weight"))  # type: ignore[union-attr]
        layer.resize_inputs(place + 1)
        layer.replace_input_with(place, build.constant(narrow, "bias"))
