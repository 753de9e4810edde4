"""Refusing what onnxruntime ends the process at: a GRU without a step, a GRU or an LSTM without a row."""

import numpy as np
import onnx_ir as ir

from ..recurrent import label, recurrent_nodes
from ._ort import Session, to_bytes
from .wiring import Names

__all__ = ["guard", "open_guarded"]

_EMPTY = "no step or row is left for "
"""What the name of a guarding operator begins with; the recurrent node's label follows."""


def guard(model: ir.Model) -> ir.Model:
    """Put a Reshape before every recurrent node, in place, that raises an error for an empty X.

    ``[0, 0, -1]`` keeps X as it is; with no step or no row the last size can't be told. Seen in onnxruntime
    1.32: the process aborts in a thread of its own, past any handler.
    """
    names = Names(model)
    for node in list(recurrent_nodes(model)):
        x = node.inputs[0]
        name = names.unique(f"{_EMPTY}{label(node)}")
        sizes = ir.node("Constant", [], {"value": ir.tensor(np.array([0, 0, -1]))}, name=f"{name}.sizes")
        same = ir.node("Reshape", [x, sizes.outputs[0]], name=name)
        sizes.outputs[0].name, same.outputs[0].name = f"{name}.shape", f"{name}.same"
        node.prepend([sizes, same])
        node.replace_input_with(0, same.outputs[0])
    return model


def open_guarded(model: ir.Model, what: str) -> Session:
    """Open ``model`` in onnxruntime so that it sees no shapes that it would end the process at.

    Raises:
        FileFormatError: onnxruntime refuses it; the message carries its first line.
    """
    return Session(to_bytes(model), to_bytes(guard(model.clone())), name=what)
