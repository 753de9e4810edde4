"""Operators that ``torch.onnx`` translates wrongly or refuses: arithmetic on sizes, sums of exponentials."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx.parser import parse_graph
from onnxscript import DOUBLE, INT64
from onnxscript import opset18 as op

from ..graph import Builder
from .record import DOMAIN, LOG_CUM_SUM_EXP

__all__ = ["TRANSLATIONS", "lower_sums"]

_LOG_ADD_EXP = """
step (sum, x) => (next, same) {
    larger = Max (sum, x)
    infinite = IsInf (larger)
    none = Constant <value = float {0}> ()
    base = Where (infinite, none, larger)
    first = Sub (sum, base)
    second = Sub (x, base)
    first_exp = Exp (first)
    second_exp = Exp (second)
    total = Add (first_exp, second_exp)
    log = Log (total)
    next = Add (log, base)
    same = Identity (next)
}
"""


def _wide(size: Any) -> Any:
    """Cast a size to float64: float32 holds no odd integer above 2**24."""
    return op.Cast(size, to=DOUBLE.dtype)


def _whole(size: Any) -> Any:
    return op.Cast(size, to=INT64.dtype)


def _divide(dividend: Any, divisor: Any) -> Any:
    return op.Div(_wide(dividend), _wide(divisor))


def _floor_divide(dividend: Any, divisor: Any) -> Any:
    """Round down as Python does; ONNX's division of integers rounds towards zero."""
    return _whole(op.Floor(_divide(dividend, divisor)))


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    math.ceil: lambda size: _whole(op.Ceil(_wide(size))),
    math.floor: lambda size: _whole(op.Floor(_wide(size))),
    math.trunc: _whole,
    operator.floordiv: _floor_divide,
    operator.truediv: _divide,
    torch.sym_float: _wide,
}
"""For ``torch.onnx.export``, by what stands in a traced graph."""


def lower_sums(model: ir.Model) -> None:
    """Replace every recorded ``logcumsumexp`` by a Scan.

    Each step is added to the sum before it in the scale of the larger of both. ``torch.onnx`` scales the
    whole axis by its maximum, beside which an earlier sum may be no number at all.
    """
    for node in list(model.graph):
        if (node.domain, node.op_type) != (DOMAIN, LOG_CUM_SUM_EXP):
            continue
        build = Builder(node, "logcumsumexp")
        x, axis = node.inputs[0], node.attributes["axis"].as_int()
        assert x is not None
        (first,) = build.node("ReduceMax", [x, build.constant(np.array([axis]), "axis")], {"keepdims": 0})
        (shape,) = build.node("Shape", [first])
        shape.dtype = ir.DataType.INT64
        (start,) = build.node("Expand", [build.constant(np.float32(-math.inf).reshape(()), "none"), shape])
        _, sums = build.node(
            "Scan",
            [start, x],
            {
                "body": _body(),
                "num_scan_inputs": 1,
                "scan_input_axes": [axis],
                "scan_output_axes": [axis],
            },
            outputs=2,
        )
        sums.shape, sums.type = node.outputs[0].shape, node.outputs[0].type
        build.replace([sums])


def _body() -> Any:
    graph = parse_graph(_LOG_ADD_EXP)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = ir.DataType.FLOAT
    return ir.from_proto(graph)
