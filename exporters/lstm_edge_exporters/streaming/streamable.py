"""Graphs that look back along time, made to stream: what they look back at becomes a state."""

from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.manifest import StateSpec

from ..graph import axes_of, data_inputs
from .facts import NotStreamableError, find_shapes
from .rewrite import Rewriter
from .rules import RULES

__all__ = ["Streamable", "make_streamable"]

_OPSET = 11
"""The first in which Pad and Slice take their numbers as inputs."""


@dataclass(frozen=True)
class Streamable:
    """A graph that gives the same in chunks as in one call."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    """Those that were added: frames of the past, and sums."""
    reach: int
    """Upper bound of the number of past steps that an output depends on through them."""


def make_streamable(model: ir.Model, batch: str | None, sequence: str | None) -> Streamable | None:
    """Return a copy of ``model`` whose operators along time keep their past in states.

    Called with these at reset it gives what ``model`` gives on the whole sequence.

    Args:
        model: a graph whose recurrent states are inputs and outputs; left as it is.
        batch: the name of the batch axis, if any.
        sequence: the name of the time axis, if any.

    Returns:
        None if there is no time axis, no operator that needs a state, or no size at which the graph runs.

    Raises:
        NotStreamableError: a part of the graph can't be fed in chunks.
    """
    if sequence is None or all(sequence not in axes_of(value) for value in data_inputs(model.graph)):
        return None
    if (opset := model.opset_imports[""]) < _OPSET:
        raise NotStreamableError(f"opset {opset}, expected {_OPSET} or later")
    model = model.clone()
    shapes = find_shapes(model, batch, sequence)
    if shapes is None:
        return None
    work = Rewriter(model, shapes, sequence)
    for node in list(model.graph):
        work.visit(node, RULES)
    work.check_outputs()
    work.finish()
    return Streamable(model, tuple(work.states), work.reach) if work.states else None
