"""Rewriting what exporters fix or sort, before states are lifted; the result is
verified.

Sizes that exporters write into a graph although its weights need none are made free:
three patterns.

Rows that a graph sorts by length, as packed sequences are, reach each recurrent node as
they came: ``node(x[p]) = node(x)[p]`` for any order ``p`` of rows, so that states need
not follow the order of a call.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import FileFormatError

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
    walk,
)
from ..recurrent import LENGTHS, is_recurrent, slots
from .recurrences import recurrences
from .running import evaluate

_SEQUENCE_RANK = 3


def free_sizes(model: ir.Model) -> None:
    """Free all three patterns of sizes, in place; the declared sizes must still be
    there.
    """
    if any(node.op_type in ("Loop", "Reshape") for node in model.graph):
        infer_shapes(model)
    _transpose_reshapes(model)
    _generalize_reshapes(model)
    _generalize_loops(model)


def _transpose_reshapes(model: ir.Model) -> None:
    """Replace a Reshape that swaps the first two of three axes, one of them 1
    (tf2onnx), by a Transpose.
    """
    for node in [
        node for node in model.graph if node.op_type == "Reshape" and node.domain == ""
    ]:
        source = node.inputs[0]
        target = constant(node.inputs[1])
        sizes = () if source is None else axes_of(source)
        if (
            target is None
            or len(sizes) != _SEQUENCE_RANK
            or 1 not in sizes[:2]
            or sizes[0] == sizes[1]
        ):
            continue
        if target.tolist() == [sizes[1], sizes[0], sizes[2]]:
            swapped = ir.node(
                "Transpose", [source], {"perm": [1, 0, 2]}, name=node.name
            )
            old = node.outputs[0]
            new = swapped.outputs[0]
            new.name = old.name
            new.type = old.type
            new.shape = old.shape
            model.graph.insert_before(node, swapped)
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)


def _generalize_reshapes(model: ir.Model) -> None:
    """Let a Reshape of Y to three numbers, ``(L, N, 1, H)`` to ``(L, N, H)``, take any
    batch and length.
    """
    names = UniqueNames(model.graph)
    for node in [node for node in model.graph if is_recurrent(node)]:
        value = node.outputs[0]
        axis = 1
        while (
            len(users := list(value.uses())) == 1
            and users[0].node.op_type == "Transpose"
        ):
            axis = list(
                users[0].node.attributes.get_ints("perm", (3, 2, 1, 0)) or ()
            ).index(axis)
            value = users[0].node.outputs[0]
        sizes = list(axes_of(value))
        for user, index in users:
            target = (
                constant(user.inputs[1])
                if user.op_type == "Reshape" and index == 0
                else None
            )
            dropped = sizes[:axis] + sizes[axis + 1 :]
            if (
                target is None
                or axis not in (1, 2)
                or sizes[axis] != 1
                or target.tolist() != dropped
            ):
                continue
            name = names.unique(f"{user.name}.sizes")
            numbers = ir.tensor(
                np.array([0, -1 if axis == 1 else 0, dropped[2]]), name=name
            )
            free = ir.val(name, const_value=numbers)
            model.graph.register_initializer(free)
            user.replace_input_with(1, free)
            user.attributes.pop("allowzero", None)


def _generalize_loops(model: ir.Model) -> None:
    """Let a Loop of constant passes, whose condition reads no data, make one per step
    of that many.
    """
    names = UniqueNames(model.graph)
    for node in [
        recurrence.node
        for recurrence in recurrences(model)
        if recurrence.node.op_type == "Loop"
    ]:
        trips = constant(node.inputs[0])
        body = node.attributes["body"].as_graph()
        axes = [
            (value, axis)
            for value in data_inputs(model.graph)
            for axis, size in enumerate(
                axes_of(value)[: max(len(axes_of(value)) - 1, 1)]
            )
            if trips is not None and trips.size == 1 and size == trips.item() > 1
        ]
        above = {*walk([body.outputs[0]], operands)}
        whole = not any(
            (value.dtype or ir.DataType.INT64).is_floating_point() for value in above
        )
        if not axes or not whole or above.intersection(model.graph.inputs):
            continue
        shape = ir.node("Shape", [axes[0][0]])
        axis = ir.node("Constant", [], {"value": ir.tensor(np.array(axes[0][1]))})
        steps = ir.node("Gather", [shape.outputs[0], axis.outputs[0]])
        go = ir.node("Identity", [body.inputs[1]])
        for value in (*shape.outputs, *axis.outputs, *steps.outputs, *go.outputs):
            value.name = names.unique(f"{node.name}.steps")
        model.graph.insert_before(node, [shape, axis, steps])
        node.replace_input_with(0, steps.outputs[0])
        body.append(go)
        go.outputs[0].type = body.outputs[0].type
        go.outputs[0].shape = body.outputs[0].shape
        body.outputs[0] = go.outputs[0]


def restore_order(model: ir.Model) -> None:
    """Let recurrent nodes run on rows as they came, and sort their results."""
    if model.graph.opset_imports[""] < 11:  # TopK can't be asked for the smallest
        return
    for node in [node for node in model.graph if is_recurrent(node)]:
        orders = list(_orders(node))
        if orders and _keep_rows(model, node, orders):
            _restore(node, orders)


def _orders(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the computed indices by which something is gathered between X and the node
    or input above it.
    """
    value = node.inputs[0]
    while (
        value is not None
        and (above := value.producer()) is not None
        and not is_recurrent(above)
    ):
        if (
            above.op_type == "Gather"
            and (order := above.inputs[1]) is not None
            and constant(order) is None
        ):
            yield order
        value = next(
            (
                value
                for value in above.inputs
                if value is not None and constant(value) is None
            ),
            None,
        )


def _keep_rows(model: ir.Model, node: ir.Node, orders: Sequence[ir.Value]) -> bool:
    """Return True if all of ``orders`` were permutations of the rows of X."""
    x = node.inputs[0]
    assert x is not None
    sizes = {name: 8 + index for index, name in enumerate(dynamic_axes(model.graph))}
    try:
        ((_, run),) = evaluate(model, [x, *orders], [[sizes]])
    except FileFormatError:
        return False
    rows = list(range(run[x].shape[1]))
    return all(
        run[order].ndim == 1 and sorted(run[order].tolist()) == rows for order in orders
    )


def _restore(node: ir.Node, orders: Sequence[ir.Value]) -> None:
    """Put the rows of what ``node`` reads back, and sort what it gives."""
    for sort, index in (use for order in orders for use in list(order.uses())):
        if (
            sort.op_type == "Gather"
            and index == 1
            and sort.inputs[0]
            and is_data_free(sort.inputs[0])
        ):
            ir.convenience.replace_all_uses_with(
                sort.outputs[0], sort.inputs[0]
            )  # all rows are the same
    build = Builder(node, f"{node.name or node.op_type}.rows")
    order, *outer = reversed(orders)
    for inner in outer:
        order = build.node("Gather", [order, inner], {"axis": 0})[0]
    (count,) = build.node("Shape", [order])
    _, back = build.node("TopK", [order, count], {"largest": 0}, outputs=2)
    starts = [slot.input for slot in slots(node)]
    for index, value in enumerate(node.inputs):
        if value is not None and (
            index in (0, LENGTHS) or (index in starts and not is_data_free(value))
        ):
            axis = 0 if index == LENGTHS else 1
            node.replace_input_with(
                index, build.node("Gather", [value, back], {"axis": axis})[0]
            )
    for index, value in enumerate(node.outputs):
        if value.name and (value.uses() or value.is_graph_output()):
            sort = ir.node(
                "Gather",
                [value, order],
                {"axis": 1 if index else 2},
                name=f"{value.name}.sort",
            )
            new = sort.outputs[0]
            new.name = value.name
            new.type = value.type
            new.shape = value.shape
            value.name = f"{value.name}.as_came"
            ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
            sort.replace_input_with(0, value)
            node.append(sort)
