"""A stream's state and its step count in one file, so that a stopped or killed process can go on."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge_runtime.errors import FileFormatError, NotFoundError, StateError
from lstm_edge_runtime.files import read_arrays, replacing
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.state import IDENTITY, from_arrays, to_arrays

if TYPE_CHECKING:
    from lstm_edge_runtime import Stream

__all__ = ["StateFile"]

_STEPS = "steps"
"""Its name in the file, which otherwise is as ``State.save`` writes it: ``State.load`` reads it too."""
_HOLD = "hold"
"""The name of what a ``Hold`` knows, where the run had one."""
_WRONG, _ADVICE = "is not a state that lstm-edge stream saved", "remove it to start again"


class StateFile:
    """Keeps a stream's state in a file, at most ``every`` seconds old; without a path it keeps nothing."""

    def __init__(self, stream: "Stream", path: Path | None, every: float, hold: Hold | None = None) -> None:
        """Restore ``stream`` and ``hold`` from ``path`` where it is there, else write its first state there.

        Raises:
            FileFormatError: the file is no saved state; it is left as it is.
            StateError: it is another model's; it is left as it is.
            InputError: it can't be written.
            NotFoundError: its folder is not there.
        """
        self._stream, self._path, self._every, self._hold = stream, path, every, hold
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
        """Time steps taken since the first start, those of earlier processes included."""
        return self._before + self._stream.steps_seen

    def patience(self) -> float | None:
        """Return the seconds until the file is out of date; None where nothing is to be saved."""
        if self._path is None or self.steps == self._saved_steps:
            return None
        return max(0.0, self._saved_at + self._every - time.monotonic())

    def save_if_due(self) -> None:
        """Write the state if it changed and the last one is older than ``every`` seconds."""
        if self.patience() == 0:
            self.save()

    def save(self) -> None:
        """Write the state now, whole or not at all."""
        if self._path is None:
            return
        content = to_arrays(self._stream.state) | {_STEPS: np.array(self.steps)}
        if self._hold:
            content[_HOLD] = np.array(self._hold.saved)
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, **content)
        self._saved_steps, self._saved_at = self.steps, time.monotonic()

    def _restore(self, path: Path) -> None:
        arrays = read_arrays(path, _WRONG, _ADVICE, [IDENTITY, _STEPS])
        steps = arrays[_STEPS]
        if steps.shape or steps.dtype.kind not in "iu":
            raise FileFormatError(f"{path} {_WRONG} (steps is {steps.dtype} {steps.shape}); {_ADVICE}")
        if self._hold and _HOLD in arrays:
            saved = arrays[_HOLD]
            if saved.shape != (3,) or saved.dtype.kind not in "iu":
                raise FileFormatError(f"{path} {_WRONG} (hold is {saved.dtype} {saved.shape}); {_ADVICE}")
            self._hold.restore(*saved.tolist())
        try:
            self._stream.restore(from_arrays(arrays))
        except StateError as error:
            raise StateError(
                f"{path} holds the state of another model; name another file, or remove it ({error})"
            ) from error
        self._before = int(steps)
