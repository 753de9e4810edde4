"""A stream over a sliding window: the last samples are run from the reset state at every step."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from .errors import InputError, UnsupportedError, counted
from .manifest import Array, Manifest

if TYPE_CHECKING:
    from .state import State

_Result = Array | dict[str, Array]


class SlidingStream:
    """One source of samples; created by ``Model.stream(window=...)``.

    Every result is that of the last ``window`` samples from the reset state, exactly as in a training on
    windows. It suits networks that were trained on windows from reset, and bidirectional ones. A step costs
    a run of the full window. It belongs to one thread.
    """

    delay = 0
    """Results are of the newest sample."""
    reset_every = None
    """It is never reset by itself."""

    def __init__(
        self, manifest: Manifest, run: Callable[[Array], tuple[dict[str, Array], object]], window: int
    ) -> None:
        """Open a stream without samples; ``run`` runs the file from the reset state.

        Raises:
            InputError: ``window`` is not a whole number from 1, or the file takes one step per call or has
                several inputs.
        """
        if type(window) is not int or window < 1:
            raise InputError(f"window is {window!r}, expected a whole number from 1")
        if manifest.sequence is None or len(manifest.data_inputs) != 1:
            raise InputError("a window requires a file with one input that has a sequence axis")
        self._run, self._manifest, self._window = run, manifest, window
        (self._spec,) = manifest.data_inputs
        self._samples: Array | None = None
        self._steps = 0

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened or reset."""
        return self._steps

    def step(self, sample: Array) -> _Result | None:
        """Take one time step.

        Args:
            sample: ``(I,)``.

        Returns:
            The output ``(C,)``, by name if there are several; None until the window is full.

        Raises:
            InputError: wrong rank, width or dtype; the samples before stay.
        """
        self._take(np.asarray(sample, self._spec.dtype)[None])
        return self._result()

    def process(self, chunk: Array) -> _Result | None:
        """Take many time steps ``(L, I)`` in one call, and return what the last of them gives.

        Returns:
            As ``step``.

        Raises:
            InputError: as ``step``; or the chunk is empty.
        """
        self._take(np.asarray(chunk, self._spec.dtype))
        return self._result()

    def reset(self) -> None:
        """Forget all samples."""
        self._samples, self._steps = None, 0

    @property
    def state(self) -> "State":
        """Not available: a window of samples is no state."""
        self._refuse()

    def restore(self, state: "State") -> None:  # noqa: ARG002  as that of Stream
        """Not available: a window of samples is no state."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnsupportedError(
            f"a sliding window has no state; feed the last {counted(self._window, 'sample')} again instead"
        )

    def _take(self, chunk: Array) -> None:
        axes = self._spec.axes
        sample = tuple(axis for axis in axes if axis not in (self._manifest.batch, self._manifest.sequence))
        if not len(chunk) or chunk.shape[1:] != sample:
            raise InputError(f"got samples {chunk.shape[1:]}, expected {sample}")
        kept = chunk if self._samples is None else np.concatenate([self._samples, chunk])
        self._samples, self._steps = kept[-self._window :], self._steps + len(chunk)

    def _result(self) -> _Result | None:
        assert self._samples is not None
        if len(self._samples) < self._window:
            return None
        axes, sequence = self._spec.axes, self._manifest.sequence
        assert sequence is not None
        place = [axis for axis in axes if axis != self._manifest.batch].index(sequence)
        x = np.moveaxis(self._samples, 0, place)
        if self._manifest.batch in axes:
            x = np.expand_dims(x, axes.index(self._manifest.batch))
        outputs, _ = self._run(np.ascontiguousarray(x))
        found = {spec.name: self._newest(outputs[spec.name], spec.axes) for spec in self._manifest.outputs}
        return found if len(found) != 1 else next(iter(found.values()))

    def _newest(self, output: Array, axes: tuple[int | str, ...]) -> Array:
        """Return the newest frame of the only row."""
        for axis in reversed(range(output.ndim)):
            if axes[axis] in (self._manifest.batch, self._manifest.sequence):
                output = output.take(-1, axis)
        return output
