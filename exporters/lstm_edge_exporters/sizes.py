"""Axes whose sizes grow with time, as values; text is for the manifest only."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import onnx_ir as ir

from .graph import axes_of

_KEY = "lstm_edge.time_axes"
"""Entry of a value's ``meta``, which copies of a graph keep."""

_MULTIPLES = (1024, 1025, 1026, 1027, 1029, 1031, 2048)
"""Sizes are evaluated at these multiples of a period, far from the first frames."""
_MAX_PERIOD = 1024


@dataclass(frozen=True)
class TimeAxis:
    """An axis with ``rate * steps + offset`` frames, for each row if merged."""

    index: int
    """Index of the axis."""
    rate: Fraction | None = Fraction(1)
    """Frames per step; None if the size is not affine in the number of steps."""
    offset: int = 0
    """Number of frames beyond those of the rate; negative if some are missing."""
    period: int = 1
    """The size holds for multiples of this number of steps: 2 for ``L//2``."""
    is_merged: bool = False
    """True if the axis holds the frames of all rows."""

    @classmethod
    def through(
        cls,
        index: int,
        points: Sequence[tuple[int, Fraction]],
        *,
        is_merged: bool = False,
    ) -> "TimeAxis":
        """Return the axis of these ``(steps, frames)`` per row, of at least two."""
        first_steps, first_frames = points[0]
        steps, frames = points[-1]
        rate = (frames - first_frames) / (steps - first_steps)
        offset = first_frames - rate * first_steps
        is_affine = all(y == rate * x + offset for x, y in points)
        if not is_affine or offset.denominator > 1:
            return cls(index, rate=None, is_merged=is_merged)
        return cls(
            index=index,
            rate=rate,
            offset=int(offset),
            period=rate.denominator,
            is_merged=is_merged,
        )

    @classmethod
    def of(
        cls, index: int, frames: Callable[[int], int], *, is_merged: bool = False
    ) -> "TimeAxis":
        """Return the axis that has ``frames(steps)`` frames."""
        for period in range(1, _MAX_PERIOD + 1):
            steps = [period * multiple for multiple in _MULTIPLES]
            points = [(count, Fraction(frames(count))) for count in steps]
            axis = cls.through(index, points, is_merged=is_merged)
            if axis.rate is not None:
                return replace(axis, period=period)
        return cls(index, rate=None, is_merged=is_merged)

    def title(self, sequence: str) -> str | None:
        """Return the axis in the form of a manifest, ``L`` or ``2*L``; None for
        others.
        """
        if self.rate is None or self.offset or self.is_merged:
            return None
        if self.rate.denominator > 1:
            return None
        return sequence if self.rate == 1 else f"{self.rate}*{sequence}"


def time_axes_of(value: ir.Value) -> tuple[TimeAxis, ...]:
    """Return the axes of ``value`` that grow with time."""
    axes: tuple[TimeAxis, ...] = value.meta.get(_KEY, ())
    return axes


def set_time_axes(value: ir.Value, axes: Iterable[TimeAxis]) -> None:
    """Record the axes of ``value`` that grow with time."""
    value.meta[_KEY] = tuple(axes)


def set_input_axes(graph: ir.Graph, sequence: str | None) -> None:
    """Record the time axes of the inputs: those called ``sequence``."""
    for value in graph.inputs:
        axes = enumerate(axes_of(value))
        time_axes = [TimeAxis(index) for index, axis in axes if axis == sequence]
        set_time_axes(value, time_axes)
