"""Graphs that look along time, made to stream: what they look back at becomes a state."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.manifest import Axes, StateSpec

from ..graph import axes_of, data_inputs
from .facts import NotStreamableError, find_shapes
from .rewrite import Rewriter
from .rules import RULES

_OPSET = 11
"""The first in which Pad and Slice take their numbers as inputs."""


@dataclass(frozen=True)
class Streamable:
    """A graph that gives in chunks what another gives in one call."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    """Those that were added: frames of the past, and sums."""
    reach: int
    """Upper bound of the number of past steps that an output depends on through them."""
    starts: Mapping[str, int]
    """Steps for which states that were inputs already are held at their reset values, where any."""
    delays: Mapping[str, int]
    """Of each output, the frames that it is behind."""
    axes: Mapping[str, Axes]
    """Of each output."""
    early: Mapping[str, int]
    """Of each value of the last step alone, how many frames after its frame the whole has."""
    unit: int
    """The number of steps that a call takes a multiple of."""
    end: int | None
    """The number of steps from reset after which a table of positions ends, if any."""
    late: bool
    """Whether outputs are behind or have another number of frames than steps, or a stream ends: then the
    graph can't take the place of the other one."""


def make_streamable(model: ir.Model, batch: str | None, sequence: str | None) -> Streamable | None:
    """Return a copy of ``model`` whose operators along time keep their past in states.

    Called with these at reset it gives what ``model`` gives on the whole sequence, ``delays`` frames later.

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
    axes = {str(value.name): axes_of(value) for value in model.graph.outputs}
    late = any((*work.delays.values(), *work.surpluses.values(), work.paced, work.end is not None))
    if not work.states and not late:
        return None
    return Streamable(
        model,
        tuple(work.states),
        work.reach,
        work.starts,
        work.delays,
        axes,
        work.early,
        work.unit,
        work.end,
        late,
    )
