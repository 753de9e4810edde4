"""From the graph of a network to one that is fed in chunks.

A rule per operator describes how it changes the flow of its operand: it looks back over
a window, shifts frames, spreads a frame over several, carries a state, or computes each
frame from that frame alone. Operators without a rule are refused.

The result is an ordinary graph. A call takes a multiple of ``unit`` steps, outputs lag
by their delays, and the frames that it looks back at are states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    OutputFixPass,
    RemoveUnusedNodesPass,
)

from lstm_edge_runtime.axes import axis_names
from lstm_edge_runtime.errors import counted
from lstm_edge_runtime.manifest import Axes, AxisRange, Manifest

from ..graph import (
    axes_of,
    constant,
    data_inputs,
    values_read,
)
from ..sizes import time_axes_of
from .positions import count_on
from .rewrite import NotStreamableError, Rewriter, fill_of
from .rules import RULES

_SIZES = {"Shape", "Size"}


@dataclass(frozen=True)
class Streamed:
    """A graph that is fed in chunks."""

    model: ir.Model
    """The graph, in the dtype of the full sequence's."""
    manifest: Manifest
    """Its contract without a golden case; frames of the past, sums and step counters
    are the last states."""
    reach: int
    """Upper bound of the number of past steps that the added states hold."""
    ahead: Mapping[str, tuple[int, int]]
    """Maps each last-frame value to (time axis, number of frames by which the full
    sequence reads later)."""
    need: str
    """Why only a file of its own streams, and how; empty if the graph computes the full
    sequence too."""

    def contract(self, full: Manifest) -> Manifest:
        """Return the contract of the stream of a verified file."""
        return full._replace(
            outputs=self.manifest.outputs,
            states=self.manifest.states,
            unit=self.manifest.unit,
            delays=self.manifest.delays,
            ranges=self.manifest.ranges,
            unstreamable="",
            golden=None,
        )


def stream(model: ir.Model, manifest: Manifest) -> Streamed:
    """Return the graph that streams a network.

    Args:
        model: the network with symbolic sizes and with its states as inputs and
            outputs; it is copied.
        manifest: its contract.

    Raises:
        NotStreamableError: a node can't be fed in chunks; the message names it.
        UndecidedError: a node has no rule; chunks may equal the full sequence or not.
    """
    model = model.clone()
    sequence = manifest.sequence
    if sequence is None or all(
        sequence not in axes_of(value) for value in data_inputs(model.graph)
    ):
        return Streamed(model=model, manifest=manifest, reach=0, ahead={}, need="")
    work = Rewriter(
        model=model, states=manifest.states, batch=manifest.batch, sequence=sequence
    )
    _refuse_branches(work)
    for node in list(model.graph):
        _visit(work, node)
    work.node = None
    return _finish(work, manifest)


def _visit(work: Rewriter, node: ir.Node) -> None:
    """Rewrite one node and set the flows of its results."""
    work.node = node
    if _is_size(node):
        return
    read = [*values_read(node)]
    moving = [value for value in read if value in work.flows]
    if not moving:
        _refuse_first(work, read)
        steps = [work.last[value] for value in read if value in work.last]
        if steps:
            _refuse_computed_cut(work, node)
            work.last.update(dict.fromkeys(node.outputs, max(steps)))
        return
    if node.domain or node.op_type == "Loop":  # chunks show whether it can be fed
        raise work.undecided("has no rule for streaming")
    rule = RULES.get(node.op_type)
    if rule is None:
        raise work.refusal("has no rule for streaming")
    if node.op_type != "Concat":
        _refuse_first(work, read)
    slowest = max(moving, key=lambda value: work.flows[value].delay)
    for index, value in enumerate(node.inputs):
        if value is not None and value not in work.flows:
            _check_operand(work, node, index=index, partner=slowest)
    rule(work, node, moving[0])


def _refuse_computed_cut(work: Rewriter, node: ir.Node) -> None:
    """Refuse a Slice of the last frames up to a computed number: a call would compute it
    from its own steps.
    """
    if node.op_type == "Slice" and None in map(constant, node.inputs[1:3]):
        raise work.refusal("cuts the last frames at a computed step")


def _refuse_first(work: Rewriter, values: Sequence[ir.Value]) -> None:
    """Refuse values that are the first frame of the full sequence."""
    if any(value in work.first for value in values):
        raise work.refusal("reads the first frame alone")


def _refuse_branches(work: Rewriter) -> None:
    """Refuse an If whose condition or branches read frames."""
    for node in work.graph:
        work.node = node
        if node.op_type == "If" and any(map(time_axes_of, values_read(node))):
            raise work.refusal(
                "reads frames in its branches; choose one by --branch INPUT=NUMBER, or"
                " compute both and select by Where"
            )


def _is_size(node: ir.Node) -> bool:
    """Return True if a node computes a size, or only the sizes of its results count."""
    users = {use.node.op_type for value in node.outputs for use in value.uses()}
    returned = any(value.is_graph_output() for value in node.outputs)
    only_sized = bool(users) and users <= _SIZES and not returned
    return node.op_type in _SIZES or only_sized


def _check_operand(
    work: Rewriter, node: ir.Node, index: int, partner: ir.Value
) -> None:
    """Refuse an operand of the last frame, and let one that counts go on counting.

    ``partner`` is an operand of the node that has frames.
    """
    value = node.inputs[index]
    assert value is not None
    if value in work.last:
        raise work.refusal(
            f"combines frames with {value.name}, which is of the last frame alone"
        )
    is_sized = work.time_of(value) is not None and fill_of(value) is None
    if is_sized and node.op_type != "Concat":  # whose rule knows its axis
        node.replace_input_with(index, count_on(work, value, partner))


@dataclass(frozen=True)
class _Output:
    """An output of the stream."""

    delay: int
    """Number of frames by which it lags."""
    axes: Axes | None
    """Its axes if it has a time axis, else None."""
    is_ordinary: bool
    """True if it has the frames of the full sequence: one per step, without a lag."""


def _finish(work: Rewriter, manifest: Manifest) -> Streamed:
    """Delay outputs up to their first frames, tidy the graph, and describe it."""
    leaving = {state.output for state in work.states}
    outputs = {}
    for index, value in enumerate([*work.graph.outputs]):
        name = str(value.name)
        if name not in leaving:
            outputs[name] = _finish_output(work, index, value)
    _tidy(work.model)
    specs = []
    for spec in manifest.outputs:
        axes = outputs[spec.name].axes
        specs.append(spec if axes is None else spec._replace(axes=axes))
    unit = work.unit
    ranges = {**manifest.ranges}
    ranges.pop(work.sequence, None)
    if unit > 1:
        ranges[work.sequence] = AxisRange(unit, None, unit)
    delays = {name: output.delay for name, output in outputs.items() if output.delay}
    states = [
        state._replace(dtype=state.dtype.replace("float64", "float32"))
        for state in work.states
    ]
    manifest = manifest._replace(
        outputs=tuple(specs),
        states=tuple(states),
        unit=unit,
        delays=delays,
        ranges=ranges,
        unstreamable="",
        golden=None,
    )
    are_ordinary = all(output.is_ordinary for output in outputs.values())
    need = "" if unit == 1 and are_ordinary else _need(manifest)
    return Streamed(
        model=work.model,
        manifest=manifest,
        reach=work.reach,
        ahead=work.ahead,
        need=need,
    )


def _finish_output(work: Rewriter, index: int, value: ir.Value) -> _Output:
    """Delay an output up to its first frame, and name its time axis."""
    name = str(value.name)
    if value in work.first:
        raise NotStreamableError(f"output {name} is the first frame alone")
    flow = work.flows.get(value)
    if flow is None:
        if any(work.sequence in axis_names(axis) for axis in axes_of(value)):
            raise NotStreamableError(
                f"output {name} is the last frames alone; return a result of them"
            )
        delay = work.last.get(value, 0) // work.unit
        return _Output(delay, axes=None, is_ordinary=delay == 0)
    if work.is_merged(value):
        raise NotStreamableError(
            f"output {name} has rows and steps on one axis; return an axis for each,"
            " such as output.view(L, N, -1)"
        )
    time = work.time_of(value)
    has_all_frames = flow.rate == 1 and (time is None or time.offset == 0)
    padded, flow = work.pad_front(value, flow)
    # whole numbers decide between rounding errors there, as argmax does
    is_discrete = value.dtype not in (ir.DataType.DOUBLE, ir.DataType.FLOAT)
    if work.undefined or (is_discrete and flow.delay > 0):
        padded, flow = work.clean(padded, flow, 0.0)
    if padded is not value:
        value.name = f"{name}.undelayed"
        padded.name = name
        padded.shape = value.shape
        work.graph.outputs[index] = padded
    axes: list[int | str] = [*axes_of(padded)]
    axes[flow.axis] = _axis_of_frames(flow.rate, work.sequence)
    padded.shape = ir.Shape(axes)
    is_ordinary = has_all_frames and flow.delay == 0
    return _Output(flow.delay, tuple(axes), is_ordinary)


def _axis_of_frames(rate: Fraction, sequence: str) -> str:
    """Return a time axis as a manifest has it: ``L``, ``L/8``, ``2*L``, ``3*L/2``."""
    text = sequence if rate.numerator == 1 else f"{rate.numerator}*{sequence}"
    return text if rate.denominator == 1 else f"{text}/{rate.denominator}"


def _need(manifest: Manifest) -> str:
    """Return why a file of its own streams: ``looks 3 steps ahead: --stream writes a
    file ...``.
    """
    unit = manifest.unit
    delay = max(manifest.delays.values(), default=0)
    if unit > 1:
        reason = f"takes {unit} steps at a time"
    elif delay:
        reason = f"looks {counted(manifest.delay_steps, 'step')} ahead"
    else:
        reason = "does not return one frame per step"
    properties = []
    if unit > 1:
        properties.append(f"whose calls take a multiple of {unit} steps")
    if delay:
        properties.append(f"whose outputs lag by {delay}")
    return f"{reason}: --stream writes a file {' and '.join(properties)}".rstrip()


def _tidy(model: ir.Model) -> None:
    """Drop the shapes of the full sequence, and unused values."""
    outputs = {*model.graph.outputs}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    names = [value.name for value in model.graph.outputs]
    for clean in (IdentityEliminationPass(), RemoveUnusedNodesPass(), OutputFixPass()):
        clean(model)
    # the copy of an output that is also an output has lost its name
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name
    model.graph.sort()
