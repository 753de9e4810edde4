"""Reductions over some axes: sums, means, norms, extremes and their indices."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError

from .evaluate import attribute
from .memory import Memory, Value
from .operators import (
    In,
    Out,
    as_array,
    as_floats,
    combine,
    floats,
    is_nan,
    lowers,
    map_each,
    numbers_of,
    to_int64,
)
from .program import Binary, Function

_EXTREMES = {"Max": Binary.MAXIMUM, "Min": Binary.MINIMUM}
_PAIRWISE = {**_EXTREMES, "Prod": Binary.MULTIPLY}
"""Reductions that combine two elements at a time."""


@lowers("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
def _reduce(memory: Memory, node: ir.Node, operand: In, axes: In = None) -> Out:
    """Reduce over some axes by a sum, a mean or a norm."""
    takes_whole = node.op_type in ("ReduceSum", "ReduceSumSquare")
    value = numbers_of(operand) if takes_whole else floats(operand)
    reduced = _reduced_axes(node, axes, len(value.shape))
    if node.op_type == "ReduceL1":
        value = map_each(memory, value, Function.ABS)
    if node.op_type in ("ReduceL2", "ReduceSumSquare"):
        value = combine(memory, Binary.MULTIPLY, (value, value))
    if value.dtype == "int64":
        total = _combine_over(memory, value, reduced, function=Binary.ADD)
    else:
        total = _sum_over(memory, value, reduced, mean=node.op_type == "ReduceMean")
    if not attribute(node, "keepdims", 1):
        total = _without(total, reduced)
    if node.op_type == "ReduceL2":
        return map_each(memory, total, Function.SQRT)
    return total


@lowers("ReduceMax", "ReduceMin", "ReduceProd")
def _reduce_pairwise(
    memory: Memory, node: ir.Node, operand: In, axes: In = None
) -> Out:
    """Reduce over some axes to a maximum, a minimum or a product."""
    value = numbers_of(operand)
    reduced = _reduced_axes(node, axes, len(value.shape))
    function = _PAIRWISE[node.op_type.removeprefix("Reduce")]
    found = _combine_over(memory, value, reduced, function=function)
    return found if attribute(node, "keepdims", 1) else _without(found, reduced)


@lowers("ReduceLogSumExp")
def _log_sum_exp(memory: Memory, node: ir.Node, operand: In, axes: In = None) -> Out:
    """Reduce over some axes to ``most + log(sum(exp(x - most)))``; ``most`` is the
    maximum, or the nearest finite number.
    """
    value = floats(operand)
    reduced = _reduced_axes(node, axes, len(value.shape))
    most = _combine_over(memory, value, reduced, function=Binary.MAXIMUM)
    limit = float(np.finfo("float32").max)
    most = map_each(memory, most, Function.CLIP, alpha=-limit, beta=limit)
    below = combine(memory, Binary.SUBTRACT, (value, most))
    powers = map_each(memory, below, Function.EXP)
    total = _sum_over(memory, powers, reduced, mean=False)
    result = combine(memory, Binary.ADD, (map_each(memory, total, Function.LOG), most))
    return result if attribute(node, "keepdims", 1) else _without(result, reduced)


@lowers("ArgMax", "ArgMin")
def _index_of_extreme(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Return the first index of the extreme, or of NaN."""
    value = floats(operand)
    if attribute(node, "select_last_index", 0):
        raise UnsupportedError("select_last_index")
    axis = attribute(node, "axis", 0) % len(value.shape)
    count = value.shape[axis]
    extreme = _EXTREMES[node.op_type.removeprefix("Arg")]
    found = _combine_over(memory, value, [axis], function=extreme)
    is_extreme = combine(memory, Binary.EQUAL, (value, found))
    flags = (as_floats(is_extreme), as_floats(is_nan(memory, value)))
    is_found = combine(memory, Binary.MAXIMUM, flags)
    bonus = combine(memory, Binary.MULTIPLY, (is_found, np.float32(-count)))
    shape = [-1, *[1] * (len(value.shape) - axis - 1)]
    index = np.arange(count, 2 * count, dtype="float32").reshape(shape)
    ranked = combine(memory, Binary.ADD, (bonus, index))
    first = _combine_over(memory, ranked, [axis], function=Binary.MINIMUM)
    if not attribute(node, "keepdims", 1):
        first = _without(first, [axis])
    return to_int64(memory, first)


def _combine_over(
    memory: Memory, value: Value, reduced: Sequence[int], *, function: Binary
) -> Value:
    """Return the sum, product or extreme over some axes, which are kept with size 1:
    halves are combined until one element is left.
    """
    outer = [axis for axis in range(len(value.shape)) if axis not in reduced]
    kept = [value.shape[axis] for axis in outer]
    left = value.addresses.transpose(*reduced, *outer).reshape(-1, *kept)
    while len(left) > 1:
        half = len(left) // 2
        halves = (
            value._replace(addresses=left[:half]),
            value._replace(addresses=left[-half:]),
        )
        combined = combine(memory, function, halves).addresses
        left = np.concatenate([combined, left[half:-half]])
    return value._replace(addresses=np.expand_dims(left[0], tuple(reduced)))


def _without(value: Value, axes: Sequence[int]) -> Value:
    """Return a value without some of its axes, of size 1."""
    return value._replace(addresses=value.addresses.squeeze(tuple(axes)))


def _reduced_axes(node: ir.Node, axes: In, rank: int) -> list[int]:
    """Return the axes that a node reduces, in order; all if it names none."""
    if attribute(node, "noop_with_empty_axes", 0):
        raise UnsupportedError("noop_with_empty_axes")
    stored = [] if axes is None else as_array(axes, "axes").reshape(-1).tolist()
    return sorted({axis % rank for axis in stored} or range(rank))


def _sum_over(
    memory: Memory, value: Value, reduced: Sequence[int], *, mean: bool
) -> Value:
    """Return the sum or mean over some axes, which are kept with size 1."""
    length = prod(value.shape[axis] for axis in reduced)
    if length == 1:
        return value
    axes = range(len(value.shape))
    outer = [axis for axis in axes if axis not in reduced]
    shape = [1 if axis in reduced else value.shape[axis] for axis in axes]
    factors = np.full((1, length), 1 / length if mean else 1, "float32")
    row = memory.row(Value(value.addresses.transpose(*outer, *reduced)))
    return memory.value(memory.writer.linear(row, factors), shape)


@lowers("CumSum")
def _cumulative_sum(memory: Memory, node: ir.Node, operand: In, along: In) -> Out:
    """Add up the frames of a unit from the first to the last."""
    value = numbers_of(operand)
    if attribute(node, "reverse", 0) or attribute(node, "exclusive", 0):
        raise UnsupportedError("reverse or exclusive")
    axis = as_array(along, "an axis").item()
    first, *frames = np.moveaxis(value.addresses, axis, 0)
    total = value._replace(addresses=first)
    totals = [first]
    for frame in frames:
        total = combine(memory, Binary.ADD, (total, value._replace(addresses=frame)))
        totals.append(total.addresses)
    return value._replace(addresses=np.moveaxis(np.stack(totals), 0, axis))
