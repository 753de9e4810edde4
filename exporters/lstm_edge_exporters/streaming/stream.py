"""From the graph of a network to one that is fed in chunks.

A rule per operator says what it does to the flow of its operand: it looks back over a window, shifts frames,
spreads a frame over several, carries a state, or computes each frame from that frame alone. Operators without
a rule are refused.

The result is an ordinary graph. A call takes a multiple of ``unit`` steps, outputs lag by their delays, and
the frames that it looks back at are states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, OutputFixPass, RemoveUnusedNodesPass

from lstm_edge_runtime.errors import counted
from lstm_edge_runtime.manifest import Axes, StateSpec

from ..graph import axes_of, constant, data_inputs, infer_shapes, is_data_free
from .rewrite import NotStreamableError, Rewriter, fill_of, surplus_of
from .rules import RULES, axes_read, layout, per_frame, reshape

_OLDEST_OPSET = 13
_SIZES = ("Shape", "Size")


@dataclass(frozen=True)
class Streamed:
    """A graph that is fed in chunks."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    added: tuple[StateSpec, ...]
    """The last of ``states``: frames of the past, sums and step counters."""
    unit: int
    """A call takes a multiple of this number of steps."""
    delays: Mapping[str, int]
    """Delay of each output, in frames (in units for outputs without a time axis)."""
    axes: Mapping[str, Axes]
    early: Mapping[str, tuple[int, int]]
    """By the name of a value of the last frames, its axis and how much later the full sequence takes it."""
    ahead: int
    """Number of steps by which the outputs lag, rounded up."""
    reach: int
    """Upper bound of the number of past steps that the added states hold."""
    ordinary: bool
    """True if it computes the full sequence in one call too, so that it can replace the original graph."""

    @property
    def need(self) -> str:
        """Why a file of its own streams, and how: ``looks 3 steps ahead: --stream writes a file ...``."""
        frames = max(self.delays.values(), default=0)
        why = f"looks {counted(self.ahead, 'step')} ahead" if frames else "has strides"
        why = why if self.unit == 1 else f"takes {self.unit} steps at a time"
        calls = f"whose calls take a multiple of {self.unit} steps" if self.unit > 1 else ""
        lag = f"whose outputs lag by {frames}" if frames else ""
        return f"{why}: --stream writes a file {' and '.join(filter(None, (calls, lag)))}".rstrip()


def stream(
    model: ir.Model, states: Sequence[StateSpec], batch: str | None = "N", sequence: str | None = "L"
) -> Streamed:
    """Return the graph that streams a network.

    Args:
        model: the network with symbolic sizes and with its states as inputs and outputs; it is copied.
        states: the recurrent states.
        batch: name of the batch axis, if any.
        sequence: name of the time axis, if any.

    Raises:
        NotStreamableError: a node can't be fed in chunks; the message names it.
    """
    model = model.clone()
    if sequence is None or all(sequence not in axes_of(value) for value in data_inputs(model.graph)):
        axes = {str(value.name): axes_of(value) for value in model.graph.outputs}
        return Streamed(model, tuple(states), (), 1, {}, axes, {}, 0, 0, ordinary=True)
    if (opset := model.opset_imports[""]) < _OLDEST_OPSET:
        raise NotStreamableError(f"opset {opset} can't be streamed, expected {_OLDEST_OPSET} or later")
    infer_shapes(model)
    work = Rewriter(model, states, batch, sequence)
    for node in list(model.graph):
        _visit(work, node)
    return _finish(work)


def _visit(work: Rewriter, node: ir.Node) -> None:
    """Rewrite one node and set the flows of its results."""
    work.node = node
    moving = [value for value in node.inputs if value in work.flows]
    if node.op_type in _SIZES or all(map(_is_only_measured, node.outputs)):
        return
    if not moving:
        steps = [work.last[value] for value in node.inputs if value in work.last]
        work.last.update(dict.fromkeys(node.outputs, max(steps)) if steps else {})
        return
    rule = RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        raise work.refusal("has no rule for streaming")
    for index, value in enumerate(node.inputs):
        if value is None or value in work.flows:
            continue
        if value in work.last:
            raise work.refusal(f"combines frames with {value.name}, which is of the last frame alone")
        if work.time_axis(value) is not None and fill_of(value) is None:
            node.replace_input_with(index, count_on(work, value, moving[0]))
    rule(work, node, moving[0], work.flows[moving[0]])


def _finish(work: Rewriter) -> Streamed:
    """Delay outputs up to their first frames, tidy the graph, and describe it."""
    leaving, delays = {state.output for state in work.states}, dict[str, int]()
    axes, ordinary, ahead, work.node = dict[str, Axes](), True, 0, None
    for index, value in enumerate(list(work.graph.outputs)):
        name, flow = str(value.name), work.flows.get(value)
        if name in leaving:
            continue
        if flow is None:
            delays[name], axes[name] = work.last.get(value, 0) // work.unit, axes_of(value)
            ahead = max(ahead, work.last.get(value, 0))
            continue
        if work.is_merged(value, flow.axis):
            raise NotStreamableError(
                f"output {name} has rows and steps on one axis; return an axis for each, such as "
                "output.view(L, N, -1)"
            )
        ordinary &= flow.rate == 1 and not (value.shape and surplus_of(value.shape[flow.axis], work.sequence))
        settled, flow = work.settle(value, flow)
        if work.undefined:
            settled, flow = work.clean(settled, flow, 0.0)
        if settled is not value:
            value.name, settled.name, settled.shape = f"{name}.early", name, value.shape
            work.graph.outputs[index] = settled
        sizes: list[int | str] = [*axes_of(settled)]
        frames, steps = flow.rate.numerator, flow.rate.denominator  # the axis is L, L/8, 2*L or 3*L/2
        times, per = f"{frames}*" if frames > 1 else "", f"/{steps}" if steps > 1 else ""
        sizes[flow.axis] = f"{times}{work.sequence}{per}"
        settled.shape, delays[name], axes[name] = ir.Shape(sizes), flow.delay, tuple(sizes)
        ahead = max(ahead, ceil(flow.delay / flow.rate))
    _tidy(work.model)
    states, unit, added = tuple(work.states), work.unit, tuple(work.states[len(work.given) :])
    ordinary &= unit == 1 and not any(delays.values())
    return Streamed(
        work.model, states, added, unit, delays, axes, work.earlier, ahead, work.reach, ordinary=ordinary
    )


def _tidy(model: ir.Model) -> None:
    """Drop the shapes of the full sequence, and what nothing uses."""
    outputs = {*model.graph.outputs}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    for clean in (IdentityEliminationPass(), RemoveUnusedNodesPass(), OutputFixPass()):
        clean(model)
    model.graph.sort()


def _is_only_measured(value: ir.Value) -> bool:
    """Return True if only the size of a value is read."""
    readers = [use.node.op_type for use in value.uses()]
    return bool(readers) and not value.is_graph_output() and all(name in _SIZES for name in readers)


def count_on(work: Rewriter, value: ir.Value, beside: ir.Value) -> ir.Value:
    """Return a counter, or what is computed from one, for the frames of a stream that ``beside`` has.

    Raises:
        NotStreamableError: it is computed in another way, or its time axis is another one.
    """
    flow, rank = work.flows[beside], len(axes_of(beside))
    missing, time = rank - len(axes_of(value)), work.time_axis(value)
    if time is None or time + missing != flow.axis or work.rate_of(value, time) != flow.rate:
        raise work.refusal(f"combines frames with {value.name}, which counts other frames")
    positions = work.position(beside, flow)
    if flow.delay > 0:
        positions = work.add("Sub", positions, work.constant(flow.delay))
        positions = work.add("Max", positions, work.constant(0))  # frames in front of the first one
    flat = work.add("Reshape", positions, work.constant([-1]))
    counted = _computed_again(work, value, flat, {})
    row = work.row_axis(beside, flow)
    sizes: list[int] = [1] * missing + [axis if isinstance(axis, int) else 1 for axis in axes_of(value)]
    if row is not None and any(size != 1 for size in sizes[: max(row, flow.axis)]):
        raise work.refusal(f"combines frames with {value.name}, which has an axis in front of time")
    parts = [work.constant([size]) for size in sizes]
    parts[flow.axis] = work.frames_of(beside, flow)
    parts[flow.axis if row is None else row] = work.constant([-1])
    result = work.add("Reshape", counted, work.add("Concat", *parts, axis=0))
    work.flows[result] = flow
    return result


def _computed_again(
    work: Rewriter, value: ir.Value, positions: ir.Value, known: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Return ``value`` with ``positions`` int64 ``(rows * frames,)`` in the place of its frames."""
    node, time = value.producer(), work.time_axis(value)
    if value in known or (time is None and is_data_free(value)):
        return known.get(value, value)
    rule = RULES.get(node.op_type) if node is not None and node.domain == "" else None
    if node is not None and node.op_type == "Range":
        known[value] = _range(work, node, positions)
        return known[value]
    usual = node is not None and value is node.outputs[0] and rule in (layout, per_frame, reshape)
    if node is None or time is None or not usual or [*axes_read(node, 0, len(axes_of(value)))]:
        raise work.refusal(f"combines frames with {value.name}, which restarts with every call")
    operands: list[ir.Value | None] = [
        None if value is None else _computed_again(work, value, positions, known) for value in node.inputs
    ]
    if rule is reshape:
        sizes = [axis if isinstance(axis, int) else 1 for axis in axes_of(value)]
        sizes[time] = -1 if node.op_type == "Reshape" else 1
        operands[1] = work.constant(sizes)
    attributes: dict[str, Any] = dict(node.attributes)
    known[value] = result = work.add(node.op_type, *operands, **attributes)
    result.type = None if value.dtype is None else ir.TensorType(value.dtype)
    return result


def _range(work: Rewriter, node: ir.Node, positions: ir.Value) -> ir.Value:
    """Return the numbers of a Range at ``positions``."""
    first, step = constant(node.inputs[0]), constant(node.inputs[2])
    if first is None or step is None or first.dtype != np.int64 or step.dtype != np.int64:
        raise work.refusal(f"combines frames with {node.outputs[0].name}, which counts in fractions")
    scaled = positions if step == 1 else work.add("Mul", positions, work.constant(int(step)))
    return scaled if first == 0 else work.add("Add", scaled, work.constant(int(first)))
