"""Rewriting what exporters fix or sort, before states are lifted; the result is
verified.

Sizes that exporters write into a graph although its weights need none are made free:
three patterns.

Rows that a graph sorts by length, as packed sequences are, reach each recurrent node as
they came: ``node(x[p]) = node(x)[p]`` for any order ``p`` of rows, so that states need
not follow the order of a call.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import FileFormatError
from lstm_edge_runtime.manifest import Axes

from ..graph import (
    Builder,
    UniqueNames,
    axes_of,
    constant,
    data_inputs,
    dynamic_axes,
    infer_shapes,
    is_data_free,
    operands,
    put_behind,
    walk,
)
from ..recurrent import LENGTHS, is_recurrent, slots
from .recurrences import recurrences
from .running import evaluate

_SEQUENCE_RANK = 3


def free_sizes(model: ir.Model, declared: Mapping[str, Axes]) -> None:
    """Free all three patterns of sizes, in place; the declared sizes must still be
    there.

    ``declared`` are the axes of inputs, with names for those that are to be dynamic.
    """
    if any(node.op_type in ("Loop", "Reshape") for node in model.graph):
        infer_shapes(model)
    for node in [*model.graph]:
        if node.op_type == "Reshape" and node.domain == "":
            _transpose_instead(node)
    for node in [*model.graph]:
        if is_recurrent(node):
            _generalize_reshapes(node)
    for layer in recurrences(model):
        if layer.node.op_type == "Loop":
            _generalize_loop(model.graph, layer.node, declared)


def _transpose_instead(node: ir.Node) -> None:
    """Replace a Reshape that swaps the first two of three axes, one of them 1
    (tf2onnx), by a Transpose.
    """
    source = node.inputs[0]
    target = constant(node.inputs[1])
    if source is None or target is None:
        return
    sizes = axes_of(source)
    is_sequence = len(sizes) == _SEQUENCE_RANK and 1 in sizes[:2]
    if not is_sequence or sizes[0] == sizes[1]:
        return
    if target.tolist() == [sizes[1], sizes[0], sizes[2]]:
        build = Builder(node, node.name or node.op_type)
        swapped = build.value("Transpose", [source], {"perm": [1, 0, 2]})
        name = node.outputs[0].name
        swapped.shape = node.outputs[0].shape
        build.replace([swapped])
        swapped.name = name


def _generalize_reshapes(node: ir.Node) -> None:
    """Let a Reshape of Y to three numbers, ``(L, N, 1, H)`` to ``(L, N, H)``, take any
    batch and length.
    """
    value, axis = _transposed_output(node)
    sizes = [*axes_of(value)]
    if axis not in (1, 2) or sizes[axis : axis + 1] != [1]:
        return
    without_axis = sizes[:axis] + sizes[axis + 1 :]
    for user, index in [*value.uses()]:
        target = constant(user.inputs[1]) if user.op_type == "Reshape" else None
        if index != 0 or target is None or target.tolist() != without_axis:
            continue
        second = -1 if axis == 1 else 0  # 0 keeps the size of the same axis
        build = Builder(user, user.name or user.op_type)
        free = build.constant(np.array([0, second, without_axis[2]]), "sizes")
        user.replace_input_with(1, free)
        user.attributes.pop("allowzero", None)


def _transposed_output(node: ir.Node) -> tuple[ir.Value, int]:
    """Return Y after all Transposes that are its only readers, and the axis of
    directions.
    """
    value = node.outputs[0]
    axis = 1
    while True:
        users = [user for user, _ in value.uses()]
        if len(users) != 1 or users[0].op_type != "Transpose":
            return value, axis
        order = users[0].attributes.get_ints("perm", None) or (3, 2, 1, 0)
        axis = [*order].index(axis)
        value = users[0].outputs[0]


def _generalize_loop(
    graph: ir.Graph, node: ir.Node, declared: Mapping[str, Axes]
) -> None:
    """Let a Loop with a constant number of passes, whose condition reads no data, run
    once per step of an axis of that size that is to be dynamic.
    """
    trips = constant(node.inputs[0])
    if trips is None or trips.size != 1:
        return
    dynamic = _dynamic_axis(graph, declared, trips.item())
    body = node.attributes["body"].as_graph()
    above = [*walk([body.outputs[0]], operands)]
    dtypes = [value.dtype or ir.DataType.INT64 for value in above]
    reads_floats = any(dtype.is_floating_point() for dtype in dtypes)
    if dynamic is None or reads_floats or {*above}.intersection(graph.inputs):
        return
    value, axis = dynamic
    build = Builder(node, f"{node.name or node.op_type}.steps")
    shape = build.value("Shape", [value])
    shape.dtype = ir.DataType.INT64
    steps = build.value("Gather", [shape, build.constant(np.array(axis), "axis")])
    node.replace_input_with(0, steps)
    in_body = Builder(body, f"{node.name}.go", UniqueNames(graph))
    body.outputs[0] = in_body.value("Identity", [body.inputs[1]], like=body.outputs[0])


def _dynamic_axis(
    graph: ir.Graph, declared: Mapping[str, Axes], size: int
) -> tuple[ir.Value, int] | None:
    """Return the first axis of this size that ``declared`` names."""
    for value in data_inputs(graph):
        names = declared.get(str(value.name), ())
        for index, (name, axis) in enumerate(zip(names, axes_of(value), strict=False)):
            if isinstance(name, str) and axis == size:
                return value, index
    return None


def restore_order(model: ir.Model) -> None:
    """Let recurrent nodes run on unsorted rows, and sort their results."""
    for node in [node for node in model.graph if is_recurrent(node)]:
        orders = list(_orders(node))
        if orders and _keep_rows(model, node, orders):
            _restore(node, orders)


def _orders(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the computed indices by which something is gathered between X and the node
    or input above it.
    """
    value = node.inputs[0]
    while value is not None:
        above = value.producer()
        if above is None or is_recurrent(above):
            return
        order = above.inputs[1] if above.op_type == "Gather" else None
        if order is not None and constant(order) is None:
            yield order
        computed = [
            operand
            for operand in above.inputs
            if operand is not None and constant(operand) is None
        ]
        value = computed[0] if computed else None


def _keep_rows(model: ir.Model, node: ir.Node, orders: Sequence[ir.Value]) -> bool:
    """Return True if all of ``orders`` were permutations of the rows of X."""
    x = node.inputs[0]
    assert x is not None
    sizes = {name: 8 + index for index, name in enumerate(dynamic_axes(model.graph))}
    try:
        ((_, run),) = evaluate(model, [x, *orders], [[sizes]])
    except FileFormatError:
        return False
    rows = [*range(run[x].shape[1])]
    return all(
        run[order].ndim == 1 and sorted(run[order].tolist()) == rows for order in orders
    )


def _restore(node: ir.Node, orders: Sequence[ir.Value]) -> None:
    """Restore the order of the rows that ``node`` reads, and sort its results."""
    for order in orders:
        _skip_equal_rows(order)
    build = Builder(node, f"{node.name or node.op_type}.rows")
    order, *outer = reversed(orders)
    for inner in outer:
        order = build.value("Gather", [order, inner], {"axis": 0})
    count = build.value("Shape", [order])
    _, inverse = build.node("TopK", [order, count], {"largest": 0}, outputs=2)
    for index, axis in _row_axes(node).items():
        restored = build.value("Gather", [node.inputs[index], inverse], {"axis": axis})
        node.replace_input_with(index, restored)
    for index, value in enumerate(node.outputs):
        if value.name and (value.uses() or value.is_graph_output()):
            put_behind(value, "Gather", [order], {"axis": 1 if index else 2})


def _row_axes(node: ir.Node) -> dict[int, int]:
    """Return the axis of rows by index of an input: X, lengths, and computed states."""
    starts = [slot.input for slot in slots(node)]
    axes = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        is_state = index in starts and not is_data_free(value)
        if index == LENGTHS:
            axes[index] = 0
        elif index == 0 or is_state:
            axes[index] = 1
    return axes


def _skip_equal_rows(order: ir.Value) -> None:
    """Let readers of equal rows in this order read the unsorted rows."""
    for sort, index in [*order.uses()]:
        source = sort.inputs[0]
        is_sort = sort.op_type == "Gather" and index == 1
        if is_sort and source is not None and is_data_free(source):
            ir.convenience.replace_all_uses_with(sort.outputs[0], source)
