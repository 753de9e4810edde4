"""A file with a stream's state and step count, so that a stopped or killed process can be resumed."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge.hold import Hold
from lstm_edge_runtime.errors import FileFormatError, NotFoundError, StateError
from lstm_edge_runtime.state import read_state

if TYPE_CHECKING:
    from lstm_edge_runtime import Stream
    from lstm_edge_runtime.sliding import SlidingStream

_STEPS = "steps"
"""Key of the step count; otherwise the file has the format of ``State.save``, and ``State.load`` reads it."""
_HOLD = "hold"
"""Key of the values of a ``Hold``, if the run had one."""
_WRONG, _ADVICE = "is not a state that lstm-edge stream saved", "remove it to start again"


class StateFile:
    """Saves a stream's state to a file that is at most ``every`` seconds old; does nothing without a path."""

    def __init__(
        self, stream: "Stream | SlidingStream", path: Path | None, every: float, hold: Hold | None = None
    ) -> None:
        """Restore ``stream`` and ``hold`` from ``path`` if it exists, otherwise write the first state to it.

        Raises:
            FileFormatError: the file is not a saved state; it is not changed.
            StateError: it is the state of another model; it is not changed.
            InputError: it can't be written.
            NotFoundError: its folder does not exist.
        """
        self._stream: Any = stream
        self._path, self._every, self._hold = path, every, hold
        self._before = 0
        self._saved_steps = 0
        self._saved_at = time.monotonic()
        if path is None:
            return
        with contextlib.suppress(NotFoundError):
            self._restore(path)
        self.save()

    @property
    def steps(self) -> int:
        """Number of time steps since the first start, including earlier processes."""
        return self._before + int(self._stream.steps_seen)

    def patience(self) -> float | None:
        """Return the seconds until the file is out of date; None if there is nothing to save."""
        if self._path is None or self.steps == self._saved_steps:
            return None
        return max(0.0, self._saved_at + self._every - time.monotonic())

    def save_if_due(self) -> None:
        """Write the state if it changed and the file is older than ``every`` seconds."""
        if self.patience() == 0:
            self.save()

    def save(self) -> None:
        """Write the state now, atomically."""
        if self._path is None:
            return
        hold = {_HOLD: np.array(self._hold.saved)} if self._hold else {}
        try:
            state = self._stream.state
        except StateError:  # between the units of a stream: the last whole one was saved
            return
        state.save(self._path, **{_STEPS: np.array(self.steps)}, **hold)
        self._saved_steps, self._saved_at = self.steps, time.monotonic()

    def _restore(self, path: Path) -> None:
        state, arrays = read_state(path)
        steps = arrays.get(_STEPS, np.array(0.5))
        if steps.shape or steps.dtype.kind not in "iu":
            raise FileFormatError(f"{path} {_WRONG} (steps is {steps.dtype} {steps.shape}); {_ADVICE}")
        if self._hold and _HOLD in arrays:
            saved = arrays[_HOLD]
            if saved.shape != (3,) or saved.dtype.kind not in "iu":
                raise FileFormatError(f"{path} {_WRONG} (hold is {saved.dtype} {saved.shape}); {_ADVICE}")
            self._hold.restore(*saved.tolist())
        try:
            self._stream.restore(state)
        except StateError as error:
            raise StateError(
                f"{path} is the state of another model; use another file, or remove it ({error})"
            ) from error
        self._before = int(steps)
