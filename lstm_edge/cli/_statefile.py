"""A file with a stream's state and step count, so that a stopped or killed process can be resumed."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge_runtime.errors import FileFormatError, NotFoundError, StateError
from lstm_edge_runtime.hold import NO_LABEL, Hold
from lstm_edge_runtime.state import read_state

if TYPE_CHECKING:
    from lstm_edge_runtime import Stream
    from lstm_edge_runtime.sliding import SlidingStream


class StateFile:
    """Saves a stream's state with the arrays ``steps`` and ``hold``; does nothing without a path."""

    def __init__(
        self, stream: "Stream | SlidingStream", path: Path | None, every: float, hold: Hold | None = None
    ) -> None:
        """Restore ``stream`` and ``hold`` from ``path`` if it exists, otherwise write the first state to it.

        Args:
            stream: the stream.
            path: the file.
            every: minimum number of seconds between two saves while samples arrive.
            hold: of the labels.

        Raises:
            FileFormatError: the file is not a saved state; it is not changed.
            StateError: it is the state of another model; it is not changed.
            InputError, NotFoundError: it can't be written.
        """
        self._stream, self._path, self._every, self._hold = stream, path, every, hold or Hold(1)
        self._before = 0
        if path is not None:
            with contextlib.suppress(NotFoundError):
                self._restore(path)
        self.save()

    @property
    def steps(self) -> int:
        """Number of time steps since the first start, including earlier processes."""
        return self._before + self._stream.steps_seen

    def save_if_due(self) -> None:
        """Write the state if the file is old enough."""
        if time.monotonic() - self._saved_at >= self._every:
            self.save()

    def save(self) -> None:
        """Write the state now, atomically."""
        self._saved_at = time.monotonic()
        if self._path is not None:
            arrays = {"steps": np.array(self.steps), "hold": np.array(self._hold.saved)}
            self._stream.state.save(self._path, **arrays)

    def _restore(self, path: Path) -> None:
        state, arrays = read_state(path)
        steps, hold = arrays.get("steps", np.array(0.5)), arrays.get("hold", np.array(NO_LABEL))
        if any(array.dtype.kind not in "iu" for array in (steps, hold)) or steps.shape or hold.shape != (3,):
            raise FileFormatError(
                f"{path} is not a state that lstm-edge stream saved; remove it to start again"
            )
        try:
            self._stream.restore(state)
        except StateError as error:
            raise StateError(
                f"{path} is the state of another model; use another file, or remove it ({error})"
            ) from error
        self._hold.restore(*hold.tolist())
        self._before = int(steps)
