"""A sliding window: every result is computed from the last samples and the reset
state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.ma import MaskedArray

from .arrays import InputArrays
from .axes import Layout
from .engine import Window
from .errors import InputError
from .manifest import Array
from .results import Result, only
from .rules import Entry
from .samples import CLOSED, WRONG_SAMPLE, SampleReader, Samples


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
        allowed = manifest.ranges.get(manifest.sequence)
        if allowed is not None and allowed.nearest(window) != window:
            raise InputError(
                f"window is {window}, this file accepts {allowed} steps; use"
                f" {allowed.nearest(window)}"
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
        self._reader = SampleReader(model, many=False, keeps_steps=True)
        self._entry = Entry()
        self._recent: _Recent | None = None
        """The window in memory that the engine reads; None before the first full
        window, whose call checks the sizes."""
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
        if isinstance(sample, MaskedArray):  # a memory view would take it unmasked
            self._reader.read(sample, 1, step=True)
        with self._entry:
            recent = self._recent
            if recent is None:
                return self._take(self._reader.read(sample, 1, step=True))
            try:
                recent.cell[:] = sample  # type: ignore[assignment]
            except WRONG_SAMPLE:
                samples = self._reader.read(sample, 1, step=True)
                recent.put(samples.arrays[self._input.name])
            result = recent.result()
            self._seen_steps += 1
            return result

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
        """The last samples ``(1, steps, ...)``, at most a window; those of ``_recent``
        replace them."""
        self._recent = None
        self._seen_steps = 0

    def _take(self, samples: Samples) -> Result | None:
        """Run the window that ends with ``samples``, then keep it."""
        new = samples.arrays[self._input.name]
        recent = self._recent
        old = self._samples if recent is None else recent.samples()
        window = np.concatenate([old, new], axis=1)[:, -self._window :]
        result = self._result(window)
        self._samples = window
        self._seen_steps += samples.steps
        if result is not None and self._engine.reads_windows:
            self._recent = self._keep(window)
        return result

    def _keep(self, window: Array) -> "_Recent":
        """Return a full window in memory that the engine reads."""
        memory = np.concatenate([window, np.zeros_like(window)], axis=1)
        calls = self._engine.window(memory, self._window)
        return _Recent(
            memory,
            calls,
            self._engine.outputs,
            takes_views=memory.ndim == 3 and not self._reader.checks_values,
        )

    def _result(self, window: Array) -> Result | None:
        """Return the last result of a window; None if it is not full."""
        missing = self._window - window.shape[1]
        is_full = missing == 0
        # an integer may be outside a table, which only the engine knows
        if not (is_full or window.dtype.kind in "iu"):
            return None
        zeros = np.zeros((1, missing, *window.shape[2:]), window.dtype)
        array = np.concatenate([zeros, window], axis=1)
        outputs, _ = self._run(np.ascontiguousarray(self._input.to_file(array)))
        if not is_full:
            return None
        results = {}
        for output in self._engine.outputs:
            row = output.from_file(outputs[output.name])[0]
            results[output.name] = row[-1] if output.timed else row
        return only(results, len(results))


class _Recent:
    """The last samples, side by side in memory for two windows; new ones follow, and at
    its end the last window moves to the front.
    """

    __slots__ = ("_calls", "_end", "_flat", "_memory", "_results", "_window", "cell")

    def __init__(
        self,
        memory: Array,
        calls: Window,
        outputs: Sequence[Layout],
        *,
        takes_views: bool,
    ) -> None:
        """Begin with a full window in the first half of ``memory``."""
        self._memory = memory
        self._calls = calls
        self._window = self._end = memory.shape[1] // 2
        self._flat = memory.reshape(-1).data if takes_views else CLOSED
        self._results = {
            output.name: (
                calls.outputs[output.name][0, -1, ...]
                if output.timed
                else calls.outputs[output.name][0, ...]
            )
            for output in outputs
        }
        self._make_room()

    def samples(self) -> Array:
        """Return the last window ``(1, steps, ...)``."""
        return self._memory[:, self._end - self._window : self._end]

    def put(self, sample: Array) -> None:
        """Write a sample ``(1, 1, ...)`` that the view of its memory refuses."""
        self._memory[:, self._end] = sample[:, 0]

    def result(self) -> Result | None:
        """Run the window that ends with the sample written last; keep that sample."""
        self._calls.run(self._end + 1 - self._window)
        self._end += 1
        self._make_room()
        return only(
            {name: view.copy() for name, view in self._results.items()},
            len(self._results),
        )

    def _make_room(self) -> None:
        """Make room for a sample; ``cell`` is a view that accepts it unchanged."""
        if self._end == self._memory.shape[1]:
            self._memory[:, : self._window] = self.samples()
            self._end = self._window
        width = len(self._flat) // self._memory.shape[1]
        self.cell = self._flat[self._end * width : (self._end + 1) * width]
