"""Python's ``int`` and ``float`` while ``forward`` is traced.

They would fix a size. The source modules of the layers have stand-ins among their
globals instead, which keep traced sizes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .source_modules import source_spaces
from .step_numbers import Evenly

_TRACED = {int: torch.SymInt, float: torch.SymFloat}
"""The traced numbers that are an ``int`` and a ``float`` outside of a trace."""
_CONVERSIONS: Mapping[type, Callable[[Any], Any]] = {
    int: torch.sym_int,
    float: torch.sym_float,
}
"""Conversion of a traced number to each type."""


class _LikeBuiltin(type):
    """Compares and behaves in ``isinstance`` as the type that a stand-in stands for."""

    stands_for: type

    def __instancecheck__(cls, value: Any) -> bool:
        """Accept traced sizes next to instances of the built-in type."""
        if isinstance(value, Evenly):
            return cls.stands_for is (int if value.is_whole else float)
        return isinstance(value, cls.stands_for | _TRACED[cls.stands_for])

    def __eq__(cls, other: object) -> bool:  # NumPy's dtype=int
        """Compare equal to the built-in type, as in NumPy's ``dtype=int``."""
        return other is cls or other is cls.stands_for

    def __hash__(cls) -> int:
        return hash(cls.stands_for)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Convert as the built-in type does; traced sizes stay traced."""
        value = args[0] if args else None
        if isinstance(value, Evenly):
            return value.converted(cls.stands_for)
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return _CONVERSIONS[cls.stands_for](value)
        return cls.stands_for(*args, **kwargs)


_STAND_INS: Mapping[str, Any] = {
    "int": _LikeBuiltin("int", (), {"stands_for": int}),
    "float": _LikeBuiltin("float", (), {"stands_for": float}),
}


@contextmanager
def keeping_sizes(module: nn.Module, loops: Mapping[str, Any]) -> Iterator[None]:
    """Let the source modules of the layers' classes keep traced sizes inside.

    ``loops`` are stand-ins for functions that run loops over time, by name.
    """
    stand_ins = {**_STAND_INS, **loops}
    spaces = source_spaces(module)
    added = [(space, name) for space in spaces for name in stand_ins.keys() - space]
    for space, name in added:
        space[name] = stand_ins[name]
    try:
        yield
    finally:
        for space, name in added:
            del space[name]
