"""Whole numbers that the outputs of a program, which are float32, hold exactly."""

from collections.abc import Iterator

import onnx_ir as ir

from ...graph import operands, walk

_WHOLE = (ir.DataType.INT64, ir.DataType.INT32, None)
_GROWING = {"Add", "Sub", "Mul", "Sum", "ReduceSum", "ReduceProd", "CumSum"}
"""Operators whose results may be beyond their inputs."""


def may_pass_float32(value: ir.Value) -> bool:
    """Return True if whole numbers may be above 2**24: they are inputs or states, or
    sums or products of floats that were made whole. Indices and counts are below.
    """
    values = [*walk([value], _whole_operands)]
    if any(x.is_graph_input() and not x.is_initializer() for x in values):
        return True
    nodes = [node for x in values if (node := x.producer()) is not None]
    grows = any(node.op_type in _GROWING for node in nodes)
    return grows and any(map(_is_of_floats, nodes))


def _whole_operands(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the whole numbers that ``value`` is computed of."""
    return (x for x in operands(value) if x.dtype in _WHOLE)


def _is_of_floats(node: ir.Node) -> bool:
    """Return True if a node makes floats whole."""
    source = node.inputs[0] if node.op_type == "Cast" else None
    return source is not None and source.dtype not in (*_WHOLE, ir.DataType.BOOL)
