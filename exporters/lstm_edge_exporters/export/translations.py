"""Translations to ONNX of what ``torch.onnx`` translates otherwise or not at all."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import BOOL, DOUBLE, INT64
from onnxscript import opset18 as op

from ._torch_internals import aten_index, merge_dims
from .divisions import DIVISIONS


def _float64(size: Any) -> Any:
    """Cast a size to float64: float32 holds no odd integer above 2**24."""
    return op.Cast(size, to=DOUBLE.dtype)


def _whole(size: Any) -> Any:
    """Cast a size to int64."""
    return op.Cast(size, to=INT64.dtype)


def _atan2(y: Any, x: Any) -> Any:
    """Return the angle of ``(x, y)``; NaN stays NaN, which ``torch.onnx`` turns into
    0.
    """
    numbers: list[Any] = [op.Constant(value_float=x) for x in (0.0, 1.0, math.pi)]
    zero, one, pi = (op.CastLike(number, y) for number in numbers)
    is_origin = op.And(op.Equal(x, zero), op.Equal(y, zero))
    angle = op.Atan(op.Div(y, op.Where(is_origin, one, x)))
    opposite = op.Where(op.Less(y, zero), op.Sub(angle, pi), op.Add(angle, pi))
    return op.Where(op.Less(x, zero), opposite, angle)


def _index(x: Any, indices: Sequence[Any]) -> Any:
    """Return ``x[..., index, ...]``: one axis is looked up by Gather, which streams."""
    (axis, index), *others = (
        (axis, index) for axis, index in enumerate(indices) if index is not None
    )
    if others or index.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return aten_index(x, indices)
    return op.Gather(x, index, axis=axis)


def _where(condition: Any, chosen: Any, other: Any) -> Any:
    """Choose between two values; onnxruntime has no Where for booleans."""
    if not (_is_bool(chosen) and _is_bool(other)):
        return op.Where(condition, chosen, other)
    is_other = op.And(op.Not(condition), _bool_tensor(other))
    return op.Or(op.And(condition, _bool_tensor(chosen)), is_other)


def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """Fill ``x`` where ``mask`` is True, booleans as well."""
    if not _is_bool(x):
        return op.Where(mask, op.CastLike(value, x), x)
    return _where(mask, bool(value) if isinstance(value, int) else value, x)


def _is_bool(value: Any) -> bool:
    """Return True for a boolean, traced or not."""
    is_traced = getattr(value, "dtype", None) == ir.DataType.BOOL
    return is_traced or isinstance(value, bool)


def _bool_tensor(value: Any) -> Any:
    """Return a boolean as a tensor."""
    if not isinstance(value, bool):
        return value
    number: Any = op.Constant(value_int=int(value))
    return op.Cast(number, to=BOOL.dtype)


def _number_like(number: int, x: Any) -> Any:
    """Return a whole number in the dtype of ``x``."""
    constant: Any = op.Constant(value_int=number)
    return op.CastLike(constant, x)


def _zero_like(x: Any) -> Any:
    """Return 0 in the dtype of ``x``."""
    return _number_like(0, x)


def _sign(x: Any) -> Any:
    """Return the sign, which is 0 for NaN in PyTorch and NaN in onnxruntime."""
    if x.dtype == ir.DataType.BOOL:
        return op.Identity(x)
    zero = _zero_like(x)
    positive: Any = op.CastLike(op.Less(zero, x), x)
    return op.Sub(positive, op.CastLike(op.Less(x, zero), x))


def _heaviside(x: Any, at_zero: Any) -> Any:
    """Return 1 for positive numbers, ``at_zero`` for 0, and 0 for others and NaN."""
    zero = _zero_like(x)
    step: Any = op.CastLike(op.Less(zero, x), x)
    return op.Where(op.Equal(x, zero), at_zero, step)


def _log_sigmoid(x: Any) -> Any:
    """Return ``log(sigmoid(x))``; the sigmoid of -20 is 0 in onnxruntime."""
    return op.Sub(op.Min(x, _zero_like(x)), op.Softplus(op.Neg(op.Abs(x))))


def _log_add_exp(a: Any, b: Any, base: float = math.e) -> Any:
    """Return ``log(base**a + base**b)`` without large powers; equal infinities
    stay.
    """
    distance = op.Abs(op.Sub(a, b))
    distance = op.Where(op.Equal(a, b), _zero_like(a), distance)
    if base == math.e:
        return op.Add(op.Max(a, b), op.Softplus(op.Neg(distance)))
    constant: Any = op.Constant(value_float=math.log(base))
    scale: Any = op.CastLike(constant, a)
    rest = op.Div(op.Softplus(op.Neg(op.Mul(distance, scale))), scale)
    return op.Add(op.Max(a, b), rest)


def _log1p(x: Any) -> Any:
    """Return ``log(1 + x)`` with the digits of a small ``x``, after Kahan."""
    one = _number_like(1, x)
    total = op.Add(one, x)
    exact = op.Div(op.Mul(x, op.Log(total)), op.Sub(total, one))
    is_small = op.Less(op.Abs(x), one)
    by_size = op.Where(is_small, exact, op.Log(total))
    return op.Where(op.Equal(total, one), x, by_size)


def _expm1(x: Any) -> Any:
    """Return ``exp(x) - 1`` with the digits of a small ``x``, from ``tanh(x / 2)``."""
    one = _number_like(1, x)
    half = op.Tanh(op.Div(x, _number_like(2, x)))
    exact = op.Div(op.Add(half, half), op.Sub(one, half))
    return op.Where(op.Less(op.Abs(x), one), exact, op.Sub(op.Exp(x), one))


def _broadcast_in_dim(
    x: Any, shape: Sequence[Any], broadcast_dimensions: Sequence[int]
) -> Any:
    """Add the axes that ``x`` lacks; a reshape to computed sizes does not stream."""
    added = [axis for axis in range(len(shape)) if axis not in broadcast_dimensions]
    if added:
        axes: Any = op.Constant(value_ints=added)
        x = op.Unsqueeze(x, axes)
    return op.Expand(x, merge_dims(shape))


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    **DIVISIONS,
    math.ceil: lambda size: _whole(op.Ceil(_float64(size))),
    math.floor: lambda size: _whole(op.Floor(_float64(size))),
    math.trunc: _whole,
    # Python rounds down, ONNX's division of integers rounds towards zero
    operator.floordiv: lambda a, b: _whole(op.Floor(op.Div(_float64(a), _float64(b)))),
    operator.truediv: lambda a, b: op.Div(_float64(a), _float64(b)),
    torch.sym_float: _float64,
    torch.ops.aten.atan2.default: _atan2,
    torch.ops.aten.index.Tensor: _index,
    torch.ops.aten.masked_fill.Scalar: _masked_fill,
    torch.ops.aten.masked_fill.Tensor: _masked_fill,
    torch.ops.aten.where.Scalar: _where,
    torch.ops.aten.where.ScalarOther: _where,
    torch.ops.aten.where.ScalarSelf: _where,
    torch.ops.aten.where.self: _where,
    torch.ops.aten.sign.default: _sign,
    torch.ops.aten.sgn.default: _sign,
    torch.ops.aten.heaviside.default: _heaviside,
    torch.ops.prims.broadcast_in_dim.default: _broadcast_in_dim,
    torch.ops.aten.log_sigmoid.default: _log_sigmoid,
    torch.ops.aten.logaddexp.default: _log_add_exp,
    torch.ops.aten.logaddexp2.default: lambda a, b: _log_add_exp(a, b, 2),
    torch.ops.aten.log1p.default: _log1p,
    torch.ops.aten.expm1.default: _expm1,
}
"""Translations of arithmetic on sizes and of operators, by the function in a traced
graph."""
