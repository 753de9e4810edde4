"""How many values are valid for an input of indices: read off the tables that a graph looks it up in."""

from collections.abc import Iterator

import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import KEEPING, constant, data_inputs

_CHOOSING = {0: {"Max", "Min"}, 1: {"Max", "Min", "Where"}, 2: {"Where"}}
"""Per operand, the operators that keep an index where a mask or a bound leaves it."""
_OTHERS = 2
"""Values besides the one that an index is compared with, as padding is."""
_LOOKUPS = frozenset({"Gather", "GatherElements"})


def index_values(graph: ir.Graph) -> dict[str, int]:
    """Return how many values, from 0, are valid for each input that ``graph`` uses as an index.

    An index may be a float that the graph casts. It is followed through casts and masks to tables
    (``Gather``) and codes (``OneHot``, or ``Equal`` with a constant of several numbers). An integer that is
    only compared with one number, as padding is, counts a few more values than that.
    """
    found = {}
    for value in data_inputs(graph):
        limits = [*_limits(value, set())]
        if not limits and value.dtype is not None and value.dtype.is_integer():
            limits = [*_limits(value, set(), padded=True)]
        if limits:
            found[str(value.name)] = max(1, min(limits))
    return found


def _limits(value: ir.Value, seen: set[ir.Value], *, padded: bool = False) -> Iterator[int]:
    """Yield below which number each use of ``value`` needs it to be."""
    if value in seen:
        return
    seen.add(value)
    for node, place in value.uses():
        other = constant(node.inputs[1 - place]) if place < 2 == len(node.inputs) else None
        if (limit := _limit(node, place, other, padded)) is not None:
            yield limit
        elif node.op_type in ("Add", "Sub") and place == 0 and other is not None and other.size:
            moved = int(other.max() if node.op_type == "Add" else -other.min())
            yield from (limit - moved for limit in _limits(node.outputs[0], seen, padded=padded))
        elif place == 0 if node.op_type in KEEPING else node.op_type in _CHOOSING.get(place, ()):
            for output in node.outputs:
                yield from _limits(output, seen, padded=padded)


def _limit(node: ir.Node, place: int, other: Array | None, padded: bool) -> int | None:
    """Return below which number a node needs its operand to be, where it reads it as an index."""
    if node.op_type in _LOOKUPS and place == 1:
        table = node.inputs[0]
        size = table.shape[node.attributes.get_int("axis", 0) or 0] if table and table.shape else None
        return size if isinstance(size, int) else None
    if node.op_type == "OneHot" and place == 0:
        depth = constant(node.inputs[1])
        return None if depth is None else int(depth.max())
    if node.op_type != "Equal" or other is None or other.size < (1 if padded else 2):
        return None
    return int(other.max()) + 1 + (_OTHERS if padded else 0)
