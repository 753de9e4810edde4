"""Streams: one source of samples, or many that are advanced together, a call into the
engine per tick.

Steps that do not fill a unit are kept for the next call; the first frames of an output,
its delay, go.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import (
    InputArrays,
    as_array,
    by_name,
    check_state,
    refuse_not_finite,
    reset_states,
)
from .axes import Layout, layouts, learn_sizes, resolve
from .engine import Arrays, Engine
from .errors import ContractError, InputError, StateError
from .manifest import Array
from .state import State

Result = Any
"""The only output that is not a state; a mapping by name where there are several."""
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
_WRONG_SAMPLE = (TypeError, ValueError, BufferError, NotImplementedError)
"""Exceptions of a memory view for an object of another shape or dtype, or that is not
an array."""
_CLOSED = memoryview(b"")
"""A view that accepts no sample."""
_NEVER = sys.maxsize
_ONE = np.zeros(1, np.int64)
"""The row of a single source."""
_NOTHING: tuple[Any, dict[str, int], dict[str, Any]] = (), {}, {}
"""No shapes that were checked, with the sizes of named axes and the shapes in full."""


class _Streams:
    """The parts that one source and many have in common; for one thread at a time."""

    __slots__ = (
        "__weakref__", "_advice", "_age", "_checked", "_engine", "_entry", "_even", "_every", "_identity",
        "_manifest", "_plain", "_ranges", "_rest", "_settled", "_states", "_step", "_unit",
    )  # fmt: skip
    _many = False

    def __init__(self, model: Any, reset_every: Any, rows: int | None) -> None:
        engine: Engine = model._engine
        manifest = self._manifest = engine.manifest
        _check_streamable(engine, many=rows is not None)
        if reset_every is None or reset_every == "never":
            reset_every = _NEVER
        elif type(reset_every) is not int or reset_every < 1:
            raise InputError(
                f"reset_every is {reset_every!r}, expected a positive integer or"
                " 'never'"
            )
        self._engine = engine
        self._identity = model.identity
        self._every = reset_every
        self._states = engine.states(rows)
        self._unit = manifest.unit
        self._ranges = dict(manifest.ranges)
        self._advice = "clean the samples first" if model._check else ""
        if rows is not None and engine.couples_rows and not model._check:
            self._advice = (
                "with an int8 file it would affect the other sources; omit this one"
                " from the tick"
            )
        if self._unit > 1:  # it keeps steps, so that a chunk has any number
            self._ranges.pop(manifest.sequence or "", None)
        self._settled = manifest.unit * max(
            (output.delay for output in engine.outputs), default=0
        )
        self._even = manifest.unit == 1 and all(
            output.frames == 1 for output in engine.outputs
        )
        self._plain = self._even and not self._settled and reset_every == _NEVER
        """True if every call is one of the engine."""
        self._rest = {
            layout.name: np.zeros(
                (rows or 1, manifest.unit, *layout.inner), layout.dtype
            )
            for layout in engine.inputs
            if layout.timed and manifest.unit > 1
        }
        """The last steps of each source that do not fill a unit,
        ``(rows, unit, ...)``."""
        self._age = np.zeros(rows or 1, np.int64)
        """Steps of each source since its reset."""
        self._entry = _Entry()
        self._checked = _NOTHING
        self._step: _Bound | None = None

    def _arrays(
        self, x: InputArrays, rows: int, *, step: bool
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Return samples in the order of engines, and the sizes of the named axes."""
        manifest = self._manifest
        inputs = self._engine.inputs
        arrays = by_name(x, inputs)
        if self._advice:
            refuse_not_finite(arrays, self._advice)
        shapes = (step, rows, *[array.shape for array in arrays.values()])
        if shapes != self._checked[0]:
            time = {manifest.sequence: 1} if step and manifest.sequence else {}
            sizes = {manifest.batch or "": rows, **time}
            for layout in sorted(inputs, key=lambda layout: "+" in str(layout.axes)):
                name = layout.name
                shape = arrays[layout.name].shape
                axes = tuple(
                    axis for axis in layout.given[not self._many :] if axis not in time
                )
                bare = tuple(axis for axis in axes if axis != 1)
                learn_sizes(
                    name,
                    bare if len(shape) == len(bare) else axes,
                    shape,
                    sizes,
                    self._ranges,
                )
            full = {
                layout.name: (rows, *(resolve(layout.given[1:], sizes) or ()))
                for layout in inputs
            }
            self._checked = shapes, sizes, full
        _, sizes, full = self._checked
        if not self._many:  # a single stream is small
            self._checked = _NOTHING
        shaped = {name: array.reshape(full[name]) for name, array in arrays.items()}
        return {
            layout.name: layout.from_given(shaped[layout.name]) for layout in inputs
        }, sizes

    def _steps(self, sizes: Mapping[str, int]) -> int:
        return sizes.get(self._manifest.sequence or "", 1)

    def _ready(self, least: int, most: int, steps: int) -> bool:
        """Tell whether steps of sources of these ages, whole units, are one call
        without a first frame.
        """
        return (
            not steps % self._unit
            and least >= self._settled
            and most + steps <= self._every
        )

    def _filled(
        self,
        bound: "_Bound | None",
        arrays: Arrays,
        sizes: Mapping[str, int],
        *,
        step: bool,
    ) -> "_Bound":
        """Return the bound call for these sizes with samples in it: ``bound`` where it
        fits.
        """
        if bound is None or bound.sizes != sizes:
            engine, (inputs, run, outputs) = self._engine, self._states.bind(sizes)
            cells = [
                self._seen(inputs[layout.name], layout, step=step)
                for layout in engine.inputs
            ]
            views = {
                out.name: self._seen(outputs[out.name], out, step=step)
                for out in engine.outputs
            }
            result = (
                partial(_copies, views)
                if len(views) > 1
                else next(iter(views.values())).copy
            )
            cell = cells[0] if len(cells) == 1 and not self._advice else None
            bound = _Bound(sizes, self._steps(sizes), inputs, run, result, cell)
        for name, array in arrays.items():
            bound.inputs[name][...] = array
        return bound

    def _seen(self, array: Array, layout: Layout, *, step: bool) -> Array:
        """Return an array as callers see it: without the time axis of a step, the row
        of a single source.
        """
        array = (
            array[:, 0]
            if step and layout.timed and layout.frames == 1
            else layout.to_given(array)
        )
        return array if self._many else array[0, ...]  # a view of a single number, too

    def _pieces(
        self, rows: Array, arrays: Arrays, sizes: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        """Take steps in pieces, so that no source is reset within one; return its
        frames by output.

        An output without a time axis gives the last result, None if there is none.
        """
        steps = self._steps(sizes)
        start = 0
        layouts = self._engine.outputs
        parts: list[dict[str, list[Array]]] = [
            {layout.name: [] for layout in layouts} for _ in rows
        ]
        with self._kept(rows):
            while start < steps:
                due = rows[self._age[rows] >= self._every]
                if due.size:
                    self._reset(due)
                end = min(steps, start + self._every - int(self._age[rows].max()))
                given = self._cut(arrays, slice(None), slice(start, end))
                self._take_piece(rows, given, sizes, end - start, parts)
                start = end
        frames: list[dict[str, Any]] = []
        for part in parts:
            frames.append(
                {
                    layout.name: next(iter(part[layout.name][-1:]), None)
                    for layout in layouts
                }
            )
            for layout in layouts:
                if layout.name in self._manifest.counts:
                    total = np.sum(part[layout.name], axis=0, dtype=layout.dtype)
                    frames[-1][layout.name] = np.asarray(total)
                elif layout.timed:
                    none = np.zeros((0, *layout.inner), layout.dtype)
                    frames[-1][layout.name] = np.concatenate(
                        part[layout.name] or [none]
                    )
        return frames

    def _take_piece(
        self,
        rows: Array,
        given: Arrays,
        sizes: Mapping[str, int],
        size: int,
        parts: Sequence[Any],
    ) -> None:
        """Take steps behind those that are kept, and keep those that do not fill a
        unit.
        """
        unit = self._unit
        ages = self._age[rows]
        each_row = np.arange(len(rows))[:, None]
        counts = ages % unit
        sequence = self._manifest.sequence or ""
        units = (counts + size) // unit
        joined = dict(given)
        for (
            name,
            kept,
        ) in (
            self._rest.items()
        ):  # behind the kept steps, with room for a unit at the end
            joined[name] = np.zeros(
                (len(rows), size + 2 * unit, *kept.shape[2:]), kept.dtype
            )
            joined[name][:, :unit] = kept[rows]
            joined[name][each_row, counts[:, None] + np.arange(size)] = given[name]
        for number in np.unique(units[units > 0]).tolist():  # two at the most
            live = np.flatnonzero(units == number)
            taken = {
                **sizes,
                sequence: number * unit,
            }
            outputs = self._states.run(
                rows[live], self._cut(joined, live, slice(number * unit)), taken
            )
            for index, row in enumerate(live.tolist()):
                for output in self._engine.outputs:
                    dropped = max(
                        0, output.delay - int(ages[row]) // unit * output.frames
                    )
                    if output.timed or dropped < number:
                        array = outputs[output.name][index]
                        parts[row][output.name].append(
                            array[dropped:] if output.timed else array
                        )
        for name, kept in self._rest.items():
            kept[rows] = joined[name][
                each_row, (units * unit)[:, None] + np.arange(unit)
            ]
        self._age[rows] += size

    def _cut(self, arrays: Arrays, rows: Any, time: slice) -> dict[str, Array]:
        """Return some rows and steps of inputs."""
        inputs = self._engine.inputs
        return {
            x.name: arrays[x.name][(rows, time) if x.timed else rows] for x in inputs
        }

    def _state_of(self, rows: Array) -> State:
        """Return a copy of one source's state; ``StateError`` between units, as steps
        are kept then.
        """
        age = int(self._age[rows][0])
        if missing := -age % self._unit:
            raise StateError(
                f"a unit of {self._unit} steps is not complete; take {missing} more"
                " steps first"
            )
        return State(self._states.read(rows), self._identity, age)

    def _restore(self, rows: Array, state: State) -> None:
        """Continue a source from a state; ``StateError`` if it is another model's."""
        self._states.write(rows, check_state(state, self._manifest, self._identity, 1))
        self._age[rows] = state.age

    def _reset(self, rows: Array) -> None:
        self._states.write(rows, reset_states(self._manifest, len(rows)))
        self._age[rows] = 0

    @contextmanager
    def _kept(self, rows: Array) -> Iterator[None]:
        """Put states, ages and kept steps back if the block raises."""
        states = self._states.read(rows)
        ages = self._age[rows]
        rest = {name: array[rows] for name, array in self._rest.items()}
        try:
            yield
        except BaseException:
            self._states.write(rows, states)
            self._age[rows] = ages
            for name, array in rest.items():
                self._rest[name][rows] = array
            raise


class Stream(_Streams):
    """One source of samples, for one thread at a time; created by ``Model.stream``.

    An exception leaves its state as it was.
    """

    __slots__ = (
        "_chunk",
        "_due",
        "_free",
        "_result",
        "_run",
        "_seen_steps",
        "_start",
        "_window",
    )

    def __init__(self, model: Any, reset_every: Any = None) -> None:
        """Open a stream at the reset state; see ``Model.stream``."""
        super().__init__(model, reset_every, None)
        self._free = self._entry.free
        self._window = _CLOSED
        self._chunk: _Bound | None = None
        self._begin(0, 0)

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened, reset or restored; ``reset_every`` does
        not begin again.
        """
        return self._seen_steps

    @property
    def state(self) -> State:
        """A copy of the state, to keep, pickle, save or restore elsewhere;
        ``StateError`` between units.
        """
        with self._entry:
            self._age[0] = self._seen_steps - self._start
            return self._state_of(_ONE)

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
        try:
            self._free.pop()
        except IndexError:
            raise _in_use() from None
        try:
            if self._seen_steps >= self._due:
                return self._slow(*self._arrays(sample, 1, step=True), step=True)
            try:
                self._window[:] = sample  # type: ignore[assignment]
            except _WRONG_SAMPLE:
                self._fill(sample)
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
                step a call.
        """
        with self._entry:
            if self._manifest.sequence is None:
                raise InputError("this file takes one step a call; use step()")
            bound = self._chunk
            age = self._seen_steps - self._start
            age = -1 if age % self._unit else age  # in the middle of a unit
            if (
                bound is not None
                and bound.fits(chunk)
                and self._ready(age, age, bound.steps)
            ):
                bound.cell[...] = chunk
            else:
                arrays, sizes = self._arrays(chunk, 1, step=False)
                if not self._ready(age, age, self._steps(sizes)):
                    return self._slow(arrays, sizes, step=False)
                bound = self._chunk = self._filled(bound, arrays, sizes, step=False)
            if bound.run():
                raise self._engine.refusal()
            self._seen_steps += bound.steps
            return bound.result()

    def reset(self) -> None:
        """Reset all states."""
        with self._entry:
            self._reset(_ONE)
            self._begin(0, 0)

    def restore(self, state: State) -> None:
        """Continue from ``state``; ``StateError`` if it is of another model, and the
        stream keeps its own.
        """
        with self._entry:
            self._restore(_ONE, state)
            self._begin(0, state.age)

    def _fill(self, sample: InputArrays) -> None:
        """Write a sample that the window does not take as it is; bind the call if it
        has another shape.
        """
        bound = self._step = self._filled(
            self._step, *self._arrays(sample, 1, step=True), step=True
        )
        self._run = bound.run
        self._result = bound.result
        self._window = (
            memoryview(bound.cell)
            if bound.cell is not None and bound.cell.ndim == 1
            else _CLOSED
        )

    def _slow(
        self, arrays: Arrays, sizes: Mapping[str, int], *, step: bool
    ) -> Result | None:
        """Take steps in pieces."""
        self._age[0] = self._seen_steps - self._start
        (frames,) = self._pieces(_ONE, arrays, sizes)
        self._begin(self._seen_steps + self._steps(sizes), int(self._age[0]))
        for output in self._engine.outputs:
            array = frames[output.name]
            if step and (array is None or (output.timed and not len(array))):
                del frames[output.name]
            elif output.timed:
                frames[output.name] = self._seen(array[None], output, step=step)
        return _only(frames, len(self._engine.outputs))

    def _begin(self, seen: int, age: int) -> None:
        """Count from so many steps and an age on."""
        self._seen_steps = seen
        self._start = seen - age
        plain = self._even and age >= self._settled
        self._due = min(self._start + self._every, _NEVER) if plain else -1
        """Steps after which a single step is none of the engine alone."""


class StreamBatch(_Streams):
    """Many sources, each with its own id and state, for one thread at a time;
    ``Model.streams`` creates it.

    Sources come and go while it runs. A tick takes any of them, in any order, and
    touches only their states. An exception leaves every state as it was.
    """

    _many = True

    def __init__(self, model: Any, capacity: int, reset_every: Any = None) -> None:
        """Reserve states for ``capacity`` sources, none of which exists yet; see
        ``Model.streams``.
        """
        if type(capacity) is not int or capacity < 1:
            raise InputError(f"capacity is {capacity!r}, expected a positive integer")
        super().__init__(model, reset_every, capacity)
        self._all = np.arange(capacity)
        self._owner = np.full(capacity, -1, dtype=np.int64)
        """The id in each slot, -1 where it is free; an id is its slot plus a multiple
        of the capacity."""
        self._next = np.arange(capacity, dtype=np.int64)
        self._unused = list(range(capacity - 1, -1, -1))
        self._place = np.zeros(capacity, dtype=np.int64)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the sources."""
        return tuple(self._owner[self._owner >= 0].tolist())

    def __len__(self) -> int:
        return len(self._owner) - len(self._unused)

    def add(self) -> int:
        """Add a source at reset and return its id, which no other ever had;
        ``StateError`` if it is full.
        """
        with self._entry:
            if not self._unused:
                raise StateError(
                    f"all {len(self)} slots are in use; remove a source, or open a"
                    " larger batch"
                )
            slot = self._unused.pop()
            self._owner[slot] = self._next[slot]
            self._next[slot] += len(self._owner)
            self._reset(np.array([slot]))
            return int(self._owner[slot])

    def remove(self, source: int) -> None:
        """Remove a source, so that its slot is free for another; ``StateError`` if it
        is not in the batch.
        """
        with self._entry:
            (slot,) = self._slots([source]).tolist()
            self._owner[slot] = -1
            self._unused.append(slot)

    def reset(self, source: int) -> None:
        """Reset one source's states; ``StateError`` if it is not in the batch."""
        with self._entry:
            self._reset(self._slots([source]))

    def state(self, source: int) -> State:
        """Return a copy of one source's state, for any stream; ``StateError`` if it is
        not in the batch.
        """
        with self._entry:
            return self._state_of(self._slots([source]))

    def restore(self, source: int, state: State) -> None:
        """Continue one source from the ``state`` of any stream; ``StateError`` as for
        ``Stream.restore``.
        """
        with self._entry:
            self._restore(self._slots([source]), state)

    def step(self, samples: InputArrays, ids: Ids) -> Result:
        """Take one time step of some sources.

        Args:
            samples: ``(K, I)``, by name where there are several inputs.
            ids: the source of each row, each once.

        Returns:
            The outputs ``(K, C)``, by name where there are several. Each row equals
            what the source's own ``Stream.step`` gives, NaN where that is None.

        Raises:
            InputError: as ``Stream.step``; no source; NaN in an int8 ``.onnx`` file,
                whose rows share scales.
            StateError: a source that is not in the batch, or given twice; another
                thread is using the batch.
        """
        with self._entry:
            return self._tick(samples, ids, step=True)

    def process(self, chunks: InputArrays, ids: Ids) -> Result:
        """Take many time steps ``(K, L, I)`` of some sources in one call; as ``step``.

        An output with a time axis keeps it. NaN is in front of the frames of a source
        that completes fewer than others.
        """
        if self._manifest.sequence is None:
            raise InputError("this file takes one step a call; use step()")
        with self._entry:
            return self._tick(chunks, ids, step=False)

    def _tick(self, samples: Any, ids: Ids, *, step: bool) -> Result:
        """Check everything, call the engine, and only then change the states of
        ``ids``.
        """
        slots = self._slots(ids)
        arrays, sizes = self._arrays(samples, len(slots), step=step)
        steps = self._steps(sizes)
        layouts = self._engine.outputs
        if not self._plain and (
            ((ages := self._age[slots]) % self._unit).any()
            or not self._ready(int(ages.min()), int(ages.max()), steps)
        ):
            parts = self._pieces(slots, arrays, sizes)
            return _only(
                {layout.name: _stacked(layout, parts, step=step) for layout in layouts}
            )
        if step and slots is self._all and self._states.in_place:
            bound = self._step = self._filled(self._step, arrays, sizes, step=True)
            if bound.run():
                raise self._engine.refusal()
            self._age += 1
            return bound.result()
        outputs = self._states.run(slots, arrays, sizes)
        self._age[slots] += steps
        return _only(
            {
                layout.name: self._seen(outputs[layout.name], layout, step=step)
                for layout in layouts
            }
        )

    def _slots(self, ids: Ids) -> Array:
        """Return the slots of ``ids``; each must be in the batch and given once."""
        sources = as_array("ids", ids, "int64")
        if sources.ndim != 1 or not sources.size:
            raise InputError(f"ids have shape {sources.shape}, expected (K,), K from 1")
        if (
            not self._unused
            and len(sources) == len(self._all)
            and sources.tobytes() == self._owner.tobytes()
        ):
            return self._all
        slots: Array = np.remainder(sources, len(self._all), dtype=np.int64)
        absent = (sources < 0) | (self._owner[slots] != sources)
        if np.count_nonzero(absent):  # a fifth of the time of any()
            raise StateError(
                f"source {sources[absent][0]} is not in this batch; add() gives ids"
            )
        order = np.arange(len(slots))
        self._place[slots] = order
        twice = self._place[slots] != order
        if np.count_nonzero(twice):
            raise StateError(
                f"got source {sources[twice][0]} twice in one tick; give it in the next"
            )
        return slots


class SlidingStream:
    """One source of samples for one thread; created by ``Model.stream(window=...)``.

    Every result is computed from the last ``window`` samples and the reset state, as in
    training on windows. A step costs a run of the full window.
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
        (self._input,), self._run, self._window = self._engine.inputs, model.run, window
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._samples: Array = np.zeros((0, *self._input.inner), self._input.dtype)
        self.steps_seen = 0
        """Time steps taken since it was opened or reset."""

    def step(self, sample: npt.ArrayLike) -> Result | None:
        """Take one time step ``(I,)``; return the output ``(C,)``, by name if there are
        several.

        None until the window is full; ``InputError`` for another width, and the samples
        before stay.
        """
        return self.process(np.asarray(sample)[None])

    def process(self, chunk: npt.ArrayLike) -> Result | None:
        """Take many time steps ``(L, I)`` and return what the last of them gives; as
        ``step``.
        """
        array = np.asarray(chunk, self._input.dtype)
        if not len(array) or array.shape[1:] != self._input.inner:
            raise InputError(
                f"got samples {array.shape[1:]}, expected {self._input.inner}"
            )
        self._samples = np.concatenate([self._samples, array])[-self._window :]
        self.steps_seen += len(array)
        if len(self._samples) < self._window:
            return None
        outputs, _ = self._run(
            np.ascontiguousarray(self._input.to_file(self._samples[None]))
        )
        rows = {
            layout: layout.from_file(outputs[layout.name])[0]
            for layout in self._engine.outputs
        }
        return _only(
            {
                layout.name: row[-1] if layout.timed else row
                for layout, row in rows.items()
            }
        )


class _Entry:
    """A context for one thread at a time; a second one is refused at once and never
    waits.
    """

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free = [None]
        """Empty while a thread is inside: ``pop`` is atomic and takes half the time of
        a lock."""

    def __enter__(self) -> None:
        try:
            self.free.pop()
        except IndexError:
            raise _in_use() from None

    def __exit__(self, *error: object) -> None:
        self.free.append(None)


class _Bound(NamedTuple):
    """A bound call, and the views through which samples go in and results come out."""

    sizes: Mapping[str, int]
    steps: int
    inputs: dict[str, Array]
    run: Callable[[], object]
    result: Callable[[], Result]
    """Returns copies of the outputs, which the next call overwrites."""
    cell: Any
    """The only input, as a caller gives it; None if there are several, or samples are
    checked."""

    def fits(self, x: object) -> bool:
        """Tell whether ``x`` is an array of just the shape and dtype of the only
        input.
        """
        cell = self.cell
        return (
            type(x) is np.ndarray
            and cell is not None
            and x.shape == cell.shape
            and x.dtype is cell.dtype
        )


def _check_streamable(engine: Engine, *, many: bool) -> None:
    """Raise ``ContractError`` if there are no states, chunks are not the whole, or rows
    are no axis.
    """
    manifest = engine.manifest
    reason = manifest.unstreamable or (
        "" if manifest.states or manifest.is_buffered else "it has no states"
    )
    if reason:
        raise ContractError(
            f"this file can't be streamed: {reason}; use run() on whole sequences"
        )
    for layout in (
        (*engine.inputs, *engine.outputs, *layouts(manifest.states, manifest))
        if many
        else ()
    ):
        rows = layout.batch is not None and (
            layout in engine.outputs or not layout.factor
        )
        blanks = manifest.is_buffered and layout in engine.outputs
        axis = manifest.batch or "N"
        if not rows or (blanks and np.dtype(layout.dtype).kind != "f"):
            reason = (
                f"is {layout.dtype}, which has no NaN"
                if rows
                else f"has no axis {axis}"
            )
            raise ContractError(
                f"{layout.name} {reason}; open one stream() a source instead"
            )


def _stacked(
    layout: Layout, parts: Sequence[Mapping[str, Any]], *, step: bool
) -> Array:
    """Return the frames of all sources, NaN in front of fewer ones."""
    rows: list[Any] = [part[layout.name] for part in parts]
    if not layout.timed:
        return np.stack(
            [
                np.full(layout.inner, np.nan, layout.dtype) if row is None else row
                for row in rows
            ]
        )
    longest = max(*map(len, rows), int(step))
    blank: Any = np.nan if np.dtype(layout.dtype).kind == "f" else 0
    stacked = np.full((len(rows), longest, *rows[0].shape[1:]), blank, layout.dtype)
    for target, row in zip(stacked, rows, strict=True):
        target[longest - len(row) :] = row
    return stacked[:, 0] if step and layout.frames == 1 else layout.to_given(stacked)


def _only(results: dict[str, Any], outputs: int | None = None) -> Any:
    """Return the value of a single output; of several, all by name; None if there is
    none of any.
    """
    if not results:
        return None
    return next(iter(results.values())) if (outputs or len(results)) == 1 else results


def _copies(views: Arrays) -> dict[str, Array]:
    return {name: view.copy() for name, view in views.items()}


def _in_use() -> StateError:
    return StateError(
        "another thread is using this stream; use one per thread, or take turns"
    )
