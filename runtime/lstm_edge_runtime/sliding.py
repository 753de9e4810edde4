"""A sliding window: every result is computed from the last samples and the reset
state.
"""

from typing import Any

import numpy as np

from .arrays import InputArrays
from .errors import InputError
from .manifest import Array
from .results import Result, only
from .rules import Entry
from .samples import SampleReader, Samples


class SlidingStream:
    """One source of samples, for one thread at a time; created by
    ``Model.stream(window=...)``.

    Every result is computed from the last ``window`` samples and the reset state, as in
    training on windows. A step costs a run of the full window. An exception leaves the
    samples as they were.
    """

    def __init__(self, model: Any, window: int) -> None:
        """Open a stream without samples; see ``Model.stream``."""
        manifest = model.manifest
        self._engine = model._engine
        if type(window) is not int or window < 1:
            raise InputError(f"window is {window!r}, expected a whole number from 1")
        if manifest.sequence is None or len(manifest.data_inputs) != 1:
            raise InputError(
                "a window requires a file with one input that has a sequence axis"
            )
        if window % manifest.unit:
            raise InputError(
                f"window is {window}, expected a multiple of {manifest.unit}, the unit"
                " of this file"
            )
        for output in self._engine.outputs:
            frames = window // manifest.unit * output.frames
            if frames <= output.delay:
                least = (output.delay // output.frames + 1) * manifest.unit
                raise InputError(
                    f"window is {window}, but {output.name} has a delay of"
                    f" {output.delay} frames; use at least {least}"
                )
        (self._input,) = self._engine.inputs
        self._run = model.run
        self._window = window
        self._reader = SampleReader(model, many=False)
        self._entry = Entry()
        self._empty()

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened or reset."""
        return self._seen_steps

    def reset(self) -> None:
        """Forget all samples."""
        with self._entry:
            self._empty()

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step ``(I,)``; return the output ``(C,)``, by name if there are
        several.

        None until the window is full.

        Raises:
            InputError, StateError: as ``Stream.step``.
        """
        with self._entry:
            return self._take(self._reader.read(sample, 1, step=True))

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps ``(L, I)`` and return the result of the last one; as
        ``step``.
        """
        with self._entry:
            return self._take(self._reader.read(chunk, 1, step=False))

    def _empty(self) -> None:
        """Forget all samples."""
        shape = (1, 0, *self._input.inner)
        self._samples: Array = np.zeros(shape, self._input.dtype)
        """The last samples ``(1, steps, ...)``, at most a window."""
        self._seen_steps = 0

    def _take(self, samples: Samples) -> Result | None:
        """Run the window that ends with ``samples``, then keep it."""
        new = samples.arrays[self._input.name]
        window = np.concatenate([self._samples, new], axis=1)[:, -self._window :]
        result = self._result(window)
        self._samples = window
        self._seen_steps += samples.steps
        return result

    def _result(self, window: Array) -> Result | None:
        """Return the last result of a window; None if it is not full."""
        unit = self._engine.manifest.unit
        steps = window.shape[1] - window.shape[1] % unit
        is_full = steps == self._window
        # an integer may be outside a table, which only the engine knows
        if not steps or not (is_full or window.dtype.kind in "iu"):
            return None
        array = np.ascontiguousarray(self._input.to_file(window[:, -steps:]))
        outputs, _ = self._run(array)
        if not is_full:
            return None
        results = {}
        for output in self._engine.outputs:
            row = output.from_file(outputs[output.name])[0]
            results[output.name] = row[-1] if output.timed else row
        return only(results, len(results))
