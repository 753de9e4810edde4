"""A stream: one source of samples with its own state."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from ._core import Core, ExclusiveUse, InputArrays, as_array, refuse_not_finite
from .axes import learn_sizes, resolve, shape_of
from .binding import WORKSPACE, BoundCall, StateSets, retain_heap
from .chunks import behind, only, take_steps
from .errors import InputError
from .manifest import LONGEST, Array, Axes, TensorSpec
from .state import State

if TYPE_CHECKING:
    from .native.engine import NativeCall, NativeStates


_CLOSED = memoryview(b"")
"""A view that accepts no sample."""
WRONG_SAMPLE = (TypeError, ValueError, BufferError, NotImplementedError)
"""Exceptions of a memory view for an object of another shape or dtype, or that is not an array."""
Result = Array | dict[str, Array]
"""The only output that is not a state; a mapping by name where there are several."""


Part = tuple[dict[str, Array], int, int]
"""What a call gave, the age at which it began, and its steps."""


class Stream:
    """One source of samples; created by ``Model.stream``.

    It belongs to one thread at a time: a second one that calls it meanwhile gets a ``StateError``. An
    exception leaves its state as it was.
    """

    __slots__ = (
        "__weakref__",
        "_chunk_call",
        "_core",
        "_due",
        "_every",
        "_identity",
        "_manifest",
        "_pace",
        "_result",
        "_run",
        "_sets",
        "_slot",
        "_start",
        "_step_call",
        "_steps",
        "_use",
        "_window",
    )

    def __init__(self, core: Core, reset_every: "int | str | None" = None) -> None:
        """Open a stream at the reset state, to which it returns by itself as ``Model.stream`` says."""
        core.require_streamable()
        self._every = core.steps_to_reset(reset_every)
        self._core, self._manifest, self._identity, self._pace = core, core.manifest, core.identity, core.pace
        self._use = ExclusiveUse("stream")
        self._slot = self._use.slot
        self._count_from(0, 0)
        self._sets: StateSets | NativeStates = (
            StateSets(core.session, core.initial_states({})) if core.native is None else core.native.stream()
        )
        self._step_call: Any = None
        self._window = _CLOSED
        self._chunk_call: ShapedCall | None = None

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened, reset or restored; ``reset_every`` does not begin again."""
        return self._steps

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples; 0 unless frames need later steps."""
        return 0

    @property
    def reset_every(self) -> int | None:
        """Number of steps after which it is reset automatically; None for never."""
        return self._every

    @property
    def state(self) -> State:
        """A copy of the state, to keep, pickle, save or restore elsewhere."""
        with self._use:
            return State(self._sets.read(), self._identity, self._age)

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step.

        Args:
            sample: ``(I,)``, or a mapping by name where there are several inputs.

        Returns:
            The output ``(C,)``; its batch and sequence axes of size 1 are gone, ``k*N`` rows stay. None where
            the stream is behind (``delay``) and has no frame yet.

        Raises:
            InputError: wrong rank, width or dtype; NaN or infinity where the model checks.
            StateError: another thread is using this stream.
        """
        try:
            inside = self._slot.pop()
        except IndexError:
            raise self._use.error() from None
        try:
            try:
                self._window[:] = sample  # type: ignore[assignment]
            except WRONG_SAMPLE:
                self._prepare_step(sample)
            if self._steps >= self._due:
                with self._kept():
                    self._start_again()
                    self._step_call.take()
            elif self._run():
                raise self._step_call.refusal()
            self._steps += 1
            return self._result()
        finally:
            self._slot.append(inside)

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps in one call.

        Args:
            chunk: ``(L, I)``, or a mapping by name where there are several inputs.

        Returns:
            The output after the last step ``(C,)``; an output with a sequence axis keeps it, ``(L, C)``.
            Where the stream is behind (``delay``), these are the complete frames, ``(0, C)`` if none.
            A file that takes one step a call (no sequence axis) is called once a step, and one that starts
            again on the way (``reset_every``) once for each piece between.

        Raises:
            InputError: wrong rank, width or dtype; empty; NaN or infinity where the model checks.
            StateError: another thread is using this stream.
        """
        with self._use:
            if self._manifest.sequence is None:
                return self._process_by_step(chunk)
            if self._every is not None:
                found: Result = only(self._take(*self._to_graph(chunk, {})))
                return found
            call = self._chunk_call
            if call is None or not call.accept(chunk):
                call = self._chunk_call = self._prepare(chunk, call, {})
            call.take()
            self._steps += call.steps
            return call.result()

    def reset(self) -> None:
        """Reset all states."""
        with self._use:
            self._sets.write(self._core.initial_states({}))
            self._count_from(0, 0)

    def restore(self, state: State) -> None:
        """Continue from ``state``.

        Raises:
            StateError: it is of another model or another batch size; the stream keeps its own.
        """
        with self._use:
            sizes = {self._manifest.batch: 1} if self._manifest.batch else {}
            self._sets.write(self._core.check_state(state, sizes))
            self._count_from(0, state.age)

    @property
    def _age(self) -> int:
        """Steps since the state was at reset."""
        return self._steps - self._start

    def _count_from(self, steps: int, age: int) -> None:
        self._steps, self._start = steps, steps - age
        self._due = sys.maxsize if self._every is None else self._start + self._every

    def _start_again(self) -> None:
        """Put the states back to reset where it is time for it."""
        if self._steps >= self._due:
            self._sets.write(self._core.initial_states({}))
            self._count_from(self._steps, 0)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Put states and counts back where they were if the block raises."""
        before = {name: array.copy() for name, array in self._sets.read().items()}
        steps, age = self._steps, self._age
        try:
            yield
        except BaseException:
            self._sets.write(before)
            self._count_from(steps, age)
            raise

    def _prepare_step(self, sample: InputArrays) -> "ShapedCall":
        """Return the call of one step, with ``sample`` in it; the next one goes in through the window."""
        call: ShapedCall = self._prepare(sample, self._step_call, {self._manifest.sequence: 1})
        self._step_call, self._window = call, call.window
        self._run, self._result = call.run, call.result
        return call

    def _prepare(
        self, samples: InputArrays, call: "ShapedCall | None", known: Mapping[str | None, int]
    ) -> "ShapedCall":
        """Check ``samples`` and return the call of their shape (``call`` if it fits), with them in it."""
        if call is not None and call.cell is not None and not isinstance(samples, Mapping):
            only = self._core.data[0]
            array = as_array(only.name, samples, only.dtype)
            if array.shape == call.cell.shape:
                if self._core.check:
                    refuse_not_finite(only.name, array)
                call.cell[...] = array
                return call
        sizes, arrays = self._to_graph(samples, known)
        return self._call_of(sizes, arrays, call, drop_sequence=bool(known))

    def _to_graph(
        self, samples: InputArrays, known: Mapping[str | None, int]
    ) -> tuple[dict[str, int], dict[str, Array]]:
        """Check ``samples``; return the sizes of the named axes and the inputs in the file's layout."""
        sizes = {name: size for name, size in known.items() if name is not None}
        if self._manifest.batch is not None:
            sizes[self._manifest.batch] = 1
        dropped, converted = {self._manifest.batch, *known}, self._core.convert_inputs(samples)
        for spec, array in converted:
            core = tuple(axis for axis in spec.axes if axis not in dropped)
            axes = _axes_of_rank(array.ndim, core, spec.axes)
            learn_sizes(spec.name, axes, array.shape, sizes, self._manifest.chunk_ranges)
        return sizes, {spec.name: array.reshape(resolve(spec.axes, sizes) or ()) for spec, array in converted}

    def _call_of(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, Array],
        call: "ShapedCall | None",
        *,
        drop_sequence: bool,
    ) -> "ShapedCall":
        """Return the call of these inputs' shapes (``call`` if it fits), with them in it."""
        if call is None or not call.fits(arrays):
            return ShapedCall(self, sizes, arrays, drop_sequence=drop_sequence)
        call.write(arrays)
        return call

    def _take(self, sizes: Mapping[str, int], arrays: Mapping[str, Array]) -> dict[str, Any]:
        """Take steps in the file's layout, in pieces; return what they complete by output."""
        sequence, place = self._manifest.sequence or "", 0
        steps, parts = sizes[sequence], list[Part]()
        with self._kept():
            while place < steps:
                self._start_again()
                size = min(steps - place, self._due - self._steps)
                piece = arrays
                if size < steps:
                    piece = take_steps(self._pace.places, arrays, place, place + size)
                parts += self._take_piece({**sizes, sequence: size}, piece)
                self._steps += size
                place += size
        return self._joined(sizes, parts)

    def _take_piece(self, sizes: Mapping[str, int], arrays: Mapping[str, Array]) -> "list[Part]":
        """Take steps that may be taken together; return what they complete, a part or none."""
        call = self._chunk_call = self._call_of(sizes, arrays, self._chunk_call, drop_sequence=False)
        return [self._call(call, self._age)]

    def _call(self, call: "ShapedCall", age: int) -> "Part":
        call.take()
        return self._by_name(call.result()), age, call.steps

    def _by_name(self, result: Result) -> dict[str, Array]:
        return result if isinstance(result, dict) else {self._manifest.outputs[0].name: result}

    def _joined(self, sizes: Mapping[str, int], parts: "Sequence[Part]") -> dict[str, Any]:
        """Return each output's frames in all calls; of one without a time axis the last result."""
        if len(parts) == 1 and parts[0][1] >= self._pace.settled:
            return parts[0][0]
        return {spec.name: self._joined_output(spec, sizes, parts) for spec in self._manifest.outputs}

    def _joined_output(
        self, spec: TensorSpec, sizes: Mapping[str, int], parts: "Sequence[Part]"
    ) -> Array | None:
        manifest, pace = self._manifest, self._pace
        axis, results = pace.axes[spec.name], [(rows[spec.name], age, steps) for rows, age, steps in parts]
        if spec.name in manifest.counts:
            total: Array = np.sum([rows for rows, _, _ in results], axis=0, dtype=spec.dtype)
            return total
        if axis is None:
            ready = [rows for rows, age, steps in results if pace.early(spec.name, age) < steps // pace.unit]
            return ready[-1] if ready else None
        arrays = [behind(rows, axis, pace.early(spec.name, age)) for rows, age, _ in results]
        if not arrays:
            axes = tuple(each for each in spec.axes if each != manifest.batch)
            return np.zeros(shape_of(axes, {**sizes, **manifest.time_sizes(0)}), spec.dtype)
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)

    def _process_by_step(self, chunk: InputArrays) -> Result:
        given = {spec.name: array for spec, array in self._core.convert_inputs(chunk)}
        lengths = {array.shape[0] if array.ndim else 0 for array in given.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"got a chunk of {sorted(lengths)} steps, expected one number from 1")
        steps = lengths.pop()
        with self._kept():
            for index in range(steps):
                sample = {name: array[index] for name, array in given.items()}
                call = self._prepare_step(sample)
                self._start_again()
                call.take()
                self._steps += 1
        return call.result()


class ShapedCall:
    """A call of one shape, with the views through which samples go in and results come out."""

    __slots__ = (
        "cell",
        "dtype",
        "inputs",
        "refusal",
        "result",
        "run",
        "shape",
        "steps",
        "window",
    )

    def __init__(
        self,
        stream: Stream,
        sizes: Mapping[str, int],
        inputs: Mapping[str, Array],
        *,
        drop_sequence: bool,
    ) -> None:
        manifest, core, states = stream._manifest, stream._core, stream._sets
        self.steps = sizes.get(manifest.sequence or "", 1)
        sizes = {**sizes, LONGEST: self.steps, **manifest.time_sizes(self.steps)}
        if self.steps > 1:
            retain_heap(WORKSPACE * self.steps * states.nbytes)
        call: BoundCall | NativeCall
        self.refusal: Callable[[], InputError]
        """Returns the exception for a call that the native engine refused; onnxruntime raises its own."""
        if isinstance(states, StateSets):
            lengths = core.convert_lengths(None, sizes)
            call = BoundCall(core.session, manifest, states, inputs, sizes, lengths)
        else:
            call, self.refusal = states.call(inputs, sizes), states.engine.refusal
        self.inputs: dict[str, Array] | None = call.inputs
        """None where ``cell`` is enough: a native stream's only input has no axis of free size but time."""
        self.run: Callable[[], int | None] = call.run
        """Makes the call; what is true is a refusal, and no state has changed then."""
        dropped = {manifest.batch, *((manifest.sequence, LONGEST) if drop_sequence else ())} - {None}
        views = {
            spec.name: _without(call.outputs[spec.name], spec.axes, dropped) for spec in manifest.outputs
        }
        self.result: Callable[[], Result]
        """Returns copies of the outputs, which the next call overwrites."""
        if len(views) == 1:
            self.result = next(iter(views.values())).copy
        else:
            self.result = partial(_copies, views)
        self.cell: Any = None
        """A view of the only input for one sample or chunk; None where there are several inputs."""
        self.shape: tuple[int, ...] | None = None
        """The shape that may be written there unchecked, if any."""
        self.dtype: np.dtype[Any] | None = None
        if len(stream._core.data) == 1:
            spec = stream._core.data[0]
            self.cell = _without(call.inputs[spec.name], spec.axes, dropped)
            if not isinstance(states, StateSets):
                self.inputs = None
            self.dtype = self.cell.dtype
            self.shape = None if stream._core.check else self.cell.shape
        self.window = _CLOSED if self.shape is None or len(self.shape) != 1 else memoryview(self.cell)
        """Accepts a sample of exactly this shape and dtype and refuses all else, in one call."""

    def accept(self, samples: InputArrays) -> bool:
        """Take samples of exactly this shape and dtype; return whether they are."""
        if type(samples) is ndarray and samples.shape == self.shape and samples.dtype is self.dtype:
            self.cell[...] = samples
            return True
        return False

    def fits(self, arrays: Mapping[str, Array]) -> bool:
        """Tell whether these inputs, in the file's layout, have the shapes of this call."""
        if self.inputs is None:
            return all(array.size == self.cell.size for array in arrays.values())
        return all(self.inputs[name].shape == array.shape for name, array in arrays.items())

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Write inputs that fit."""
        for name, array in arrays.items():
            if self.inputs is None:
                self.cell[...] = array.reshape(self.cell.shape)
            else:
                self.inputs[name][...] = array

    def take(self) -> None:
        """Make the call; raise where it is refused."""
        if self.run():
            raise self.refusal()


def _copies(views: Mapping[str, Array]) -> dict[str, Array]:
    return {name: view.copy() for name, view in views.items()}


def _axes_of_rank(rank: int, core: Axes, full: Axes) -> Axes:
    """Return the axes of an array of ``rank``: the core ones, all, or the core without axes of size 1."""
    bare = tuple(axis for axis in core if axis != 1)
    return next((axes for axes in (core, full, bare) if len(axes) == rank), core)


def _without(array: Array, axes: Axes, dropped: set[str | None]) -> Array:
    """Return a view of ``array`` without the axes named in ``dropped``."""
    return array.reshape([size for size, axis in zip(array.shape, axes, strict=True) if axis not in dropped])
