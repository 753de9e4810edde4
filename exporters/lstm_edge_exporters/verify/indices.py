"""Valid values of inputs, read off the graph: indices of tables, fractions of a length."""

from collections.abc import Iterator

import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import KEEPING, constant, data_inputs, is_data_free, readers

_CHOOSING = {0: {"Max", "Min"}, 1: {"Max", "Min", "Where"}, 2: {"Where"}}
"""Operators that pass an index on under a mask or a bound, by operand."""
_LOOKUPS = frozenset({"Gather", "GatherElements"})


def index_values(graph: ir.Graph) -> dict[str, int]:
    """Return the number of valid values, from 0, of each input that ``graph`` uses as
    an index.

    An index may be a float that the graph casts. It is followed through casts and masks
    to tables (``Gather``) and codes (``OneHot``, or ``Equal`` with a constant of
    several numbers).
    """
    limits = {str(value.name): [*_limits(value, set())] for value in data_inputs(graph)}
    return {name: max(1, min(numbers)) for name, numbers in limits.items() if numbers}


def fraction_inputs(graph: ir.Graph) -> frozenset[str]:
    """Return the float inputs, one number per row, that ``graph`` multiplies by a size:
    fractions of the number of steps.
    """
    per_row = [value for value in data_inputs(graph) if len(value.shape or ()) == 1]
    floats = [x for x in per_row if x.dtype and x.dtype.is_floating_point()]
    return frozenset(str(value.name) for value in floats if _is_of_a_size(value))


def _is_of_a_size(value: ir.Value) -> bool:
    """Return True if ``value`` is multiplied by a size."""
    for node, index in readers(value):
        if node.op_type == "Mul":
            factor = node.inputs[1 - index]
            if factor is not None and constant(factor) is None:
                return is_data_free(factor)
    return False


def _limits(value: ir.Value, visited: set[ir.Value]) -> Iterator[int]:
    """Yield the limit below which each use of ``value`` requires it to be."""
    if value in visited:
        return
    visited.add(value)
    for node, operand in value.uses():
        other = (
            constant(node.inputs[1 - operand])
            if operand < 2 == len(node.inputs)
            else None
        )
        if (limit := _limit(node, operand, other)) is not None:
            yield limit
        elif (
            node.op_type in ("Add", "Sub")
            and operand == 0
            and other is not None
            and other.size
        ):
            moved = int(other.max() if node.op_type == "Add" else -other.min())
            yield from (limit - moved for limit in _limits(node.outputs[0], visited))
        elif (
            operand == 0
            if node.op_type in KEEPING
            else node.op_type in _CHOOSING.get(operand, ())
        ):
            for output in node.outputs:
                yield from _limits(output, visited)


def _limit(node: ir.Node, operand: int, other: Array | None) -> int | None:
    """Return the limit below which an index must be that a node reads; None if the node
    reads no index.
    """
    if node.op_type in _LOOKUPS and operand == 1:
        table = node.inputs[0]
        size = (
            table.shape[node.attributes.get_int("axis", 0) or 0]
            if table and table.shape
            else None
        )
        return size if isinstance(size, int) else None
    if node.op_type == "OneHot" and operand == 0:
        depth = constant(node.inputs[1])
        return None if depth is None else int(depth.max())
    if node.op_type != "Equal" or other is None or other.size < 2:
        return None
    return int(other.max()) + 1
