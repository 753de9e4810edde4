"""The variables of the function that runs a loop, and how it takes the items."""

import dis
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor, nn

_DEPTH = 3
"""Depth of the lists, tuples and dicts in which tensors are variables of a loop."""


def is_unpacking(frame: FrameType) -> bool:
    """Return True if a function assigns the items to variables: ``a, b = steps``.

    Python asks for an iterator in the same way there and in a ``for``, and the items
    have to be made before it is known how many are taken. Only the instruction differs:
    an unpacked axis has a fixed size, such as ``mean, deviation = x.unbind(-1)``.
    That both come from one instruction does not tell: ``deque(steps)`` is a loop.
    """
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("UNPACK")


def tensors_of(frame: FrameType) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each tensor among the variables of the function that
    runs a loop.
    """
    for name, value in list(frame.f_locals.items()):
        if isinstance(value, nn.Module):
            for attribute, inner in list(vars(value).items()):
                if not attribute.startswith("_"):
                    yield from _tensors(attribute, inner, _DEPTH)
        else:
            yield from _tensors(name, value, _DEPTH)


def _tensors(name: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a variable, also in containers down to ``depth``, by name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping) and depth:
        for key, inner in list(value.items()):
            yield from _tensors(f"{name}.{key}", inner, depth - 1)
    elif isinstance(value, list | tuple | deque) and depth:
        for index, inner in enumerate(value):
            yield from _tensors(f"{name}.{index}", inner, depth - 1)
        if value:
            yield from _tensors(f"{name}.last", value[-1], depth - 1)


def numbers_of(frame: FrameType) -> dict[str, Any]:
    """Return the variables that are numbers of Python, or differences in time, and such
    attributes of modules, by name.
    """
    numbers = dict[str, Any]()
    for name, value in list(frame.f_locals.items()):
        if isinstance(value, nn.Module):
            inner = ((f"{name}.{key}", item) for key, item in vars(value).items())
            numbers |= {key: item for key, item in inner if _is_number(item)}
        elif _is_number(value):
            numbers[name] = value
    return numbers


def _is_number(value: Any) -> bool:
    """Return True for a number of Python or NumPy; a step's own number is none."""
    return type(value) in (int, float) or isinstance(
        value, np.number | Fraction | Decimal | date | timedelta
    )
