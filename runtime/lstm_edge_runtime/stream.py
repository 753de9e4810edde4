"""A stream: one source of samples that owns its state."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from ._core import Core
from ._memory import WORKSPACE, expect_blocks
from ._turns import Turns
from .axes import learn_sizes, resolve
from .binding import BoundCall, StateSets
from .errors import InputError
from .inputs import Samples, as_array, by_name, refuse_not_finite
from .manifest import Axes
from .ort import run_error
from .state import State

if TYPE_CHECKING:
    from .native.engine import NativeCall, NativeStates

__all__ = ["Result", "Stream"]

Array = npt.NDArray[Any]
_SHUT = memoryview(b"")
"""A window that takes nothing."""
_NO_FIT = (TypeError, ValueError, BufferError)
"""What a memory view raises for an object of another shape or dtype, or that is no array."""
Result = Array | dict[str, Array]
"""The only output that is not a state; a mapping by name where there are several."""


class Stream:
    """One source of samples; ``Model.stream`` makes it.

    It belongs to one thread at a time: a second one that calls it meanwhile gets a ``StateError``. An
    exception leaves its state as it was.
    """

    def __init__(self, core: Core) -> None:
        """Open a stream at the reset state."""
        core.require_streamable()
        self._core, self._manifest, self._identity = core, core.manifest, core.identity
        self._turns = Turns("stream")
        self._token = self._turns.token
        self._steps = 0
        self._sets: StateSets | NativeStates = (
            StateSets(core.session, core.start({})) if core.native is None else core.native.stream()
        )
        self._step_call: Any = None
        self._window = _SHUT
        self._chunk_call: _ShapedCall | None = None

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened, reset or restored."""
        return self._steps

    @property
    def state(self) -> State:
        """A copy of the state, to keep, pickle, save or restore elsewhere."""
        with self._turns:
            return State(self._sets.read(), self._identity)

    def step(self, sample: Samples) -> Result:
        """Take one time step.

        Args:
            sample: ``(I,)``, or a mapping by name where there are several inputs.

        Returns:
            The output ``(C,)``; its batch and sequence axes of size 1 are gone, ``k*N`` rows stay.

        Raises:
            InputError: another rank, width or dtype; NaN or infinity where the model checks.
            StateError: another thread is using this stream.
        """
        try:
            turn = self._token.pop()
        except IndexError:
            raise self._turns.refusal() from None
        try:
            try:
                self._window[:] = sample  # type: ignore[assignment]
                call: _ShapedCall = self._step_call
            except _NO_FIT:
                call = self._prepare_step(sample)
            sets = call.states
            try:
                refused = call.runs[sets.front]()
            except Exception as error:
                raise run_error(error) from error
            if refused:
                raise call.refusal()
            sets.front = 1 - sets.front
            self._steps += 1
            return call.result()
        finally:
            self._token.append(turn)

    def process(self, chunk: Samples) -> Result:
        """Take many time steps in one call.

        Args:
            chunk: ``(L, I)``, or a mapping by name where there are several inputs.

        Returns:
            The output after the last step ``(C,)``; an output with a sequence axis keeps it, ``(L, C)``.
            A file that takes one step a call (no sequence axis) is called once a step.

        Raises:
            InputError: another rank, width or dtype; empty; NaN or infinity where the model checks.
            StateError: another thread is using this stream.
        """
        with self._turns:
            if self._manifest.sequence is None:
                return self._process_by_step(chunk)
            call = self._chunk_call
            if (
                call is not None
                and type(chunk) is ndarray
                and chunk.shape == call.shape
                and chunk.dtype is call.dtype
            ):
                call.cell[...] = chunk
            else:
                call = self._chunk_call = self._prepare(chunk, call, {})
            call.run()
            self._steps += call.steps
            return call.result()

    def reset(self) -> None:
        """Put every state back to its reset value."""
        with self._turns:
            self._sets.write(self._core.start({}))
            self._steps = 0

    def restore(self, state: State) -> None:
        """Go on from ``state``.

        Raises:
            StateError: it belongs to another model or another batch size; the stream keeps its own.
        """
        with self._turns:
            sizes = {self._manifest.batch: 1} if self._manifest.batch else {}
            self._sets.write(self._core.admit(state, sizes))
            self._steps = 0

    def _prepare_step(self, sample: Samples) -> "_ShapedCall":
        """Return the call of one step, with ``sample`` in it; the next one like it goes in by the window."""
        call: _ShapedCall = self._prepare(sample, self._step_call, {self._manifest.sequence: 1})
        self._step_call, self._window = call, call.window
        return call

    def _prepare(
        self, samples: Samples, call: "_ShapedCall | None", known: Mapping[str | None, int]
    ) -> "_ShapedCall":
        """Check ``samples``, give the call of their shape (``call`` if it fits), and fill it."""
        if call is not None and call.cell is not None and not isinstance(samples, Mapping):
            only = self._core.data[0]
            array = as_array(only.name, samples, only.dtype)
            if array.shape == call.cell.shape:
                if self._core.check:
                    refuse_not_finite(only.name, array)
                call.cell[...] = array
                return call
        sizes = {name: size for name, size in known.items() if name is not None}
        if self._manifest.batch is not None:
            sizes[self._manifest.batch] = 1
        arrays = {}
        given = by_name(samples, self._core.data)
        for spec in self._core.data:
            array = as_array(spec.name, given[spec.name], spec.dtype)
            dropped = {self._manifest.batch, *known}
            core = tuple(axis for axis in spec.axes if axis not in dropped)
            axes = _axes_of_rank(array.ndim, core, spec.axes)
            learn_sizes(spec.name, axes, array.shape, sizes)
            arrays[spec.name] = array
            if self._core.check:
                refuse_not_finite(spec.name, array)
        shapes = {spec.name: resolve(spec.axes, sizes) or () for spec in self._core.data}
        if call is None or any(call.inputs[name].shape != shape for name, shape in shapes.items()):
            call = _ShapedCall(self, sizes, shapes, drop_sequence=bool(known))
        for name, array in arrays.items():
            call.inputs[name][...] = array.reshape(shapes[name])
        return call

    def _process_by_step(self, chunk: Samples) -> Result:
        before = {name: array.copy() for name, array in self._sets.read().items()}
        values = by_name(chunk, self._core.data)
        given = {spec.name: as_array(spec.name, values[spec.name], spec.dtype) for spec in self._core.data}
        lengths = {array.shape[0] if array.ndim else 0 for array in given.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"a chunk of {sorted(lengths)} steps came, expected one number of steps, from 1")
        steps = lengths.pop()
        try:
            for index in range(steps):
                sample = {name: array[index] for name, array in given.items()}
                call = self._prepare_step(sample)
                call.run()
        except BaseException:
            self._sets.write(before)
            raise
        self._steps += steps
        return call.result()


class _ShapedCall:
    """A call of one shape, with the views through which samples go in and results come out."""

    def __init__(
        self,
        stream: Stream,
        sizes: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        drop_sequence: bool,
    ) -> None:
        manifest, core, self.states = stream._manifest, stream._core, stream._sets
        self.steps = sizes.get(manifest.sequence or "", 1)
        if self.steps > 1:
            expect_blocks(WORKSPACE * self.steps * self.states.nbytes)
        call: BoundCall | NativeCall
        if isinstance(self.states, StateSets):
            valid = core.valid_steps(None, sizes)
            call = BoundCall(core.session, manifest, self.states, shapes, sizes, valid)
        else:
            call = self.states.call(shapes, sizes)
        self.inputs, self.outputs, self.runs, self.run = call.inputs, call.outputs, call.runs, call.run
        self.refusal = call.refusal
        dropped = {manifest.batch, manifest.sequence if drop_sequence else None} - {None}
        self._views = {
            spec.name: _without(self.outputs[spec.name], spec.axes, dropped) for spec in manifest.outputs
        }
        self.result: Callable[[], Result] = self._copies
        """Gives copies of the outputs, which the next call overwrites."""
        if len(self._views) == 1:
            self.result = next(iter(self._views.values())).copy
        self.cell: Any = None
        """Where the only input's samples go; None where there are several."""
        self.shape: tuple[int, ...] | None = None
        """The shape that may go there unchecked, if any."""
        self.dtype: np.dtype[Any] | None = None
        if len(stream._core.data) == 1:
            spec = stream._core.data[0]
            self.cell = _without(self.inputs[spec.name], spec.axes, dropped)
            self.dtype = self.cell.dtype
            self.shape = None if stream._core.check else self.cell.shape
        self.window = _SHUT if self.shape is None or len(self.shape) != 1 else memoryview(self.cell)
        """Takes a sample of this very shape and dtype and refuses all else, in one call."""

    def _copies(self) -> dict[str, Array]:
        return {name: view.copy() for name, view in self._views.items()}


def _axes_of_rank(rank: int, core: Axes, full: Axes) -> Axes:
    """Return the axes that an array of ``rank`` has: the core ones, all, or the core without fixed ones."""
    bare = tuple(axis for axis in core if axis != 1)
    return next((axes for axes in (core, full, bare) if len(axes) == rank), core)


def _without(array: Array, axes: Axes, dropped: set[str | None]) -> Array:
    """Return a view of ``array`` without the axes that are called like one of ``dropped``."""
    return array.reshape([size for size, axis in zip(array.shape, axes, strict=True) if axis not in dropped])
