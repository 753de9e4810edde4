"""Valid values of inputs, read off the graph: indices of tables, fractions of a length."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array, Manifest

from ..graph import KEEPING, constant, data_inputs, is_data_free, readers
from .cases import CaseGenerator

_CHOOSING = {0: {"Max", "Min"}, 1: {"Max", "Min", "Where"}, 2: {"Where"}}
"""Operators that pass an index on under a mask or a bound, by operand."""
_LOOKUPS = frozenset({"Gather", "GatherElements"})


def cases_of(
    graph: ir.Graph,
    manifest: Manifest,
    examples: Mapping[str, Array],
    *,
    values: Mapping[str, int] | None = None,
    seed: int = 0,
) -> CaseGenerator:
    """Return the generator of cases that draws the indices and fractions of ``graph``
    among their valid values.

    Args:
        graph: the graph.
        manifest: its contract.
        examples: typical values by input.
        values: number of valid values of integers that are no index.
        seed: of all random numbers.
    """
    return CaseGenerator.of(
        manifest,
        examples,
        values={**(values or {}), **index_values(graph)},
        seed=seed,
        fractions=fraction_inputs(graph),
    )


def index_values(graph: ir.Graph) -> dict[str, int]:
    """Return the number of valid values, from 0, of each input that ``graph`` uses as
    an index.

    An index may be a float that the graph casts. It is followed through casts and masks
    to tables (``Gather``) and codes (``OneHot``, or ``Equal`` with a constant of
    several numbers).
    """
    counts = {}
    for value in data_inputs(graph):
        limits = [*_limits(value, set())]
        if limits:
            counts[str(value.name)] = max(1, min(limits))
    return counts


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
        other = _other_constant(node, operand)
        limit = _limit(node, operand, other)
        if limit is not None:
            yield limit
        elif _shifts(node, operand) and other is not None and _is_finite(other):
            shift = int(other.max() if node.op_type == "Add" else -other.min())
            for shifted_limit in _limits(node.outputs[0], visited):
                yield shifted_limit - shift
        elif _passes_on(node, operand):
            for output in node.outputs:
                yield from _limits(output, visited)


def _other_constant(node: ir.Node, operand: int) -> Array | None:
    """Return the other operand of a node of two; None if it is computed."""
    if len(node.inputs) != 2 or operand > 1:
        return None
    return constant(node.inputs[1 - operand])


def _is_finite(array: Array) -> bool:
    """Return True for numbers without infinities and NaN, of which there is one."""
    return bool(array.size and np.isfinite(array).all())


def _shifts(node: ir.Node, operand: int) -> bool:
    """Return True if the node adds to the operand, or subtracts from it."""
    return node.op_type in ("Add", "Sub") and operand == 0


def _passes_on(node: ir.Node, operand: int) -> bool:
    """Return True if elements of the operand are elements of the result."""
    if node.op_type in KEEPING:
        return operand == 0
    return node.op_type in _CHOOSING.get(operand, ())


def _limit(node: ir.Node, operand: int, other: Array | None) -> int | None:
    """Return the limit below which an index must be that a node reads; None if the node
    reads no index.
    """
    if node.op_type in _LOOKUPS and operand == 1:
        return _table_size(node)
    if node.op_type == "OneHot" and operand == 0:
        depth = constant(node.inputs[1])
        return None if depth is None else int(depth.max())
    if node.op_type == "Equal" and other is not None and other.size > 1:
        return int(other.max()) + 1
    return None


def _table_size(node: ir.Node) -> int | None:
    """Return the number of entries of the table that a lookup reads."""
    table = node.inputs[0]
    if table is None or not table.shape:
        return None
    size = table.shape[node.attributes.get_int("axis", 0) or 0]
    return size if isinstance(size, int) else None
