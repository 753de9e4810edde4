"""Freeing a Reshape that only drops the direction axis of a node's sequence, with the sizes written out."""

import numpy as np
import onnx_ir as ir

from ..recurrent import recurrent_nodes
from ._axes import axes_of
from ._shapes import infer_shapes
from .evaluate import constant
from .wiring import Names

__all__ = ["free_reshapes"]


def free_reshapes(model: ir.Model) -> None:
    """Let such Reshapes take any batch and length, in place; the declared sizes must still be there.

    PyTorch's exporter, given a fixed shape, turns ``(L, N, 1, H)`` into ``(L, N, H)`` by three numbers. With
    0 for an axis that stays in its place and -1 for one that moves up, they do the same at every size.
    """
    infer_shapes(model)
    names = Names(model)
    for node in recurrent_nodes(model):
        value, axis = node.outputs[0], 2 if node.attributes.get_int("layout", 0) else 1
        while len(users := list(value.uses())) == 1 and users[0].node.op_type == "Transpose":
            axis = list(users[0].node.attributes.get_ints("perm", (3, 2, 1, 0))).index(axis)
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
