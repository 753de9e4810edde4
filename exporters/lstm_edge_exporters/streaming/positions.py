"""Values that count the steps of a call, such as ``torch.arange(L)``; in a stream they go on.

They are computed again from the position of each row's frames since the reset, for the frames of all rows on
the time axis, which is then split into rows and frames.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from ..graph import axes_of, constant
from .rewrite import Rewriter

_PER_FRAME = frozenset(
    """Abs Add Cast Ceil Clip Cos Div Erf Exp Floor Identity Log Max Min Mod Mul Neg Pow Reciprocal Relu Round
    Sigmoid Sin Sqrt Sub Tanh""".split()  # noqa: SIM905
)
"""Operators that compute each frame of a counter from that frame alone."""
_LAYOUT = ("Expand", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


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
    if time is None:
        return value
    if value in known:
        return known[value]
    usable = node is not None and node.domain == "" and value is node.outputs[0]
    if usable and node is not None and node.op_type == "Range":
        known[value] = _range(work, node, positions)
        return known[value]
    if node is None or not usable or node.op_type not in (*_PER_FRAME, *_LAYOUT) or node.inputs[0] is None:
        raise work.refusal(f"combines frames with {value.name}, which restarts with every call")
    operands: list[ir.Value | None] = [
        None if each is None else _computed_again(work, each, positions, known) for each in node.inputs
    ]
    if node.op_type in ("Expand", "Reshape"):
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
    if first is None or step is None or first.dtype.kind not in "iu" or step.dtype.kind not in "iu":
        raise work.refusal(f"combines frames with {node.outputs[0].name}, which counts in fractions")
    numbers = positions if step == 1 else work.add("Mul", positions, work.constant(int(step)))
    numbers = numbers if first == 0 else work.add("Add", numbers, work.constant(int(first)))
    if first.dtype != np.int64:
        numbers = work.add("Cast", numbers, to=int(ir.DataType.from_numpy(first.dtype)))
        numbers.dtype = ir.DataType.from_numpy(first.dtype)
    return numbers
