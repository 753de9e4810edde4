"""Sizes of whole numbers: a program computes int32 as int64, and its outputs are
float32.
"""

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ...graph import KEEPING, constant, operands, walk

_WHOLE = (ir.DataType.INT64, ir.DataType.INT32, None)
_MOST = 2**24
"""The largest whole number up to which float32 holds all."""
_MOST_INDEX = 4096
_GROWING = {"Add", "Sub", "Mul", "Sum", "ReduceSum", "ReduceProd", "CumSum"}
"""Operators whose results may be beyond their inputs."""

_OF_FIRST = (KEEPING - {"Clip", "Pad"}) | {
    *("CumSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"),
}
"""Operators whose other inputs are indices, sizes or axes."""


def may_pass_float32(value: ir.Value) -> bool:
    """Return True if whole numbers may be above 2**24: they are inputs, states or large
    constants, or sums or products of floats that were made whole or of many constants.
    Indices and counts are taken to be at most 4096.
    """
    values = [*walk([value], _whole_operands)]
    if any(x.is_graph_input() and not x.is_initializer() for x in values):
        return True
    sizes = [float(np.abs(array).max(initial=0)) for array in map(_stored, values)]
    if max(sizes) > _MOST:
        return True
    nodes = [node for x in values if (node := x.producer()) is not None]
    grows = any(node.op_type in _GROWING for node in nodes)
    is_large = prod(size + 1 for size in sizes) > _MOST / _MOST_INDEX
    return grows and (is_large or any(map(_is_of_floats, nodes)))


def may_wrap(value: ir.Value) -> bool:
    """Return True if ``value`` is int32 and may be above 2**31, where int32 wraps."""
    node = value.producer()
    computes = node is not None and node.op_type in (*_GROWING, "Cast")
    return computes and value.dtype == ir.DataType.INT32 and may_pass_float32(value)


def _stored(value: ir.Value) -> Array:
    """Return a stored array as float64; an empty one for other values."""
    array = constant(value)
    return np.zeros(0) if array is None else array.astype("float64")


def _whole_operands(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the whole numbers that ``value`` is computed of."""
    node = value.producer()
    is_of_first = node is not None and node.op_type in _OF_FIRST
    read = [*operands(value)][: 1 if is_of_first else None]
    return (x for x in read if x.dtype in _WHOLE)


def _is_of_floats(node: ir.Node) -> bool:
    """Return True if a node makes floats whole."""
    source = node.inputs[0] if node.op_type == "Cast" else None
    return source is not None and source.dtype not in (*_WHOLE, ir.DataType.BOOL)
