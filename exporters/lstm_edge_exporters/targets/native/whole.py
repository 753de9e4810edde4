"""Sizes of whole numbers: outputs of a program are float32, which holds all of them up
to 2**24.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...graph import KEEPING, constant

_WHOLE = (ir.DataType.INT64, ir.DataType.INT32)
_MOST = 2**24
"""The largest whole number up to which float32 holds all."""
_CHOOSING = KEEPING | {"Concat", "Max", "Min", "ReduceMax", "ReduceMin", "Where"}
"""Operators whose results are elements of their operands."""
_EXACT = _CHOOSING | {"Abs", "Neg"}
"""Operators whose results float32 holds if it holds their operands."""


class _Size(NamedTuple):
    """Size of the whole numbers of a value."""

    largest: float
    """The largest absolute value; infinite if unknown."""
    fits: bool
    """True if float32 holds each number: it is small, or a float that was made whole."""


_FLOAT = _Size(math.inf, fits=True)
_UNKNOWN = _Size(math.inf, fits=False)


def fits_float32(value: ir.Value, elements: Mapping[str, int]) -> bool:
    """Return True if float32 holds every whole number that ``value`` may be.

    ``elements`` are the elements of each value of the graph, by name.
    """
    sizes: dict[ir.Value | None, _Size] = {}
    node = value.producer()
    graph = None if node is None else node.graph
    for node in graph or ():
        operands = _numbers(node)
        for operand in operands:
            sizes.setdefault(operand, _stored(operand))
        count = elements.get(_name(node.inputs[0]), 0) if node.inputs else 0
        result = _result(node, [sizes[operand] for operand in operands], count)
        for output in node.outputs:
            is_whole = output.dtype in _WHOLE
            sizes[output] = result if is_whole else _of_dtype(output)
    return sizes.get(value, _UNKNOWN).fits


def _name(value: ir.Value | None) -> str:
    """Return the name of a value; empty for an input that is left out."""
    return "" if value is None else str(value.name)


def _of_dtype(value: ir.Value | None) -> _Size:
    """Return the size of floats or bools."""
    is_bool = value is not None and value.dtype == ir.DataType.BOOL
    return _Size(1, fits=True) if is_bool else _FLOAT


def _stored(value: ir.Value) -> _Size:
    """Return the size of a constant; an input or a state may be any number."""
    if value.dtype not in (*_WHOLE, None):
        return _of_dtype(value)
    array = constant(value)
    if array is None:
        return _UNKNOWN
    largest = float(np.abs(array.astype("float64")).max(initial=0))
    return _Size(largest, largest <= _MOST)


def _numbers(node: ir.Node) -> list[ir.Value]:
    """Return the operands whose numbers a node computes with: no indices, sizes or
    axes.
    """
    read = [value for value in node.inputs if value is not None]
    if node.op_type == "Where":
        return read[1:]
    has_indices = node.op_type in KEEPING - {"Clip"}
    is_of_first = has_indices or node.op_type.startswith(("Arg", "Reduce", "CumSum"))
    return read[:1] if is_of_first else read


def _result(node: ir.Node, operands: Sequence[_Size], count: int) -> _Size:
    """Return the size of a node's whole results; its first operand has ``count``
    elements.
    """
    largest = _largest(node.op_type, [size.largest for size in operands], count)
    is_exact = node.op_type in _EXACT and all(size.fits for size in operands)
    return _Size(largest, is_exact or largest <= _MOST)


def _largest(op_type: str, sizes: Sequence[float], count: int) -> float:
    """Return the largest result of an operator on operands of these sizes."""
    if op_type in ("ArgMax", "ArgMin"):
        return count
    if op_type == "Sign":
        return 1
    if op_type == "Mod":
        return sizes[1]
    if op_type in ("Add", "Sub", "Sum"):
        return sum(sizes)
    if op_type == "Mul":
        return math.prod(sizes)
    if op_type == "ReduceSum":
        return sizes[0] * count
    if op_type == "Clip":
        return max(sizes[1:]) if len(sizes) == 3 else sizes[0]
    return max(sizes, default=math.inf) if op_type in {*_EXACT, "Div"} else math.inf
