"""The number of a step as a state of its loop, so that it continues from call to call."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ..graph import axes_of
from .all_steps import ELEMENTWISE
from .unrolled import Family, Number

VARIABLE = "t"
"""Name of the state."""
Add = Callable[..., ir.Value]
"""Adds an operator to the body: ``add(op, inputs, **attributes)``."""


class StepCounter:
    """One counter per row, ``t (N,)``; rows of a batch of streams start at other times."""

    def __init__(self, entry: ir.Value, add: Add, constant: Callable[..., ir.Value]):
        """Count in the body's input ``entry``; new nodes go through ``add``."""
        self.entry = entry
        """The body's input."""
        self._add = add
        self._constant = constant

    def after(self) -> ir.Value:
        """Return the number of the next step."""
        return self._add("Add", [self.entry, self._constant(np.array(1), "one")])

    def operand(self, number: Number, reader: Family) -> ir.Value:
        """Return the numbers of the rows, so that they broadcast to what ``reader``
        computes.
        """
        axes = np.arange(1, _rows_from_end(reader.value, self.batch))
        value = self.entry
        if axes.size:
            value = self._add("Unsqueeze", [value, self._constant(axes, "axes")])
        slope = np.asarray(number.slope)
        first = np.asarray(number.start) - slope
        dtype = ir.DataType.from_numpy(slope.dtype)
        if dtype != ir.DataType.INT64:
            value = self._add("Cast", [value], to=int(dtype))
            value.type = ir.TensorType(dtype)
        if (slope != 1).any():
            value = self._add("Mul", [value, self._constant(slope, "slope")])
        if first.any():
            value = self._add("Add", [value, self._constant(first, "first")])
        return value

    @property
    def batch(self) -> str:
        """Name of the axis of the rows."""
        return str(axes_of(self.entry)[0])


def can_count(families: Sequence[Family], batch: str | None) -> bool:
    """Return True if the numbers of the step are operands of elementwise operators with
    rows alone.
    """
    readers = [
        (operand, family)
        for family in families
        for operand in family.operands
        if isinstance(operand, Number)
    ]
    return bool(readers) and all(
        _is_by_row(number, reader, batch) for number, reader in readers
    )


def _is_by_row(number: Number, reader: Family, batch: str | None) -> bool:
    """Return True if a number may be one per row where ``reader`` reads it."""
    value = reader.value
    has_rows = value.shape is not None and batch in axes_of(value)
    is_elementwise = reader.node.op_type in ELEMENTWISE
    if batch is None or not has_rows or not is_elementwise:
        return False
    return bool(np.ndim(number.start) < _rows_from_end(value, batch))


def _rows_from_end(value: ir.Value, batch: str) -> int:
    """Return the number of axes of ``value`` from its rows on."""
    axes = axes_of(value)
    return len(axes) - axes.index(batch)
