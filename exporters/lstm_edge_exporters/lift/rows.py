"""Rows that the graph sorts by length, as packed sequences are: each recurrent node gets them as they came.

``node(x[p]) = node(x)[p]`` for any order ``p`` of rows, so that the state of a node whose rows are sorted
can be that of the rows as they came, whatever order the next call sorts them in.
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from lstm_edge_runtime.errors import FileFormatError

from ..graph import Builder, constant, dynamic_axes, is_data_free
from ..recurrent import LENGTHS, is_recurrent, slots
from .running import evaluate

_SORTS_UPWARDS = 11
"""The opset from which TopK can be asked for the smallest."""
_SIZE = 8
"""Size of the first axis that has no known one; the next ones are larger."""


def restore_order(model: ir.Model, known: Mapping[str, int]) -> None:
    """Let recurrent nodes run on rows as they came, and sort their results; ``known`` has sizes of axes."""
    if model.graph.opset_imports[""] < _SORTS_UPWARDS:
        return
    for node in [node for node in model.graph if is_recurrent(node)]:
        orders = list(_orders(node))
        if orders and _keep_rows(model, node, orders, known):
            _restore(node, orders)


def _orders(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the computed indices by which something is gathered between X and the node or input above it."""
    value = node.inputs[0]
    while value is not None and (above := value.producer()) is not None and not is_recurrent(above):
        if above.op_type == "Gather" and (order := above.inputs[1]) is not None and constant(order) is None:
            yield order
        value = next((each for each in above.inputs if each is not None and constant(each) is None), None)


def _keep_rows(model: ir.Model, node: ir.Node, orders: Sequence[ir.Value], known: Mapping[str, int]) -> bool:
    """Return True if all of ``orders`` were permutations of the rows of X."""
    x = node.inputs[0]
    assert x is not None
    sizes = {name: _SIZE + place for place, name in enumerate(dynamic_axes(model.graph))} | dict(known)
    try:
        ((_, run),) = evaluate(model, [x, *orders], [[sizes]])
    except FileFormatError:
        return False
    rows = list(range(run[x].shape[1]))
    return all(run[each].ndim == 1 and sorted(run[each].tolist()) == rows for each in orders)


def _restore(node: ir.Node, orders: Sequence[ir.Value]) -> None:
    """Put the rows of what ``node`` reads back, and sort what it gives."""
    for sort, place in (use for order in orders for use in list(order.uses())):
        if sort.op_type == "Gather" and place == 1 and sort.inputs[0] and is_data_free(sort.inputs[0]):
            ir.convenience.replace_all_uses_with(sort.outputs[0], sort.inputs[0])  # all rows are the same
    build = Builder(node, f"{node.name or node.op_type}.rows")
    order, *outer = reversed(orders)
    for inner in outer:
        order = build.node("Gather", [order, inner], {"axis": 0})[0]
    (count,) = build.node("Shape", [order])
    _, back = build.node("TopK", [order, count], {"largest": 0}, outputs=2)
    starts = [slot.input for slot in slots(node)]
    for place, value in enumerate(node.inputs):
        if value is not None and (place in (0, LENGTHS) or (place in starts and not is_data_free(value))):
            axis = 0 if place == LENGTHS else 1
            node.replace_input_with(place, build.node("Gather", [value, back], {"axis": axis})[0])
    for place, value in enumerate(node.outputs):
        if value.name and (value.uses() or value.is_graph_output()):
            sort = ir.node("Gather", [value, order], {"axis": 1 if place else 2}, name=f"{value.name}.sort")
            new = sort.outputs[0]
            new.name, new.type, new.shape = value.name, value.type, value.shape
            value.name = f"{value.name}.as_came"
            ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
            sort.replace_input_with(0, value)
            node.append(sort)
