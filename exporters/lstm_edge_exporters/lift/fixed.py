"""Sizes that exporters write into a graph although its weights need none: three patterns, made free.

Called only where axes of fixed size are to become dynamic; what comes of it is verified.
"""

import numpy as np
import onnx_ir as ir

from ..graph import UniqueNames, axes_of, constant, data_inputs, operands, walk
from ..recurrent import is_recurrent
from .recurrences import recurrences

_SEQUENCE_RANK = 3


def free_sizes(model: ir.Model) -> None:
    """Free all three patterns, in place; the declared sizes must still be there."""
    transpose_reshapes(model)
    generalize_reshapes(model)
    generalize_loops(model)


def transpose_reshapes(model: ir.Model) -> None:
    """Replace a Reshape that swaps the first two of three axes, one of them 1, by a Transpose.

    tf2onnx writes it where batch or time is 1.
    """
    for node in [node for node in model.graph if node.op_type == "Reshape" and node.domain == ""]:
        source, target = node.inputs[0], constant(node.inputs[1])
        sizes = () if source is None else axes_of(source)
        if target is None or len(sizes) != _SEQUENCE_RANK or 1 not in sizes[:2] or sizes[0] == sizes[1]:
            continue
        if target.tolist() == [sizes[1], sizes[0], sizes[2]]:
            swapped = ir.node("Transpose", [source], {"perm": [1, 0, 2]}, name=node.name)
            old, new = node.outputs[0], swapped.outputs[0]
            new.name, new.type, new.shape = old.name, old.type, old.shape
            model.graph.insert_before(node, swapped)
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)


def generalize_reshapes(model: ir.Model) -> None:
    """Let a Reshape that drops the direction axis of a recurrent node's Y take any batch and length.

    PyTorch writes ``(L, N, 1, H)`` to ``(L, N, H)`` as three numbers; 0 keeps an axis, -1 takes what is left.
    """
    names = UniqueNames(model.graph)
    for node in [node for node in model.graph if is_recurrent(node)]:
        value, axis = node.outputs[0], 1
        while len(users := list(value.uses())) == 1 and users[0].node.op_type == "Transpose":
            axis = list(users[0].node.attributes.get_ints("perm", (3, 2, 1, 0)) or ()).index(axis)
            value = users[0].node.outputs[0]
        sizes = list(axes_of(value))
        for user, place in users:
            target = constant(user.inputs[1]) if user.op_type == "Reshape" and place == 0 else None
            dropped = sizes[:axis] + sizes[axis + 1 :]
            if target is None or axis not in (1, 2) or sizes[axis] != 1 or target.tolist() != dropped:
                continue
            name = names.unique(f"{user.name}.sizes")
            numbers = ir.tensor(np.array([0, -1 if axis == 1 else 0, dropped[2]]), name=name)
            free = ir.val(name, const_value=numbers)
            model.graph.register_initializer(free)
            user.replace_input_with(1, free)
            user.attributes.pop("allowzero", None)


def generalize_loops(model: ir.Model) -> None:
    """Let a Loop with a constant number of passes make one per step of the input axis of that size.

    A loop whose condition looks at data stays as it is.
    """
    names = UniqueNames(model.graph)
    for node in [each.node for each in recurrences(model) if each.node.op_type == "Loop"]:
        trips, body = constant(node.inputs[0]), node.attributes["body"].as_graph()
        axes = [
            (value, axis)
            for value in data_inputs(model.graph)
            for axis, size in enumerate(axes_of(value)[: max(len(axes_of(value)) - 1, 1)])
            if trips is not None and trips.size == 1 and size == trips.item() > 1
        ]
        above = {*walk([body.outputs[0]], operands)}
        whole = all(value.dtype is not None and not value.dtype.is_floating_point() for value in above)
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
        go.outputs[0].type, go.outputs[0].shape = body.outputs[0].type, body.outputs[0].shape
        body.outputs[0] = go.outputs[0]
