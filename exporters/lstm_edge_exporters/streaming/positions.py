"""Values that are computed from sizes, such as counters, for the frames of a stream."""

from typing import Any

import onnx_ir as ir

from ..graph import MOVING_AXES, axes_of, constant, is_data_free
from .operands import elements
from .per_frame import PER_FRAME, axes_read
from .rewrite import Flow, Rewriter, fill_of

_MOVES = (*MOVING_AXES, "Expand", "Reshape")
"""Operators that move numbers and change none."""


def count_on(work: Rewriter, value: ir.Value, partner: ir.Value) -> ir.Value:
    """Return ``value`` for the frames of a stream that ``partner`` has.

    The result has the axis of the frames, or none if all frames are equal; it
    broadcasts to ``value``.

    Raises:
        NotStreamableError: ``value`` is not a counter, computed from one, or equal in
            all frames; or its frames are not those of ``partner``.
    """
    flow = work.flows[partner]
    time = work.time_of(value)
    offset = flow.axis - len(axes_of(partner))
    is_aligned = time is not None and time.index - len(axes_of(value)) == offset
    if time is None or not is_aligned or time.rate != flow.rate:
        does = "restarts with every call"
        if time is not None and time.rate != flow.rate:
            does = "counts other frames"
        raise work.refusal(f"combines frames with {value.name}, which {does}")
    number = fill_of(value)
    if number is not None and value.dtype is not None:
        return work.constant(number, value.dtype.numpy())
    counter = _Counter(work=work, partner=partner, flow=flow, offset=offset)
    result = counter.value(value, is_moved=False)
    if counter.has_frames:
        work.flows[result] = flow
    return result


def spread(
    work: Rewriter, result: ir.Value, value: ir.Value, partner: ir.Value
) -> ir.Value:
    """Return ``result``, which broadcasts to ``value``, with one frame per frame of
    ``partner``.
    """
    flow = work.flows[partner]
    partner_axes = axes_of(partner)
    time = work.time_of(value)
    assert time is not None
    shape = work.add("Shape", partner)
    shape.dtype = ir.DataType.INT64
    sizes = []
    for index, axis in enumerate(axes_of(value)):
        if index == time.index:
            sizes.append(work.cut(shape, axis=0, start=flow.axis, end=flow.axis + 1))
        elif isinstance(axis, int):
            sizes.append(work.constant([axis]))
        elif axis in partner_axes:
            position = partner_axes.index(axis)
            sizes.append(work.cut(shape, axis=0, start=position, end=position + 1))
        else:
            raise work.refusal(f"combines frames with {value.name}, of other sizes")
    expanded = work.add(
        "Expand", result, work.add("Concat", *sizes, axis=0), like=value
    )
    work.flows[expanded] = flow
    return expanded


class _Counter:
    """Computes values for the frames of a stream from the positions of these."""

    def __init__(
        self, work: Rewriter, partner: ir.Value, flow: Flow, offset: int
    ) -> None:
        """Count the frames for ``partner``, which moves as ``flow`` says."""
        self._work = work
        self._partner = partner
        self._flow = flow
        self._offset = offset
        """Index of the time axis, counted from the last axis: negative."""
        self._positions: ir.Value | None = None

    @property
    def has_frames(self) -> bool:
        """True if a value was computed from positions, so that it has frames."""
        return self._positions is not None

    def value(self, value: ir.Value, *, is_moved: bool) -> ir.Value:
        """Return ``value``; ``is_moved`` if its axes are not where they are used."""
        time = self._work.time_of(value)
        if time is None:
            return self._without_time(value, is_moved=is_moved)
        node = value.producer()
        if node is None or node.domain:
            raise self._refusal(value)
        is_aligned = time.index - len(axes_of(value)) == self._offset
        is_moved = is_moved or not is_aligned
        held = None if is_moved else self._held(node)
        if held is not None:
            return held
        if node.op_type == "Range":
            return self._range(value, node)
        if node.op_type in _MOVES and node.inputs[0] is not None:
            is_moved = is_moved or node.op_type in ("Reshape", "Transpose")
            return self.value(node.inputs[0], is_moved=is_moved)
        return self._computed(value, node, is_moved=is_moved)

    def _without_time(self, value: ir.Value, *, is_moved: bool) -> ir.Value:
        """Return a value that is the same in all frames."""
        is_single = {*axes_of(value)} <= {1}
        if is_data_free(value) and (is_single or not is_moved):
            return value
        raise self._refusal(value)

    def _computed(self, value: ir.Value, node: ir.Node, *, is_moved: bool) -> ir.Value:
        """Return the result of an operator of single frames."""
        if node.op_type not in PER_FRAME or [*axes_read(node, 0, len(axes_of(value)))]:
            raise self._refusal(value)
        operands: list[ir.Value | None] = []
        for operand in node.inputs:
            if operand is not None:
                operand = self.value(operand, is_moved=is_moved)
            operands.append(operand)
        attributes: dict[str, Any] = {**node.attributes}
        result = self._work.add(node.op_type, *operands, **attributes)
        result.type = None if value.dtype is None else ir.TensorType(value.dtype)
        return result

    def _held(self, node: ir.Node) -> ir.Value | None:
        """Return the value that a node repeats over time; None if it repeats none."""
        source = node.inputs[0]
        if source is None or node.op_type not in ("Expand", "Tile"):
            return None
        work = self._work
        if work.time_of(source) is not None or work.is_from_state(source):
            return None
        axes = axes_of(source)
        repeats: list[int | None] = [1] * len(axes)
        if node.op_type == "Tile":
            repeats = elements(node.inputs[1], len(axes))
        pairs = zip(axes, repeats, strict=True)
        does_broadcast = all(size == 1 or times == 1 for size, times in pairs)
        return source if does_broadcast else None

    def _range(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """Return a Range that goes on from call to call."""
        first, _, step = node.inputs
        is_known = constant(first) is not None and constant(step) is not None
        if value.dtype not in (ir.DataType.INT64, ir.DataType.DOUBLE) or not is_known:
            raise self._refusal(value)
        work = self._work
        if self._positions is None:
            positions = work.position(self._partner, self._flow)
            if self._flow.delay:
                positions = work.add("Sub", positions, work.constant(self._flow.delay))
                # frames in front of the first one
                positions = work.add("Max", positions, work.constant(0))
            self._positions = positions
        positions = self._positions
        if value.dtype == ir.DataType.DOUBLE:
            positions = work.add("Cast", positions, to=int(ir.DataType.DOUBLE))
            positions.dtype = ir.DataType.DOUBLE
        return work.add("Add", work.add("Mul", positions, step), first)

    def _refusal(self, value: ir.Value) -> Exception:
        """Return the error for a counter that restarts with every call."""
        reason = f"combines frames with {value.name}, which restarts with every call"
        if self._work.is_from_lengths(value):
            return self._work.undecided(reason)
        return self._work.refusal(reason)
