"""The last frames of a value, as a native program keeps them: a ring, and the place of its oldest frame."""

from typing import NamedTuple

import numpy as np

from ..manifest import Array


class Past(NamedTuple):
    """A state of the file, ``(groups, frames, inner)`` without batch axis, that is a ring in the program."""

    groups: int
    frames: int
    inner: int

    @property
    def frame(self) -> int:
        """Numbers of one frame."""
        return self.groups * self.inner

    @property
    def width(self) -> int:
        """Numbers of a row: the frames, each in one stretch, and the place of the oldest."""
        return self.frames * self.frame + 1

    def to_rows(self, array: Array, steps: int = 0) -> Array:
        """Return rows ``(N, width)`` of states ``(N, ...)`` whose age is given in steps since the reset."""
        frames = array.reshape(-1, self.groups, self.frames, self.inner).transpose(0, 2, 1, 3)
        place = steps % self.frames
        rows = np.empty((len(frames), self.width), np.float32)
        rows[:, :-1] = np.roll(frames, place, 1).reshape(len(frames), -1)
        rows[:, -1] = place
        return rows

    def from_rows(self, rows: Array) -> Array:
        """Return the states ``(N, groups, frames, inner)`` of rows, the oldest frame first."""
        frames = rows[:, :-1].reshape(len(rows), self.frames, self.groups, self.inner)
        order = (rows[:, -1:].astype(np.int64) + np.arange(self.frames)) % self.frames
        ordered: Array = np.take_along_axis(frames, order[:, :, None, None], 1).transpose(0, 2, 1, 3)
        return ordered
