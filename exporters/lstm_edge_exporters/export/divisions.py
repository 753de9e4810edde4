"""Translations of divisions that round, and of remainders, as PyTorch computes them.

``x // 0.1`` of floats is what is left after an exact remainder: rounding ``x / 0.1``
first may reach the next whole number. Whole numbers are divided as whole numbers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op

from ..graph import constant

_WHOLE = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8)
_UNSIGNED = (ir.DataType.UINT8, ir.DataType.BOOL)


def _floor_divide(a: Any, b: Any) -> Any:
    """Return the quotient, rounded down."""
    a, b, number = _operands(a, b)
    if a.dtype not in (*_WHOLE, *_UNSIGNED):
        return _floor_of_floats(a, b, number)
    wide, divisor = _int64(a), _int64(b)
    quotient = _truncated(wide, divisor, number)
    rest = op.Sub(wide, op.Mul(quotient, divisor))
    is_above = _int64(_has_other_sign(rest, divisor))
    return op.CastLike(op.Sub(quotient, is_above), a)


def _floor_of_floats(a: Any, b: Any, number: Any) -> Any:
    """Return the quotient of floats, as PyTorch rounds it down."""
    if _is_power_of_two(number):
        return op.Floor(op.Div(a, b))
    rest = op.Mod(a, b, fmod=1)
    quotient = op.Div(op.Sub(a, rest), b)
    above: Any = op.CastLike(_has_other_sign(rest, b), a)
    quotient = op.Sub(quotient, above)
    low = op.Floor(quotient)
    is_rounded_down = op.Less(_like(0.5, a), op.Sub(quotient, low))
    whole = op.Add(low, op.CastLike(is_rounded_down, a))
    if number:
        return whole
    return op.Where(op.Equal(b, _like(0, b)), op.Div(a, b), whole)


def _remainder(a: Any, b: Any) -> Any:
    """Return the remainder with the sign of ``b``."""
    a, b, number = _operands(a, b)
    if a.dtype in (*_WHOLE, *_UNSIGNED):
        divisor = _int64(b)
        is_safe = number not in (None, 0, -1)
        safe = divisor if is_safe else _safe(divisor)
        return op.CastLike(op.Mod(_int64(a), safe), a)
    if _is_power_of_two(number):
        return op.Sub(a, op.Mul(op.Floor(op.Div(a, b)), b))
    rest = op.Mod(a, b, fmod=1)
    return op.Where(_has_other_sign(rest, b), op.Add(rest, b), rest)


def _fmod(a: Any, b: Any) -> Any:
    """Return the remainder with the sign of ``a``."""
    a, b, number = _operands(a, b)
    if a.dtype in (*_WHOLE, *_UNSIGNED):
        wide, divisor = _int64(a), _int64(b)
        quotient = _truncated(wide, divisor, number)
        return op.CastLike(op.Sub(wide, op.Mul(quotient, divisor)), a)
    return op.Mod(a, b, fmod=1)


def _divide(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    """Return the quotient, rounded down or towards zero."""
    if rounding_mode == "floor":
        return _floor_divide(a, b)
    a, b, number = _operands(a, b)
    if a.dtype in (*_WHOLE, *_UNSIGNED) and rounding_mode is not None:
        wide, divisor = _int64(a), _int64(b)
        return op.CastLike(_truncated(wide, divisor, number), a)
    if a.dtype in (*_WHOLE, *_UNSIGNED):
        a, b = op.Cast(a, to=FLOAT.dtype), op.Cast(b, to=FLOAT.dtype)
    quotient = op.Div(a, b)
    if rounding_mode is None:
        return quotient
    down = op.Floor(quotient)
    return op.Where(op.Less(quotient, _like(0, quotient)), op.Ceil(quotient), down)


def _operands(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Return two operands as tensors of one dtype, and ``b`` if it is a number."""
    if not isinstance(a, ir.Value):
        return _like(a, b), b, None
    if isinstance(b, ir.Value):
        return a, b, _number_of(b)
    whole: Any = a
    if isinstance(b, float) and a.dtype in (*_WHOLE, *_UNSIGNED):
        whole = op.Cast(whole, to=FLOAT.dtype)
    return whole, _like(b, whole), b


def _number_of(value: ir.Value) -> Any:
    """Return the number that a tensor is; None if it is computed."""
    node = value.producer()
    if node is not None and node.op_type in ("Cast", "CastLike") and node.inputs[0]:
        return _number_of(node.inputs[0])
    array = constant(value)
    return array.item() if array is not None and array.size == 1 else None


def _int64(x: Any) -> Any:
    """Cast whole numbers to int64."""
    return op.Cast(x, to=INT64.dtype)


def _truncated(a: Any, b: Any, number: Any) -> Any:
    """Return the quotient of whole numbers, rounded towards zero.

    A division by 0, and of the least number by -1, ends the process in onnxruntime.
    """
    if number not in (None, 0, -1):
        return op.Div(a, b)
    is_negation = op.Equal(b, _like(-1, b))
    return op.Where(is_negation, op.Neg(a), op.Div(a, _safe(b)))


def _safe(divisor: Any) -> Any:
    """Return 1 for the divisors 0 and -1, others as they are."""
    one = _like(1, divisor)
    is_unsafe = op.Or(
        op.Equal(divisor, _like(0, divisor)), op.Equal(divisor, _like(-1, divisor))
    )
    return op.Where(is_unsafe, one, divisor)


def _has_other_sign(rest: Any, divisor: Any) -> Any:
    """Return where a remainder is not 0 and has another sign than the divisor."""
    zero = _like(0, rest)
    is_negative = op.Less(divisor, _like(0, divisor))
    differs = op.Xor(op.Less(rest, zero), is_negative)
    return op.And(differs, op.Not(op.Equal(rest, zero)))


def _is_power_of_two(number: Any) -> bool:
    """Return True for a number by which a division rounds nothing."""
    return bool(number) and abs(math.frexp(number)[0]) == 0.5


def _like(number: float, x: Any) -> Any:
    """Return a number in the dtype of ``x``."""
    constant: Any = (
        op.Constant(value_float=number)
        if isinstance(number, float)
        else op.Constant(value_int=int(number))
    )
    return op.CastLike(constant, x)


_ATEN = torch.ops.aten
DIVISIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    _ATEN.div.Tensor_mode: _divide,
    _ATEN.div.Scalar_mode: _divide,
    _ATEN.floor_divide.default: _floor_divide,
    _ATEN.floor_divide.Scalar: _floor_divide,
    _ATEN.remainder.Tensor: _remainder,
    _ATEN.remainder.Scalar: _remainder,
    _ATEN.remainder.Scalar_Tensor: _remainder,
    _ATEN.fmod.Tensor: _fmod,
    _ATEN.fmod.Scalar: _fmod,
}
"""Translations by the function in a traced graph."""
