"""How values move with time: the algebra that streaming is made of."""

from dataclasses import dataclass
from fractions import Fraction

from lstm_edge_runtime.errors import UnsupportedError


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


@dataclass(frozen=True)
class Window:
    """The frames that an operator reads for one frame of its result."""

    taps: int
    """Frames from the first to the last one that it reads."""
    stride: int
    front: int = 0
    """Frames of padding in front."""
    fill: float = 0.0
    """Value of the padding."""


@dataclass(frozen=True)
class Shift:
    """Frames that an operator puts in front (positive) or removes there (negative)."""

    frames: int
    fill: float = 0.0
    """Value of the frames in front."""
