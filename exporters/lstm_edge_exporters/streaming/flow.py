"""How values move with time, and what symbolic sizes say of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError

_MANY = 2**10 * 3**4 * 5**2 * 7 * 11
"""Number of steps at which sizes are evaluated: a multiple of usual strides."""
_FUNCTIONS = {"IntTrueDiv": Fraction, "Max": max, "Min": min, "max": max, "min": min}
_FUNCTIONS |= {"CeilToInt": ceil, "FloorToInt": floor, "ceiling": ceil, "floor": floor}
"""Functions in sizes, as PyTorch, onnx-ir and onnxruntime write them."""


class NotStreamableError(UnsupportedError):
    """A part of the graph can't be fed in chunks; the message names its node."""


@dataclass(frozen=True)
class Flow:
    """Position and pace of the frames of a value; a value without one does not grow with time."""

    axis: int
    """Axis of the frames."""
    delay: int = 0
    """Frame j of the full sequence is frame ``j + delay`` of the stream; negative while padding is owed."""
    rate: Fraction = Fraction(1)
    """Frames per input step."""
    fill: float | None = None
    """Value of every element in front of frame 0, before the reset too; None if unknown."""


def symbols_of(size: int | ir.SymbolicDim) -> set[str]:
    """Return the names in a size."""
    text = str(size.value) if isinstance(size, ir.SymbolicDim) else ""
    return set(re.findall(r"[A-Za-z_]\w*", text)) - _FUNCTIONS.keys()


def size_at(size: int | ir.SymbolicDim, given: Mapping[str, int]) -> int:
    """Return a size at ``given`` sizes of its symbols; others are 1.

    Raises:
        NotStreamableError: it is not arithmetic.
    """
    if isinstance(size, int):
        return size
    if not re.fullmatch(r"[\w\s()+*/,-]+", text := str(size.value)):  # no attribute, string or index
        raise NotStreamableError(f"can't read the symbolic size {text}")
    sizes = {**dict.fromkeys(symbols_of(size), 1), **given}
    names = {name: Fraction(number) for name, number in sizes.items()} | _FUNCTIONS
    return int(eval(text, {"__builtins__": {}}, names))  # noqa: S307


def rate_of(size: int | ir.SymbolicDim, sequence: str) -> Fraction:
    """Return the frames per step and row of a time axis."""
    once, twice = (size_at(size, {sequence: times * _MANY}) for times in (1, 2))
    return Fraction(twice - once, _MANY)


def surplus_of(size: int | ir.SymbolicDim, sequence: str) -> int:
    """Return how many frames a time axis has besides those of its rate; negative if some are missing."""
    return int(size_at(size, {sequence: _MANY}) - rate_of(size, sequence) * _MANY)
