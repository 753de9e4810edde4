"""Prepare a graph for onnxruntime's quantizer.

It quantizes an LSTM only where W and R are initializers, and damages a weight that two
nodes share. So: constants become initializers, and each recurrent node gets weights of
its own.
"""

import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
)
from onnxscript.optimizer import fold_constants

from ..graph import Builder, operands, walk
from ..recurrent import OPERATORS, is_recurrent

_NO_LIMIT = 2**31 - 1
_WEIGHTS = {**dict.fromkeys(OPERATORS, (1, 2, 3)), "MatMul": (1,), "Gemm": (1, 2)}


def prepare(model: ir.Model) -> None:
    """Rewrite ``model`` in place; it computes what it did before."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    RemoveInitializersFromInputsPass()(model)
    _fold_weights(model)
    for node in model.graph:
        if is_recurrent(node):
            _copy_shared_weights(node)


def _fold_weights(model: ir.Model) -> None:
    """Evaluate the nodes that only weights hang on (gate reorderings, transposes,
    casts).
    """
    wanted: set[ir.Node] = set()
    for user in model.graph:
        for index in _WEIGHTS.get(user.op_type, ()):
            weight = user.inputs[index] if index < len(user.inputs) else None
            if weight is not None:
                wanted |= _nodes_of_weight(weight)
    if wanted:
        fold_constants(
            model,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
            should_fold=lambda node: node in wanted,
        )
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _nodes_of_weight(weight: ir.Value) -> set[ir.Node]:
    """Return the nodes that compute a weight; none if it depends on an input."""
    nodes = set()
    for value in walk([weight], operands):
        node = value.producer()
        if node is not None:
            nodes.add(node)
        elif not value.is_initializer():
            return set()
    return nodes


def _copy_shared_weights(node: ir.Node) -> None:
    """Give a recurrent node its own copies of shared weights."""
    for index in (1, 2):
        weight = node.inputs[index]
        if weight is None or weight.const_value is None:
            continue
        is_shared = len(list(weight.uses())) > 1
        if is_shared:
            build = Builder(node, str(weight.name))
            copied = build.constant(weight.const_value.numpy(), "own")
            node.replace_input_with(index, copied)
