"""Which free axis is the batch and which is time, found by running the graph."""

import onnx_ir as ir

from ..recurrent import recurrent_nodes
from ._axes import symbols
from .axis_roles import BATCH, SEQUENCE
from .evaluate import evaluate

__all__ = ["probe_roles"]

_LONG = 40
"""A size that a window of a usual convolution fits in."""
_APART = 8
_MORE = 3


def probe_roles(model: ir.Model) -> dict[str, str]:
    """Return the name of the one free axis that a recurrent node's batch, and time, grow with.

    Each axis is made longer by itself. One that both grow with is neither, nor is any where several axes
    lengthen the same one, as where rows are merged into time.
    """
    names = symbols(model.graph)
    base = {name: _LONG + _APART * place for place, name in enumerate(names)}
    cases = [base, *(base | {name: size + _MORE} for name, size in base.items())]
    found: dict[str, str] = {}
    for node in recurrent_nodes(model):
        x = node.inputs[0]
        if x is None:
            continue
        try:
            first, *longer = (arrays[x].shape for arrays in evaluate(model, [x], cases))
        except Exception:  # noqa: BLE001, S112  onnxruntime's exceptions share no base class; nothing is told, then
            continue
        moved = {
            name: {axis for axis in (0, 1) if shape[axis] != first[axis]}
            for name, shape in zip(names, longer, strict=True)
        }
        layout = node.attributes.get_int("layout", 0) or 0
        for role, axis in ((SEQUENCE, layout), (BATCH, 1 - layout)):
            driving = [name for name, axes in moved.items() if axis in axes]
            if len(driving) == 1 and moved[driving[0]] == {axis}:
                found.setdefault(role, driving[0])
    return found
