"""``int``, ``float`` and ``len`` of traced sizes, and the arithmetic on sizes for ``torch.onnx``.

Python lets these functions return plain numbers only, so that tracing would fix a size. While a module is
traced, the source modules of its layers have stand-ins among their globals that keep a traced size.
"""

import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript import DOUBLE, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from .advice import is_own


class _LikeBuiltin(type):
    """Compares and behaves in ``isinstance`` as the type that a stand-in stands for."""

    stands_for: type

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.stands_for)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.stands_for

    def __hash__(cls) -> int:
        return hash(cls.stands_for)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        traced = args and isinstance(args[0], torch.SymInt | torch.SymFloat)
        return getattr(torch, f"sym_{cls.__name__}")(*args) if traced else cls.stands_for(*args, **kwargs)


def _len(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else len(value)


_STAND_INS: Mapping[str, Any] = {
    kind.__name__: _LikeBuiltin(kind.__name__, (), {"stands_for": kind}) for kind in (int, float)
} | {"len": _len}


@contextmanager
def keeping_sizes(module: nn.Module) -> Iterator[None]:
    """Let the source modules of the layers' classes keep traced sizes inside."""
    names = {kind.__module__ for layer in module.modules() for kind in type(layer).__mro__}
    spaces = [vars(sys.modules[name]) for name in sorted(names) if name in sys.modules]
    own = (space for space in spaces if is_own(str(space.get("__file__"))))
    added = [(space, name) for space in own for name in _STAND_INS if name not in space]
    for space, name in added:
        space[name] = _STAND_INS[name]
    try:
        yield
    finally:
        for space, name in added:
            del space[name]


def _wide(size: Any) -> Any:
    """Cast a size to float64: float32 holds no odd integer above 2**24."""
    return op.Cast(size, to=DOUBLE.dtype)


def _whole(size: Any) -> Any:
    return op.Cast(size, to=INT64.dtype)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    math.ceil: lambda size: _whole(op.Ceil(_wide(size))),
    math.floor: lambda size: _whole(op.Floor(_wide(size))),
    math.trunc: _whole,
    # Python rounds down, ONNX's division of integers rounds towards zero
    operator.floordiv: lambda a, b: _whole(op.Floor(op.Div(_wide(a), _wide(b)))),
    operator.truediv: lambda a, b: op.Div(_wide(a), _wide(b)),
    torch.sym_float: _wide,
}
"""Arithmetic on sizes, by the function in a traced graph."""
