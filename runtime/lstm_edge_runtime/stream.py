"""A stream: one source of samples, which owns its states.

A unit is one bound call into the engine, whose input is also where the samples of an
incomplete unit are kept. The first ``delay`` frames of each output are dropped.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.ma import MaskedArray

from .arrays import InputArrays, check_samples, check_state, reset_states
from .axes import Layout
from .engine import Arrays, Call
from .errors import InputError
from .manifest import Array
from .results import Result, only
from .rules import NEVER, Entry, check_streamable, in_use, reset_interval
from .samples import CLOSED, WRONG_SAMPLE, SampleReader, Samples, copier, for_caller
from .state import State

_ARRAY = np.ndarray
"""The type of most samples: a global name is found faster than an attribute."""
_ROW = np.zeros(1, np.int64)
"""The row of a single source."""


class Stream:
    """One source of samples, for one thread at a time; created by ``Model.stream``.

    An exception leaves its state as it was.
    """

    __slots__ = (
        "__weakref__",
        "_chunk",
        "_engine",
        "_entry",
        "_every",
        "_free",
        "_full_from",
        "_identity",
        "_manifest",
        "_reader",
        "_result",
        "_run",
        "_seen_steps",
        "_slow_from",
        "_start",
        "_states",
        "_unit",
        "_unit_call",
        "_window",
        "_windows",
    )

    def __init__(self, model: Any, reset_every: Any = None) -> None:
        """Open a stream at the reset state; see ``Model.stream``."""
        self._engine = model._engine
        self._manifest = self._engine.manifest
        check_streamable(self._manifest)
        self._every = reset_interval(reset_every)
        self._identity = model.identity
        self._reader = SampleReader(model, many=False)
        self._states = self._engine.states(None)
        self._unit = self._manifest.unit
        self._full_from = self._unit * max(
            (output.delay for output in self._engine.outputs), default=0
        )
        """Upper bound of the number of steps after which every unit has all its
        frames."""
        self._entry = Entry()
        self._free = self._entry.free
        self._unit_call: Call | None = None
        """The call of a unit; its inputs hold the samples of an incomplete unit."""
        self._windows = [CLOSED] * self._unit
        """For each step of a unit, a view that accepts its sample unchanged."""
        self._window = CLOSED
        """The first of them."""
        self._chunk: _Chunk | None = None
        self._begin(0, 0)

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened, reset or restored; ``reset_every`` does
        not begin again.
        """
        return self._seen_steps

    @property
    def state(self) -> State:
        """A copy of the state, to keep, pickle, save or restore elsewhere."""
        with self._entry:
            arrays = self._states.read(_ROW)
            return State(
                arrays=arrays,
                identity=self._identity,
                age=self._age,
                samples=self._samples(),
            )

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step.

        Args:
            sample: ``(I,)``, or a mapping by name where there are several inputs.

        Returns:
            The output ``(C,)``; its batch and time axes are gone, ``k*N`` rows stay.
            None where this step completes no frame (``delay``, or a unit of several
            steps); ``(frames, C)`` if a unit has several. With several outputs, a
            mapping of those that have a frame.

        Raises:
            InputError: wrong rank, width or dtype; NaN or infinity where the model
                checks.
            StateError: another thread is using this stream.
        """
        if type(sample) is not _ARRAY and isinstance(sample, MaskedArray):
            # a memory view would take it unmasked
            self._reader.read(sample, 1, step=True)
        try:
            self._free.pop()
        except IndexError:
            raise in_use() from None
        try:
            if self._seen_steps >= self._slow_from:
                return self._general_step(sample)
            try:
                self._window[:] = sample  # type: ignore[assignment]
            except WRONG_SAMPLE:
                self._write(sample, 0)
            if self._run():
                raise self._engine.refusal()
            self._seen_steps += 1
            return self._result()
        finally:
            self._free.append(None)

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps ``(L, I)`` in one call, by name where there are several
        inputs.

        Returns:
            The output after the last step ``(C,)``; an output with a time axis keeps
            it: all complete frames ``(frames, C)``, ``(0, C)`` if there is none. With
                several outputs a mapping.

        Raises:
            InputError, StateError: as ``step``; an empty chunk; a file that takes one
                step per call.
        """
        with self._entry:
            if self._manifest.sequence is None:
                raise InputError("this file takes one step per call; use step()")
            bound = self._chunk
            if (
                bound is not None
                and bound.fits(chunk)
                and self._is_one_call(bound.steps)
            ):
                bound.cell[...] = chunk
            else:
                samples = self._reader.read(chunk, 1, step=False)
                if not self._is_one_call(samples.steps):
                    return self._process_segments(samples)
                bound = self._chunk = self._fill(bound, samples)
            if bound.run():
                raise self._engine.refusal()
            self._seen_steps += bound.steps
            return bound.result()

    def reset(self) -> None:
        """Reset all states."""
        with self._entry:
            self._states.write(_ROW, reset_states(self._manifest, 1))
            self._begin(0, 0)

    def restore(self, state: State) -> None:
        """Continue from ``state``; ``StateError`` if it is of another model, and the
        stream keeps its own.
        """
        with self._entry:
            arrays = check_state(state, self._manifest, identity=self._identity, rows=1)
            samples = check_samples(state, self._manifest)
            if samples:
                self._put_samples(samples)
            self._states.write(_ROW, arrays)
            self._begin(0, state.age)

    @property
    def _age(self) -> int:
        """The number of steps since the reset."""
        return self._seen_steps - self._start

    def _begin(self, seen_steps: int, age: int) -> None:
        """Count from ``seen_steps`` steps and an age on."""
        self._seen_steps = seen_steps
        self._start = seen_steps - age
        has_all_frames = self._unit == 1 and age >= self._full_from
        self._slow_from = (
            min(self._start + self._every, NEVER) if has_all_frames else -1
        )
        """Step count from which ``step`` must take the slow path."""

    # --- One step

    def _general_step(self, sample: InputArrays) -> Result | None:
        """Take a step that may follow a reset, be kept, or drop first frames."""
        if self._age >= self._every:
            with self._unchanged_by_errors():
                self._reset_states()
                return self._general_step(sample)
        position = self._age % self._unit
        try:
            self._windows[position][:] = sample
        except WRONG_SAMPLE:
            self._write(sample, position)
        if position + 1 < self._unit:
            self._seen_steps += 1
            return None
        return self._complete_unit()

    def _complete_unit(self) -> Result | None:
        """Run the unit whose last sample was written; return its frames."""
        if self._run():
            raise self._engine.refusal()
        units = self._age // self._unit
        self._seen_steps += 1
        if units * self._unit >= self._full_from:
            if self._unit == 1:
                self._begin(self._seen_steps, self._age)
            return self._result()
        call = self._bound_unit
        frames: dict[str, Any] = {}
        for output in self._engine.outputs:
            valid = _without_delay(
                call.outputs[output.name][0], output, units_before=units, units=1
            )
            if valid is not None and len(valid):
                frames[output.name] = _frames_for_caller(valid, output, step=True)
        return only(frames, len(self._engine.outputs))

    def _write(self, sample: InputArrays, position: int) -> None:
        """Write a sample that its view does not accept unchanged."""
        samples = self._reader.read(sample, 1, step=True)
        self._bind_unit(samples.sizes, position)
        self._copy_samples(samples.arrays, position, 1)

    def _copy_samples(self, arrays: Arrays, position: int, steps: int) -> None:
        """Copy samples of ``steps`` steps into the unit, from ``position`` on."""
        inputs = self._bound_unit.inputs
        for layout in self._engine.inputs:
            target = inputs[layout.name]
            if layout.timed and steps < self._unit:
                target = target[:, position : position + steps]
            target[...] = arrays[layout.name]

    @property
    def _bound_unit(self) -> Call:
        """Return the engine call of one unit, bound to this stream's arrays."""
        assert self._unit_call is not None
        return self._unit_call

    def _bind_unit(self, sizes: Mapping[str, int], position: int) -> None:
        """Bind the call of a unit for axes of these sizes, unless it is bound."""
        call = self._unit_call
        if call is not None and call.sizes == sizes:
            return
        sizes = dict(sizes)
        if self._manifest.sequence is not None:
            sizes[self._manifest.sequence] = self._unit
        if call is not None and call.sizes == sizes:
            return
        if position:
            raise InputError(
                f"the sizes of axes changed within a unit of {self._unit} steps; give"
                " all its samples in one size"
            )
        call = self._unit_call = self._states.bind(sizes)
        self._run = call.run
        self._result = copier(call.outputs, self._engine.outputs, step=True, row=0)
        self._windows = [CLOSED] * self._unit
        if len(self._engine.inputs) == 1 and not self._reader.checks_values:
            self._windows = _windows(call, self._engine.inputs[0], self._unit)
        self._window = self._windows[0]

    # --- Chunks

    def _is_one_call(self, steps: int) -> bool:
        """Return True if whole units follow whole units, without a reset or a dropped
        frame.
        """
        age = self._seen_steps - self._start
        unit = self._unit
        if age < self._full_from or age + steps > self._every:
            return False
        return unit == 1 or not (steps % unit or age % unit)

    def _fill(self, bound: "_Chunk | None", samples: Samples) -> "_Chunk":
        """Return the call for chunks of this size with samples in it: ``bound`` where
        it fits.
        """
        if bound is None or bound.sizes != samples.sizes:
            inputs = self._engine.inputs
            call = self._states.bind(samples.sizes)
            cell = None
            if len(inputs) == 1 and not self._reader.checks_values:
                array = call.inputs[inputs[0].name]
                cell = for_caller(array, inputs[0], step=False)[0]
            bound = _Chunk(
                sizes=call.sizes,
                steps=samples.steps,
                inputs=call.inputs,
                run=call.run,
                result=copier(call.outputs, self._engine.outputs, step=False, row=0),
                cell=cell,
            )
        for name, array in samples.arrays.items():
            bound.inputs[name][...] = array
        return bound

    def _process_segments(self, samples: Samples) -> Result | None:
        """Take steps in segments: up to the next whole unit, whole units, and up to a
        reset.
        """
        outputs = self._engine.outputs
        collected: dict[str, list[Array]] = {output.name: [] for output in outputs}
        age = self._age
        resets = age + samples.steps > self._every
        calls = (age % self._unit + samples.steps) // self._unit
        if resets or calls > 1:
            with self._unchanged_by_errors():
                self._take_segments(samples, collected)
        else:
            self._take_segments(samples, collected)
        frames: dict[str, Any] = {}
        for output in outputs:
            arrays = collected[output.name]
            if output.name in self._manifest.counts:
                frames[output.name] = np.asarray(sum(arrays), output.dtype)
            elif output.timed:
                none = np.zeros((0, *output.inner), output.dtype)
                joined = np.concatenate(arrays or [none])
                frames[output.name] = _frames_for_caller(joined, output, step=False)
            elif arrays:
                frames[output.name] = arrays[-1]
        return only(frames, len(outputs))

    def _take_segments(
        self, samples: Samples, collected: Mapping[str, list[Array]]
    ) -> None:
        """Take all steps; append frames, or the last result, to ``collected`` by output."""
        unit = self._unit
        start = 0
        while start < samples.steps:
            if self._age >= self._every:
                self._reset_states()
            age = self._age
            steps = min(samples.steps - start, self._every - age)
            position = age % unit
            if position == 0 and steps >= unit:
                steps -= steps % unit
                sizes = {**samples.sizes, **self._manifest.axis_sizes(steps=steps)}
                arrays = self._cut(samples, start, steps)
                outputs = self._states.run(_ROW, arrays, sizes)
            else:
                steps = min(steps, unit - position)
                self._bind_unit(samples.sizes, position)
                taken = self._cut(samples, start, steps)
                self._copy_samples(taken, position, steps)
                outputs = {}
                if position + steps == unit:
                    if self._run():
                        raise self._engine.refusal()
                    outputs = self._bound_unit.outputs
            for output in self._engine.outputs if outputs else ():
                units = (position + steps) // unit
                array = np.array(outputs[output.name][0])
                valid = _without_delay(
                    array, output, units_before=age // unit, units=units
                )
                if valid is not None:
                    collected[output.name].append(valid if output.timed else valid[-1])
            self._begin(self._seen_steps + steps, age + steps)
            start += steps

    def _cut(self, samples: Samples, start: int, steps: int) -> dict[str, Array]:
        """Return the inputs of some steps."""
        arrays = {}
        for layout in self._engine.inputs:
            array = samples.arrays[layout.name]
            timed = array[:, start : start + steps] if layout.timed else array
            arrays[layout.name] = timed
        return arrays

    # --- States

    def _reset_states(self) -> None:
        """Set all states to their reset values and begin a new age."""
        self._states.write(_ROW, reset_states(self._manifest, 1))
        self._begin(self._seen_steps, 0)

    def _samples(self) -> dict[str, Array]:
        """Return copies of the samples of an incomplete unit, ``(steps, ...)``."""
        position = self._age % self._unit
        if not position:
            return {}
        inputs = self._bound_unit.inputs
        return {
            layout.name: inputs[layout.name][0, :position].copy()
            for layout in self._engine.inputs
            if layout.timed
        }

    def _put_samples(self, samples: Arrays) -> None:
        """Write samples of an incomplete unit, as of ``_samples``."""
        self._bind_unit(self._manifest.axis_sizes(rows=1), 0)
        for name, array in samples.items():
            self._bound_unit.inputs[name][0, : len(array)] = array

    @contextmanager
    def _unchanged_by_errors(self) -> Iterator[None]:
        """Restore states, age and stored samples if the block raises."""
        states = self._states.read(_ROW)
        seen = self._seen_steps
        age = self._age
        samples = self._samples()
        try:
            yield
        except BaseException:
            self._states.write(_ROW, states)
            self._begin(seen, age)
            if samples:
                self._put_samples(samples)
            raise


class _Chunk(NamedTuple):
    """The bound call of a chunk."""

    sizes: Mapping[str, int]
    """The sizes of the named axes."""
    steps: int
    """The number of time steps."""
    inputs: dict[str, Array]
    """Arrays to write the inputs to, by name."""
    run: Callable[[], object]
    """Runs the steps; see ``Call``."""
    result: Callable[[], Result]
    """Returns copies of the outputs, which the next call overwrites."""
    cell: Any
    """The only input in the callers' order; None if there are several, or samples are
    checked."""

    def fits(self, x: object) -> bool:
        """Return True if ``x`` is an array of just the shape and dtype of the only
        input.
        """
        cell = self.cell
        return (
            type(x) is np.ndarray
            and cell is not None
            and x.shape == cell.shape
            and x.dtype is cell.dtype
        )


def _windows(call: Call, layout: Layout, unit: int) -> list[memoryview]:
    """Return for each step of a unit a view that accepts its sample unchanged, if
    samples have one axis.
    """
    array = call.inputs[layout.name][0]
    cells = [array[step] if layout.timed else array for step in range(unit)]
    return [memoryview(cell) if cell.ndim == 1 else CLOSED for cell in cells]


def _without_delay(
    array: Array, output: Layout, units_before: int, units: int
) -> Array | None:
    """Return the frames ``(frames, ...)`` of one source's output behind its delay.

    ``array`` is the output of ``units`` units that follow ``units_before`` others. An
    output without a time axis has one frame, None if it is within the delay.
    """
    dropped = max(0, output.delay - units_before * output.frames)
    if output.timed:
        return array[dropped:]
    return array[None] if dropped < units else None


def _frames_for_caller(frames: Array, output: Layout, *, step: bool) -> Array:
    """Return frames ``(frames, ...)`` of one source as callers see them."""
    if not output.timed:
        return np.array(frames[-1])
    return np.array(for_caller(frames[None], output, step=step)[0])
