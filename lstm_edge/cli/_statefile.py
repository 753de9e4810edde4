"""A stream's state and its step count in one file, so that a stopped or killed process can go on."""

import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge_runtime import State
from lstm_edge_runtime._files import replacing
from lstm_edge_runtime.errors import FileFormatError, StateError

if TYPE_CHECKING:
    from lstm_edge_runtime import Stream

__all__ = ["StateFile"]

_IDENTITY, _PREFIX, _STEPS = "identity", "state/", "steps"
"""The first two are as in ``State.save``, so that ``State.load`` reads the file too."""


class StateFile:
    """Keeps a stream's state in a file, at most ``every`` seconds old; without a path it keeps nothing."""

    def __init__(self, stream: "Stream", path: Path | None, every: float) -> None:
        """Restore ``stream`` from ``path`` where it is there, else write its first state there.

        Raises:
            FileFormatError: the file is no saved state; it is left as it is.
            StateError: it is another model's; it is left as it is.
            InputError: it can't be written.
            NotFoundError: its folder is not there.
        """
        self._stream, self._path, self._every = stream, path, every
        self._before = 0
        self._saved_steps = 0
        self._saved_at = time.monotonic()
        if path is None:
            return
        if path.exists():
            self._restore(path)
        self.save()

    @property
    def steps(self) -> int:
        """Time steps taken since the first start, those of earlier processes included."""
        return self._before + self._stream.steps_seen

    def patience(self) -> float | None:
        """Give the seconds until the file is out of date; None where nothing is to be saved."""
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
        state = self._stream.state
        content: dict[str, Any] = {_PREFIX + name: array for name, array in state.items()}
        content |= {_IDENTITY: np.array(state.identity), _STEPS: np.array(self.steps)}
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, **content)
        self._saved_steps, self._saved_at = self.steps, time.monotonic()

    def _restore(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                identity, steps = str(content[_IDENTITY]), int(content[_STEPS])
                arrays = {
                    name.removeprefix(_PREFIX): content[name]
                    for name in content.files
                    if name.startswith(_PREFIX)
                }
        except (
            OSError,
            EOFError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            zipfile.BadZipFile,
        ) as error:
            raise FileFormatError(
                f"{path} is not a state that lstm-edge stream saved ({error}); remove it to start anew"
            ) from error
        try:
            self._stream.restore(State(arrays, identity))
        except StateError as error:
            raise StateError(
                f"{path} holds the state of another model; name another file, or remove it ({error})"
            ) from error
        self._before = steps
