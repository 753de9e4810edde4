"""Undoing the matrix that enters a projected state into a standard LSTM node.

With ``proj_size`` the state h (P) enters a node of width H as ``h @ M`` and leaves as ``Y_h @ K``, with
``M = pinv(W_hr).T`` and ``K = W_hr.T``. K serves as the way back when it undoes M (``M @ K = 1``) and when
what it drops is nothing that the recurrence reads (``K @ M @ R.T = R.T``).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["WAY_BACK", "undoing"]

WAY_BACK = "lstm_edge.way_back"
"""In the ``metadata_props`` of M: the name of the initializer K, where M's maker knows it."""

Array = npt.NDArray[Any]

_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_RELATIVE = 1e-4
"""Both conditions hold to float32 rounding amplified by W_hr's condition number, never to a part in 1e4
unless K is the right matrix."""


def undoing(weight: ir.Value, recurrent: ir.Node, arrays: Mapping[ir.Value, Array]) -> ir.Value | None:
    """Find the K that undoes ``weight`` (M): declared, or among the constants that multiply the outputs."""
    if WAY_BACK in weight.metadata_props and recurrent.graph is not None:
        return recurrent.graph.initializers[weight.metadata_props[WAY_BACK]]
    recurrence = _array(recurrent.inputs[2], arrays)
    entering = _array(weight, arrays)
    if recurrence is None or entering is None:
        return None
    enter, read = entering.astype(np.float64), np.swapaxes(recurrence.astype(np.float64), -1, -2)
    for candidate in _multipliers(recurrent):
        leaving = _array(candidate, arrays)
        if leaving is None or leaving.shape[-2:] != entering.shape[-2:][::-1]:
            continue
        leave = leaving.astype(np.float64)
        if _close(enter @ leave, np.eye(enter.shape[-2])) and _close(leave @ (enter @ read), read):
            return candidate
    return None


def _multipliers(recurrent: ir.Node) -> Iterator[ir.Value]:
    """Return the right operands of the products that read the node's ``Y`` or ``Y_h``."""
    waiting, seen = list(recurrent.outputs[:2]), set(recurrent.outputs[:2])
    while waiting:
        for node, place in waiting.pop().uses():
            if place:
                continue
            if node.op_type == "MatMul" and node.inputs[1] is not None:
                yield node.inputs[1]
            elif node.op_type in _THROUGH and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])


def _array(value: ir.Value | None, arrays: Mapping[ir.Value, Array]) -> Array | None:
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return arrays.get(value) if tensor is None else tensor.numpy()


def _close(got: Array, expected: Array) -> bool:
    return bool(np.abs(got - expected).max() <= _RELATIVE * max(float(np.abs(expected).max()), 1e-30))
