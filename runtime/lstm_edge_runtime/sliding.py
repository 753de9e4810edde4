"""A stream over a sliding window: the last samples are run from the reset state at every step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .axes import layouts
from .errors import InputError
from .manifest import Array, Manifest


class SlidingStream:
    """One source of samples for one thread; created by ``Model.stream(window=...)``.

    Every result is that of the last ``window`` samples from the reset state, exactly as in a training on
    windows. A step costs a run of the full window.
    """

    def __init__(
        self, manifest: Manifest, run: Callable[[Array], tuple[dict[str, Array], object]], window: int
    ) -> None:
        """Open a stream without samples; ``run`` runs the file from the reset state."""
        if type(window) is not int or window < 1:
            raise InputError(f"window is {window!r}, expected a whole number from 1")
        if manifest.sequence is None or len(manifest.data_inputs) != 1:
            raise InputError("a window requires a file with one input that has a sequence axis")
        (self._input,), self._outputs = (
            layouts(specs, manifest) for specs in (manifest.data_inputs, manifest.outputs)
        )
        self._run, self._window = run, window
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._samples: Array = np.zeros((0, *self._input.inner), self._input.dtype)
        self.steps_seen = 0
        """Time steps taken since it was opened or reset."""

    def step(self, sample: npt.ArrayLike) -> Any:
        """Take one time step ``(I,)``; return the output ``(C,)``, by name if there are several.

        None until the window is full; ``InputError`` for another width, and the samples before stay.
        """
        return self.process(np.asarray(sample)[None])

    def process(self, chunk: npt.ArrayLike) -> Any:
        """Take many time steps ``(L, I)`` and return what the last of them gives; as ``step``."""
        array = np.asarray(chunk, self._input.dtype)
        if not len(array) or array.shape[1:] != self._input.inner:
            raise InputError(f"got samples {array.shape[1:]}, expected {self._input.inner}")
        self._samples = np.concatenate([self._samples, array])[-self._window :]
        self.steps_seen += len(array)
        if len(self._samples) < self._window:
            return None
        outputs, _ = self._run(np.ascontiguousarray(self._input.to_file(self._samples[None])))
        rows = {output.name: output.from_file(outputs[output.name])[0] for output in self._outputs}
        found = {
            output.name: rows[output.name][-1] if output.timed else rows[output.name]
            for output in self._outputs
        }
        return found if len(found) > 1 else next(iter(found.values()))
