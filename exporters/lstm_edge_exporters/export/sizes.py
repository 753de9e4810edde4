"""Arithmetic on sizes: ``int(x.size(1) / 4)``, ``len(x)``, ``-(-n // 4)``.

Python lets ``int``, ``len`` and ``float`` give plain numbers only, and so tracing would fix the size. In a
copy of the module that is ours, the functions that call them get globals of their own, in which they leave a
traced size a traced size. What is then computed of it ``torch.onnx`` translates by ``TRANSLATIONS``.
"""

import copy
import math
import operator
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from onnxscript import DOUBLE, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from lstm_edge_runtime.errors import UnsupportedError

from ..graph import Builder
from .source import is_own

Result = TypeVar("Result")


class _LikeBuiltin(type):
    """What a stand-in is to ``isinstance`` and in comparisons: the type that it stands for."""

    stands_for: type

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.stands_for)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.stands_for

    def __hash__(cls) -> int:
        return hash(cls.stands_for)


class _Int(metaclass=_LikeBuiltin):
    stands_for = int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], torch.SymInt | torch.SymFloat):
            return torch.sym_int(args[0])  # type: ignore[no-untyped-call]
        return int(*args, **kwargs)


class _Float(metaclass=_LikeBuiltin):
    stands_for = float

    def __new__(cls, *args: Any) -> Any:
        if args and isinstance(args[0], torch.SymInt):
            return torch.sym_float(args[0])  # type: ignore[no-untyped-call]
        return float(*args)


def _len(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else len(value)


_FLOATS = (ir.DataType.DOUBLE, ir.DataType.FLOAT)
_EXACT = frozenset("Add Ceil Clip Div Expand Floor Max Min Mul Neg Reshape Sub Unsqueeze".split())  # noqa: SIM905
_STAND_INS: dict[str, Any] = {"int": _Int, "float": _Float, "len": _len}


def size_text(size: Any) -> str:
    """Return a traced size as text, what tracing learned of it later included."""
    return str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)


def symbols(size: Any) -> list[str]:
    """Return the tracer's names for sizes that a traced size grows with, or that are in its text."""
    found = dict.fromkeys(re.findall(r"\b[su]\d+\b", size_text(size)))
    if not isinstance(size, torch.SymInt) or len(found) < 2:
        return [*found]
    expression = size.node.expr
    here = dict.fromkeys(expression.free_symbols, 97)
    grows = {str(symbol) for symbol in here if expression.subs(here) != expression.subs(here | {symbol: 193})}
    return [name for name in found if name in grows]


def keeping_sizes(module: nn.Module, run: Callable[[nn.Module], Result]) -> Result:
    """Return what ``run`` gives for a copy of ``module`` that keeps traced sizes, else for a plain copy."""
    own = copy.deepcopy(module)
    if _keep_sizes(own):
        with suppress(UnsupportedError):
            return run(own)
        own = copy.deepcopy(module)
    return run(own)


def _keep_sizes(module: nn.Module) -> bool:
    """Make the code of ``module``, a copy that is ours, keep traced sizes; tell whether anything changed."""
    copies: dict[types.FunctionType, types.FunctionType | None] = {}
    changed = False
    for layer in module.modules():
        methods: dict[str, Any] = {}
        for kind in reversed(type(layer).__mro__):
            for name, value in vars(kind).items():
                function = value.__func__ if isinstance(value, staticmethod) else value
                if isinstance(function, types.FunctionType) and (other := _copied(function, copies)):
                    methods[name] = staticmethod(other) if isinstance(value, staticmethod) else other
                else:
                    methods.pop(name, None)
        if methods:
            kind = type(layer)
            layer.__class__ = types.new_class(kind.__name__, (kind,), exec_body=partial(_add, methods))
            changed = True
    return changed


def _add(methods: Mapping[str, Any], names: dict[str, Any]) -> None:
    names.update(methods)


def _copied(
    function: types.FunctionType, copies: dict[types.FunctionType, types.FunctionType | None]
) -> types.FunctionType | None:
    """Return ``function`` with stand-ins where it or a function that it calls takes sizes; else None."""
    if function in copies:
        return copies[function]
    copies[function] = None  # while it is being looked at: a function that calls itself
    if not is_own(function.__code__.co_filename):
        return None
    known = function.__globals__
    stand_ins: dict[str, Any] = {}
    for name in _names(function.__code__):
        value = known.get(name)
        if name in _STAND_INS and name not in known:
            stand_ins[name] = _STAND_INS[name]
        elif isinstance(value, types.FunctionType) and (other := _copied(value, copies)):
            stand_ins[name] = other
    if stand_ins:
        made = types.FunctionType(
            function.__code__,
            known | stand_ins,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        made.__kwdefaults__ = function.__kwdefaults__
        copies[function] = made
    return copies[function]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def settle_floats(graph: ir.Graph) -> None:
    """Give nodes that mix float64, in which sizes are computed, with float32 one dtype.

    ``F.interpolate`` multiplies positions by the ratio of two sizes. What is computed of sizes alone stays
    float64, where it meets data it becomes float32.
    """
    for node in list(graph):
        values = [value for value in node.inputs if value is not None]
        if node.op_type == "Cast" or not {*_FLOATS} <= {value.dtype for value in (*values, *node.outputs)}:
            continue
        wide = node.op_type in _EXACT and _of_sizes_alone(values)
        wanted, other = _FLOATS if wide else (_FLOATS[1], _FLOATS[0])
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == other:
                node.replace_input_with(place, Builder(node, str(value.name)).cast(value, wanted))
        for value in node.outputs:
            if value.dtype in _FLOATS:
                value.dtype = wanted


def _of_sizes_alone(values: Iterable[ir.Value]) -> bool:
    from ..evaluate import is_data_free

    return all(map(is_data_free, values))


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
