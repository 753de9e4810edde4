"""A graph that is being rewritten to be fed in chunks: the flows of its values, and the
nodes to add. A step counter in the graph tells where the frames before the first real
one end; padding and recurrent layers ignore them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, lcm
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Axes, StateSpec

from ..graph import (
    END,
    MOVING_AXES,
    Builder,
    UniqueNames,
    axes_of,
    constant,
    data_inputs,
    operands,
    walk,
)
from ..recurrent import label, length_input
from ..sizes import TimeAxis, set_time_axes, time_axes_of

Operand = ir.Value | None
_PREFIX = "stream"
"""First part of the names of added nodes."""


class NotStreamableError(UnsupportedError):
    """A part of the graph can't be fed in chunks; the message names its node."""


class UndecidedError(NotStreamableError):
    """No rule says whether a node can be fed in chunks; the message names it."""


@dataclass(frozen=True)
class Flow:
    """Position and pace of the frames of a value; a value without one does not grow
    with time.
    """

    axis: int
    """Axis of the frames."""
    delay: int = 0
    """Frame j of the full sequence is frame ``j + delay`` of the stream; negative while
    padding is owed."""
    rate: Fraction = Fraction(1)
    """Frames per input step."""
    fill: float | None = None
    """Value of every element in front of frame 0, before the reset too; None if
    unknown."""
    repeats_first: bool = False
    """True if the frames in front of frame 0 that are owed are copies of it."""


class Rewriter:
    """A graph that is being rewritten node by node."""

    def __init__(
        self,
        model: ir.Model,
        states: Sequence[StateSpec],
        batch: str | None,
        sequence: str,
    ):
        """Start with the flows of the inputs that have a time axis."""
        self.model = model
        self.graph = model.graph
        self.node: ir.Node | None = None
        self.batch = batch
        self.sequence = sequence
        self.given_states = tuple(states)
        self.states = [*states]
        self.reach = 0
        self.flows: dict[ir.Value, Flow] = {}
        self.last: dict[ir.Value, int] = {}
        """Values computed from the last frames only, and the first step at which they
        are complete."""
        self.first: dict[ir.Value, ir.Value] = {}
        """Values that are a first frame, and the value that they are the first frame
        of."""
        self.ahead: dict[str, tuple[int, int]] = {}
        """Maps each last-frame value to (time axis, number of frames by which the full
        sequence reads later)."""
        self.undefined = False
        """True if frames in front of the first one may be infinite or NaN, which no
        golden case can have."""
        self.unit = 1
        """A call takes a multiple of this number of steps."""
        self._made: dict[tuple[Any, ...], ir.Value] = {}
        """Constants, past frames, counters and masks that exist already."""
        self.names = UniqueNames(self.graph)
        self._lengths = length_input(self.graph)
        entering = {state.input for state in states}
        for value in data_inputs(self.graph):
            time = self.time_of(value)
            if value.name not in entering and time is not None:
                self.flows[value] = Flow(time.index)

    def time_of(self, value: ir.Value) -> TimeAxis | None:
        """Return the axis of ``value`` that grows with time, None without one."""
        axes = time_axes_of(value)
        if len(axes) > 1:
            raise self.refusal("relates frames with frames, as attention does")
        return axes[0] if axes else None

    def is_merged(self, value: ir.Value) -> bool:
        """Return True if the frames of all rows are on one axis."""
        time = self.time_of(value)
        return time is not None and time.is_merged

    def is_from_state(self, value: ir.Value) -> bool:
        """Return True if ``value`` is computed from a state."""
        entering = {state.input for state in self.states}
        return not entering.isdisjoint(_inputs_above(value))

    def is_from_lengths(self, value: ir.Value) -> bool:
        """Return True if ``value`` is computed from lengths: each call has others."""
        return self._lengths in _inputs_above(value)

    def refusal(self, reason: str) -> NotStreamableError:
        """Return an error that names the node: it can't be fed in chunks."""
        return NotStreamableError(self._about(reason))

    def undecided(self, reason: str) -> UndecidedError:
        """Return an error that names the node: rules can't tell."""
        return UndecidedError(self._about(reason))

    def _about(self, reason: str) -> str:
        """Return a reason after the node's name."""
        return reason if self.node is None else f"{label(self.node)} {reason}"

    def set(self, value: ir.Value, flow: Flow) -> None:
        """Record the flow of a result; its symbolic size, where known, must agree."""
        if value.shape is not None:
            time = self.time_of(value)
            if time is None or time.rate != flow.rate:
                raise self.refusal("selects frames, or changes their number")
            self.unit = lcm(self.unit, time.period)
        self.unit = lcm(self.unit, flow.rate.denominator)
        self.flows[value] = flow

    def take_last(
        self, results: Sequence[ir.Value], read: ir.Value, flow: Flow, frames: int
    ) -> None:
        """Record that ``results`` are computed from the last ``frames`` of ``read``;
        its flow is padded.
        """
        time = self.time_of(read)
        assert time is not None
        ahead = time.offset + flow.delay
        leaving = {state.output for state in self.states}
        for value in results:
            self.last[value] = int((flow.delay + frames - 1) / flow.rate)
            if value.uses() or (value.is_graph_output() and value.name not in leaving):
                if ahead < 0:
                    raise self.refusal(
                        "takes the last of frames that are cut off at the end"
                    )
                self.ahead[str(value.name)] = (flow.axis, ahead)

    def add(
        self, op: str, *inputs: Operand, like: Operand = None, **attributes: Any
    ) -> ir.Value:
        """Add a node; its result has the dtype of the first operand, or dtype and shape
        of ``like``.
        """
        build = Builder(self.node or self.graph, _PREFIX, self.names)
        result = build.value(op, inputs, attributes, like=like)
        if like is not None:
            set_time_axes(result, time_axes_of(like))
        return result

    def constant(self, array: Any, dtype: Any = np.int64) -> ir.Value:
        """Return an initializer; equal ones are shared."""
        array = np.asarray(array, dtype)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._made:
            build = Builder(self.graph, _PREFIX, self.names)
            self._made[key] = build.constant(array, "constant")
        return self._made[key]

    def cut(
        self,
        value: ir.Value,
        axis: int,
        *,
        start: int,
        end: int = END,
        like: Operand = None,
    ) -> ir.Value:
        """Return a part of ``value`` along an axis."""
        bounds = (self.constant([number]) for number in (start, end, axis))
        return self.add("Slice", value, *bounds, like=like)

    def state(
        self, prefix: str, axes: Axes, *, dtype: ir.DataType | None, reset: float
    ) -> ir.Value:
        """Add the input of a state; ``end_state`` adds its output."""
        if named := next(
            (axis for axis in axes if isinstance(axis, str) and axis != self.batch),
            None,
        ):
            raise self.refusal(
                f"needs a state of fixed size, but axis {named} takes any; fix it by a"
                " number"
            )
        assert dtype is not None
        number = sum(state.input.startswith(f"{prefix}_") for state in self.states)
        name = self.names.unique(f"{prefix}_{number}")
        self.graph.inputs.append(ir.val(name, dtype, axes))
        output = self.names.unique(f"{name}_n")
        self.states.append(
            StateSpec(
                input=name,
                output=output,
                dtype=str(dtype.numpy().name),
                axes=axes,
                reset=reset,
            )
        )
        return self.graph.inputs[-1]

    def end_state(self, value: ir.Value) -> None:
        """Set ``value`` as the output of the state that was added last."""
        state = self.states[-1]
        value.name = state.output
        value.shape = ir.Shape(state.axes)
        self.graph.outputs.append(value)

    def past(self, value: ir.Value, flow: Flow, frames: int) -> ir.Value:
        """Return ``value`` after its last ``frames`` of earlier calls, which become a
        state.
        """
        if self.is_merged(value):
            raise self.refusal("looks along time where rows are merged with it")
        reset = flow.fill or 0.0
        key: tuple[Any, ...] = (value, frames, reset, flow.repeats_first)
        if key not in self._made:
            past = self.state(
                "past",
                axes=with_frames(value, flow, frames),
                dtype=value.dtype,
                reset=reset,
            )
            if flow.repeats_first:
                past = self._first_or(past, value, flow)
            self._made[key] = joined = self.add("Concat", past, value, axis=flow.axis)
            self.end_state(self.cut(joined, flow.axis, start=-frames))
            self.reach += ceil(frames / flow.rate)
        return self._made[key]

    def _first_or(self, past: ir.Value, value: ir.Value, flow: Flow) -> ir.Value:
        """Return copies of the first frame in the first call, else ``past``."""
        state = self.states.pop()  # a counter may be added, and end_state is to follow
        position = self.position(value, flow)
        self.states.append(state)
        is_start = self.add(
            "Less", self.cut(position, flow.axis, start=0, end=1), self.constant(1)
        )
        is_start.dtype = ir.DataType.BOOL
        return self.add(
            "Where",
            is_start,
            self.cut(value, flow.axis, start=0, end=1),
            past,
            like=past,
        )

    def wait(self, value: ir.Value, flow: Flow, frames: int) -> tuple[ir.Value, Flow]:
        """Return ``value`` delayed by a number of frames."""
        if not frames:
            return value, flow
        delayed = self.cut(
            self.past(value, flow, frames), flow.axis, start=0, end=-frames, like=value
        )
        delay = flow.delay + frames
        return delayed, replace(
            flow, delay=delay, repeats_first=flow.repeats_first and delay < 0
        )

    def pad_front(self, value: ir.Value, flow: Flow) -> tuple[ir.Value, Flow]:
        """Return ``value`` with its padding in front, if it has a negative delay."""
        return self.wait(value, flow, max(-flow.delay, 0))

    def clean(self, value: ir.Value, flow: Flow, fill: float) -> tuple[ir.Value, Flow]:
        """Return ``value`` with ``fill`` in all frames in front of its first one."""
        if flow.fill == fill:
            return value, flow
        value, flow = self.pad_front(value, flow)
        if flow.delay > 0:
            value = self._masked(value, self.mask(value, flow), fill)
        return value, replace(flow, fill=fill)

    def _masked(self, value: ir.Value, mask: ir.Value, fill: float) -> ir.Value:
        """Return ``value`` with ``fill`` where ``mask`` is True; booleans become
        False: onnxruntime has no Where for them.
        """
        if value.dtype is ir.DataType.BOOL:
            is_real = self.add("Not", mask)
            return self.add("And", is_real, value, like=value)
        number = self.constant(fill, value.dtype and value.dtype.numpy())
        return self.add("Where", mask, number, value, like=value)

    def shift(
        self, value: ir.Value, flow: Flow, frames: int, fill: float = 0.0
    ) -> tuple[ir.Value, Flow]:
        """Return ``value`` with frames in front, or without its first ones if negative;
        no frame moves.
        """
        if frames > 0:
            value, flow = self.clean(value, flow, fill)
        flow = replace(flow, delay=flow.delay - frames)
        if frames <= 0 < flow.delay:
            flow = replace(flow, fill=None)
        if flow.delay >= 0:
            flow = replace(flow, repeats_first=False)
        return value, flow

    def repeat_first(
        self, value: ir.Value, flow: Flow, frames: int
    ) -> tuple[ir.Value, Flow]:
        """Return ``value`` with copies of its first frame in front."""
        value, flow = self.pad_front(value, flow)
        if flow.delay:
            raise self.refusal("repeats the first of frames that lag")
        return value, replace(flow, delay=-frames, fill=None, repeats_first=True)

    def look_back(
        self,
        value: ir.Value,
        flow: Flow,
        taps: int,
        stride: int,
        front: int = 0,
        fill: float = 0.0,
    ) -> tuple[ir.Value, Flow]:
        """Return ``value`` after the past frames that windows of ``taps`` read, and
        their flow.
        """
        value, flow = self.shift(value, flow, frames=front, fill=fill)
        least = taps - stride
        past_frames = (
            least + -(flow.delay + least) % stride
        )  # so that windows lie on the full sequence's strides
        value, flow = self.wait(
            value, flow, max(-(flow.delay + past_frames), 0)
        )  # padding beyond the window
        if past_frames:
            value = (
                self.past(value, flow, past_frames)
                if past_frames > 0
                else self.cut(value, flow.axis, start=-past_frames)
            )
        return value, replace(
            flow,
            delay=(flow.delay + past_frames) // stride,
            rate=flow.rate / stride,
            fill=None,
            repeats_first=False,
        )

    def mask(self, value: ir.Value, flow: Flow) -> ir.Value:
        """Return a mask of the frames in front of the first one: bool, broadcasts to
        ``value``.
        """
        rows = [axis == self.batch for axis in axes_of(value)]
        key = ("mask", flow.rate, flow.delay, flow.axis, *rows)
        if key not in self._made:
            mask = self.add(
                "Less", self.position(value, flow), self.constant(flow.delay)
            )
            mask.dtype = ir.DataType.BOOL
            self._made[key] = mask
        return self._made[key]

    def position(self, value: ir.Value, flow: Flow) -> ir.Value:
        """Return the index of each frame since the reset: int64, broadcasts to
        ``value``.
        """
        axes = axes_of(value)
        if self.batch not in (*axes, None) or self.is_merged(value):
            raise self.refusal("lags where rows are merged with time")
        if (key := ("count", flow.rate)) not in self._made:
            count = self.state(
                "count",
                axes=(*filter(None, [self.batch]), 1),
                dtype=ir.DataType.INT64,
                reset=0.0,
            )
            shape = self.add("Shape", value)
            shape.dtype = ir.DataType.INT64
            frames = self.cut(shape, axis=0, start=flow.axis, end=flow.axis + 1)
            self.end_state(self.add("Add", count, frames))
            steps = self.add(
                "Range", self.constant(0), self.add("Squeeze", frames), self.constant(1)
            )
            self._made[key] = self.add("Add", count, steps)
        position = self._made[key]
        if self.batch in axes[flow.axis :]:
            position = self.add("Transpose", position, perm=[1, 0])
        others = [
            axis
            for axis, size in enumerate(axes)
            if size != self.batch and axis != flow.axis
        ]
        return (
            self.add("Unsqueeze", position, self.constant(others))
            if others
            else position
        )


def with_frames(value: ir.Value, flow: Flow, frames: int) -> Axes:
    """Return the axes of a value with another number of frames."""
    return tuple(
        frames if axis == flow.axis else size
        for axis, size in enumerate(axes_of(value))
    )


_OF_FIRST = (*MOVING_AXES, "Cast", "Expand", "Reshape", "Slice")
"""Operators whose results hold numbers of their first input alone."""


def fill_of(value: ir.Value) -> float | None:
    """Return the number that all elements of a constant of any size equal; None for
    other values.
    """
    array = constant(value)
    node = value.producer()
    if array is not None:
        return (
            float(array.flat[0])
            if array.size and (array == array.flat[0]).all()
            else None
        )
    if node is not None and node.op_type in _OF_FIRST:
        return None if node.inputs[0] is None else fill_of(node.inputs[0])
    if node is not None and node.op_type == "ConstantOfShape":
        number = node.attributes.get("value")
        return 0.0 if number is None else float(number.as_tensor().numpy().flat[0])
    return None


def _inputs_above(value: ir.Value) -> set[str]:
    """Return the names of the inputs that ``value`` is computed from."""
    above = walk([value], operands)
    return {str(source.name) for source in above if source.is_graph_input()}
