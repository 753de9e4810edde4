"""Streams: one source of samples, or many that are advanced together, a call into the engine per tick.

Calls take whole units: steps that do not fill one are kept for the next call. The first frames of an output,
its delay, are dropped. Everything else is in the file.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import InputArrays, as_array, as_lengths, by_name, check_state, refuse_not_finite, reset_states
from .axes import learn_sizes, resolve
from .engine import Arrays, Engine
from .errors import ContractError, InputError, StateError
from .layout import Layout, layouts
from .manifest import Array
from .state import State

Result = Any
"""The only output that is not a state; a mapping by name where there are several."""
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
_WRONG_SAMPLE = (TypeError, ValueError, BufferError, NotImplementedError)
"""Exceptions of a memory view for an object of another shape or dtype, or that is not an array."""
_CLOSED = memoryview(b"")
"""A view that accepts no sample."""
_NEVER = sys.maxsize
_ONE = np.zeros(1, np.int64)
"""The row of a single source."""
_NOTHING: tuple[Any, dict[str, int], dict[str, Any]] = (), {}, {}
"""No shapes that were checked, with the sizes of named axes and the shapes in full."""
_NO_REST: dict[str, Array] = {}
_Part = dict[str, list[Array]]
"""What some calls gave of one source, by output."""


class _Streams:
    """What one source and many have in common; for one thread at a time."""

    __slots__ = (
        "__weakref__", "_advice", "_age", "_checked", "_engine", "_entry", "_even", "_every", "_identity",
        "_manifest", "_rest", "_settled", "_states", "_step", "_unit",
    )  # fmt: skip
    _many = False

    def __init__(
        self, engine: Engine, identity: str, reset_every: Any, rows: int | None, *, check: bool
    ) -> None:
        manifest = self._manifest = engine.manifest
        _check_streamable(engine, many=rows is not None)
        if reset_every is None or reset_every == "never":
            reset_every = _NEVER
        elif isinstance(reset_every, bool | str) or not isinstance(reset_every, int) or reset_every < 1:
            raise InputError(f"reset_every is {reset_every!r}, expected a positive integer or 'never'")
        self._engine, self._identity, self._every = engine, identity, reset_every
        self._states = engine.states(rows)
        self._advice = "clean the samples first" if check else ""
        if rows is not None and engine.couples_rows and not check:
            self._advice = "with an int8 file it would affect the other sources; omit this one from the tick"
        self._settled = manifest.unit * max((each.delay for each in engine.outputs), default=0)
        self._unit = manifest.unit
        self._even = manifest.unit == 1 and all(each.frames == 1 for each in engine.outputs)
        self._rest = _NO_REST
        """The last steps of each source that do not fill a unit, ``(rows, unit, ...)``."""
        if manifest.unit > 1:
            self._rest = {
                each.name: np.zeros((rows or 1, manifest.unit, *each.inner), each.dtype)
                for each in engine.inputs
                if each.timed
            }
        self._age = np.zeros(rows or 1, np.int64)
        """Steps of each source since its reset."""
        self._entry = _Entry()
        self._checked = _NOTHING
        self._step: _Bound | None = None

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples; 0 unless frames need later steps."""
        return self._manifest.delay_steps

    @property
    def reset_every(self) -> int | None:
        """Number of steps after which a source is reset automatically; None for never."""
        return None if self._every == _NEVER else self._every

    def _arrays(self, x: InputArrays, rows: int, *, step: bool) -> tuple[dict[str, Array], dict[str, int]]:
        """Return samples in the order of engines, and the sizes of the named axes."""
        engine = self._engine
        arrays = by_name(x, engine.inputs)
        if self._advice:
            refuse_not_finite(arrays, self._advice)
        shapes = (step, rows, *[array.shape for array in arrays.values()])
        _, sizes, full = checked = self._checked
        if shapes != checked[0]:
            sizes, full = self._learn(arrays, rows, step=step)
            if self._many:
                self._checked = shapes, sizes, full
        return {
            each.name: each.from_given(arrays[each.name].reshape(full[each.name])) for each in engine.inputs
        }, sizes

    def _learn(self, arrays: Arrays, rows: int, *, step: bool) -> tuple[dict[str, int], dict[str, Any]]:
        """Return the sizes of named axes, and the shape of each input with all its axes, rows first."""
        manifest = self._manifest
        sizes = {manifest.batch or "": rows, **({manifest.sequence: 1} if step and manifest.sequence else {})}
        for each in sorted(self._engine.inputs, key=lambda each: "+" in str(each.axes)):
            axes = each.given if self._many else each.given[1:]
            axes = tuple(axis for axis in axes if not (step and axis == manifest.sequence))
            bare, array = tuple(axis for axis in axes if axis != 1), arrays[each.name]
            axes = bare if array.ndim == len(bare) else axes
            learn_sizes(each.name, axes, array.shape, sizes, manifest.chunk_ranges)
        return sizes, {
            each.name: (rows, *(resolve(each.given[1:], sizes) or ())) for each in self._engine.inputs
        }

    def _steps(self, sizes: Mapping[str, int]) -> int:
        return sizes.get(self._manifest.sequence or "", 1)

    def _ready(self, least: int, most: int, steps: int) -> bool:
        """Tell whether steps of sources of these ages, whole units, are one call without a first frame."""
        return not steps % self._unit and least >= self._settled and most + steps <= self._every

    def _filled(
        self, bound: "_Bound | None", arrays: Arrays, sizes: Mapping[str, int], *, step: bool
    ) -> "_Bound":
        """Return the bound call for these sizes with samples in it: ``bound`` where it fits."""
        if bound is None or bound.sizes != sizes:
            inputs, run, outputs = self._states.bind(sizes)
            cells = [self._seen(inputs[each.name], each, step=step) for each in self._engine.inputs]
            views = {
                each.name: self._seen(outputs[each.name], each, step=step) for each in self._engine.outputs
            }
            result = next(iter(views.values())).copy if len(views) == 1 else partial(_copies, views)
            cell = cells[0] if len(cells) == 1 and not self._advice else None
            bound = _Bound(sizes, self._steps(sizes), inputs, run, result, cell)
        for name, array in arrays.items():
            bound.inputs[name][...] = array
        return bound

    def _seen(self, array: Array, layout: Layout, *, step: bool) -> Array:
        """Return an array as callers see it: without the time axis of a step, the row of a single source."""
        array = array[:, 0] if step and layout.timed and layout.frames == 1 else layout.to_given(array)
        return array if self._many else array[0, ...]  # a view of a single number, too

    def _pieces(
        self, rows: Array, arrays: Arrays, sizes: Mapping[str, int], ends: Array | None
    ) -> list[_Part]:
        """Take steps in pieces, so that no source is reset within one; return what each source gave."""
        steps, start = self._steps(sizes), 0
        parts: list[_Part] = [{each.name: [] for each in self._engine.outputs} for _ in rows]
        ends = np.full(len(rows), steps) if ends is None else ends
        with self._kept(rows):
            while start < ends.max():
                live = np.flatnonzero(ends > start)
                due = rows[live][self._age[rows[live]] >= self._every]
                if due.size:
                    self._reset(due)
                size = min(int(ends.max()) - start, self._every - int(self._age[rows[live]].max()))
                given = self._cut(arrays, live, slice(start, start + size))
                taken = np.minimum(ends[live] - start, size)
                self._take_piece(rows[live], given, {**sizes, self._manifest.sequence or "": size}, taken,
                                 [parts[row] for row in live])  # fmt: skip
                start += size
        return parts

    def _take_piece(
        self, rows: Array, given: Arrays, sizes: dict[str, int], taken: Array, parts: Sequence[_Part]
    ) -> None:
        """Take steps behind those that are kept, and keep those that do not fill a unit."""
        manifest, unit, sequence = self._manifest, self._manifest.unit, self._manifest.sequence or ""
        ages, size = self._age[rows], self._steps(sizes)
        counts = ages % unit
        units, each_row = (counts + size) // unit, np.arange(len(rows))[:, None]
        given = self._behind_rest(rows, counts, given, size)
        for number in np.unique(units[units > 0]).tolist():  # two at the most
            live, steps = np.flatnonzero(units == number), number * unit
            lengths = taken[live].astype(manifest.lengths_input.dtype) if manifest.lengths_input else None
            own = self._cut(given, live, slice(steps))
            outputs = self._states.run(rows[live], own, {**sizes, sequence: steps}, lengths)
            for place, row in enumerate(live.tolist()):
                for each in self._engine.outputs:
                    early = max(0, each.delay - int(ages[row] - counts[row]) // unit * each.frames)
                    array = outputs[each.name][place]
                    if each.timed:
                        end = number * each.frames if lengths is None else int(taken[row])
                        parts[row][each.name].append(array[early:end])
                    elif early < number:
                        parts[row][each.name].append(array)
        for name, kept in self._rest.items():
            kept[rows] = given[name][each_row, (units * unit)[:, None] + np.arange(unit)]
        self._age[rows] += taken

    def _cut(self, arrays: Arrays, rows: Array, time: slice) -> dict[str, Array]:
        """Return some rows and steps of inputs."""
        return {
            each.name: arrays[each.name][rows, time] if each.timed else arrays[each.name][rows]
            for each in self._engine.inputs
        }

    def _behind_rest(self, rows: Array, counts: Array, given: Arrays, size: int) -> dict[str, Array]:
        """Return inputs behind the kept steps of each source, with room for a unit at the end."""
        joined, each_row = dict(given), np.arange(len(rows))[:, None]
        for name, kept in self._rest.items():
            joined[name] = np.zeros((len(rows), size + 2 * self._manifest.unit, *kept.shape[2:]), kept.dtype)
            joined[name][:, : self._manifest.unit] = kept[rows]
            joined[name][each_row, counts[:, None] + np.arange(size)] = given[name]
        return joined

    def _joined(self, each: Layout, part: _Part) -> Array | None:
        """Return the frames of one source; without a time axis the last result."""
        arrays = part[each.name]
        if each.name in self._manifest.counts:
            return np.asarray(np.sum(arrays, axis=0, dtype=each.dtype))
        if not each.timed:
            return arrays[-1] if arrays else None
        return np.concatenate(arrays) if arrays else np.zeros((0, *each.inner), each.dtype)

    def _state_of(self, rows: Array) -> State:
        """Return a copy of one source's state, with its samples that do not fill a unit yet."""
        age = int(self._age[rows][0])
        count = age % self._manifest.unit
        inputs = [each for each in self._engine.inputs if count and each.name in self._rest]
        rest = {each.name: each.to_file(self._rest[each.name][rows, :count]) for each in inputs}
        return State(self._states.read(rows), self._identity, age, rest)

    def _restore(self, rows: Array, state: State) -> None:
        """Continue a source from a state; ``StateError`` if it is another model's."""
        arrays = check_state(state, self._manifest, self._identity, 1)
        count = state.age % self._manifest.unit
        inputs = [each for each in self._engine.inputs if count and each.name in self._rest]
        shapes = {each.name: (1, count, *each.inner) for each in inputs}
        kept = {
            each.name: each.from_file(state.rest[each.name]) for each in inputs if each.name in state.rest
        }
        if {name: array.shape for name, array in kept.items()} != shapes or set(state.rest) != set(shapes):
            raise StateError(
                f"got a state of age {state.age} with other samples than the last {count}; "
                "save the state again, or reset the stream"
            )
        self._states.write(rows, arrays)
        self._age[rows] = state.age
        for name, array in kept.items():
            self._rest[name][rows, :count] = array

    def _reset(self, rows: Array) -> None:
        self._states.write(rows, reset_states(self._manifest, len(rows)))
        self._age[rows] = 0

    @contextmanager
    def _kept(self, rows: Array) -> Iterator[None]:
        """Put states, ages and kept steps back if the block raises."""
        states, ages = self._states.read(rows), self._age[rows]
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
    """One source of samples; created by ``Model.stream``.

    It belongs to one thread at a time: a second one that calls it meanwhile gets a ``StateError``. An
    exception leaves its state as it was.
    """

    __slots__ = ("_chunk", "_due", "_free", "_result", "_run", "_seen_steps", "_start", "_window")

    def __init__(
        self, engine: Engine, identity: str, reset_every: Any = None, *, check: bool = False
    ) -> None:
        """Open a stream at the reset state; see ``Model.stream``."""
        super().__init__(engine, identity, reset_every, None, check=check)
        self._free, self._window = self._entry.free, _CLOSED
        self._chunk: _Bound | None = None
        self._begin(0, 0)

    @property
    def steps_seen(self) -> int:
        """Time steps taken since it was opened, reset or restored; ``reset_every`` does not begin again."""
        return self._seen_steps

    @property
    def state(self) -> State:
        """A copy of the state, to keep, pickle, save or restore elsewhere."""
        with self._entry:
            self._age[0] = self._seen_steps - self._start
            return self._state_of(_ONE)

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step.

        Args:
            sample: ``(I,)``, or a mapping by name where there are several inputs.

        Returns:
            The output ``(C,)``; its batch and time axes are gone, ``k*N`` rows stay. None where this step
            completes no frame (``delay``, or a unit of several steps); ``(frames, C)`` if a unit has several.
            With several outputs, a mapping of those that have a frame.

        Raises:
            InputError: wrong rank, width or dtype; NaN or infinity where the model checks.
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
                raise self._states.refusal()
            self._seen_steps += 1
            return self._result()
        finally:
            self._free.append(None)

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps in one call.

        Args:
            chunk: ``(L, I)`` of any length, or a mapping by name where there are several inputs.

        Returns:
            The output after the last step ``(C,)``; an output with a time axis keeps it: all complete frames
            ``(frames, C)``, ``(0, C)`` if there is none. With several outputs a mapping.

        Raises:
            InputError: wrong rank, width or dtype; empty; NaN or infinity where the model checks; a file that
                takes one step a call.
            StateError: another thread is using this stream.
        """
        with self._entry:
            if self._manifest.sequence is None:
                raise InputError("this file takes one step a call; use step()")
            bound, age = self._chunk, self._seen_steps - self._start
            age = -1 if age % self._unit else age  # in the middle of a unit
            if bound is not None and bound.fits(chunk) and self._ready(age, age, bound.steps):
                bound.cell[...] = chunk
            else:
                arrays, sizes = self._arrays(chunk, 1, step=False)
                if not self._ready(age, age, self._steps(sizes)):
                    return self._slow(arrays, sizes, step=False)
                bound = self._chunk = self._filled(bound, arrays, sizes, step=False)
            if bound.run():
                raise self._states.refusal()
            self._seen_steps += bound.steps
            return bound.result()

    def reset(self) -> None:
        """Reset all states."""
        with self._entry:
            self._reset(_ONE)
            self._begin(0, 0)

    def restore(self, state: State) -> None:
        """Continue from ``state``.

        Raises:
            StateError: it is of another model or another batch size; the stream keeps its own.
        """
        with self._entry:
            self._restore(_ONE, state)
            self._begin(0, state.age)

    def _fill(self, sample: InputArrays) -> None:
        """Write a sample that the window does not take as it is; bind the call if it has another shape."""
        bound = self._step = self._filled(self._step, *self._arrays(sample, 1, step=True), step=True)
        self._run, self._result = bound.run, bound.result
        self._window = memoryview(bound.cell) if bound.cell is not None and bound.cell.ndim == 1 else _CLOSED

    def _slow(self, arrays: Arrays, sizes: Mapping[str, int], *, step: bool) -> Result | None:
        """Take steps in pieces."""
        self._age[0] = self._seen_steps - self._start
        (part,) = self._pieces(_ONE, arrays, sizes, None)
        self._begin(self._seen_steps + self._steps(sizes), int(self._age[0]))
        found: dict[str, Any] = {}
        for each in self._engine.outputs:
            array = self._joined(each, part)
            if step and (array is None or (each.timed and not len(array))):
                continue
            if array is not None and each.timed:
                array = array[0] if step and each.frames == 1 else each.to_given(array[None])[0]
            found[each.name] = array
        return _only(found, len(self._engine.outputs))

    def _begin(self, seen: int, age: int) -> None:
        """Count from so many steps and an age on."""
        self._seen_steps, self._start = seen, seen - age
        plain = self._even and age >= self._settled
        self._due = min(self._start + self._every, _NEVER) if plain else -1
        """Steps after which a single step is none of the engine alone."""


class StreamBatch(_Streams):
    """Many sources, each with its own id and state; ``Model.streams`` creates it.

    Sources come and go while it runs. A tick takes any of them, in any order, and touches only their states.
    Like a stream it belongs to one thread at a time, and an exception leaves every state as it was.
    """

    _many = True

    def __init__(
        self, engine: Engine, identity: str, capacity: int, reset_every: Any = None, *, check: bool = False
    ) -> None:
        """Reserve states for ``capacity`` sources, none of which exists yet; see ``Model.streams``."""
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise InputError(f"capacity is {capacity!r}, expected a positive integer")
        super().__init__(engine, identity, reset_every, capacity, check=check)
        self._all = np.arange(capacity)
        self._owner = np.full(capacity, -1, dtype=np.int64)
        """The id in each slot, -1 where it is free; an id is its slot plus a multiple of the capacity."""
        self._next = np.arange(capacity, dtype=np.int64)
        self._unused = list(range(capacity - 1, -1, -1))
        self._place = np.zeros(capacity, dtype=np.int64)

    @property
    def capacity(self) -> int:
        """Maximum number of sources."""
        return len(self._owner)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the sources."""
        return tuple(self._owner[self._owner >= 0].tolist())

    def __len__(self) -> int:
        return self.capacity - len(self._unused)

    def add(self) -> int:
        """Add a source at the reset state and return its id, which no other source ever had.

        Raises:
            StateError: the batch is full.
        """
        with self._entry:
            if not self._unused:
                raise StateError(
                    f"all {self.capacity} slots are in use; remove a source, or open a larger batch"
                )
            slot = self._unused.pop()
            self._owner[slot] = self._next[slot]
            self._next[slot] += self.capacity
            self._reset(np.array([slot]))
            return int(self._owner[slot])

    def remove(self, source: int) -> None:
        """Remove a source; its place is free for another.

        Raises:
            StateError: it is not in the batch.
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
        """Return a copy of one source's state, for any stream; ``StateError`` if it is not in the batch."""
        with self._entry:
            return self._state_of(self._slots([source]))

    def restore(self, source: int, state: State) -> None:
        """Continue one source from ``state``, of a stream or of another batch.

        Raises:
            StateError: the source is not in the batch, or the state is of another model.
        """
        with self._entry:
            self._restore(self._slots([source]), state)

    def step(self, samples: InputArrays, ids: Ids) -> Result:
        """Take one time step of some sources.

        Args:
            samples: ``(K, I)``, by name where there are several inputs, a row a source.
            ids: the sources that the rows belong to, each once.

        Returns:
            The outputs ``(K, C)``, by name where there are several. Each row equals what the source's own
            ``Stream.step`` gives, NaN where that is None.

        Raises:
            InputError: wrong rank, width or dtype; no source; NaN or infinity where the model checks, or for
                an int8 ``.onnx`` file, which quantizes a tick's sources together.
            StateError: a source that is not in the batch, or given twice; another thread is using the batch.
        """
        with self._entry:
            return self._tick(samples, ids, None, step=True)

    def process(self, chunks: InputArrays, ids: Ids, lengths: npt.ArrayLike | None = None) -> Result:
        """Take many time steps of some sources in one call.

        Args:
            chunks: ``(K, L, I)``, by name where there are several inputs.
            ids: the sources that the rows belong to, each once.
            lengths: the valid steps of each row ``(K,)``, if the file takes lengths; None for L.

        Returns:
            As ``step``; an output with a time axis keeps it. Where a source completes fewer frames than
            others, NaN is in front of them; what is beyond a row's length means nothing.

        Raises:
            InputError: as ``step``; or lengths for a file that takes none, or no time axis.
            StateError: as ``step``.
        """
        if self._manifest.sequence is None:
            raise InputError("this file takes one step a call; use step()")
        with self._entry:
            return self._tick(chunks, ids, lengths, step=False)

    def _tick(self, samples: Any, ids: Ids, lengths: npt.ArrayLike | None, *, step: bool) -> Result:
        """Check everything, call the engine, and only then change the states of ``ids``."""
        slots = self._slots(ids)
        arrays, sizes = self._arrays(samples, len(slots), step=step)
        steps, valid = self._steps(sizes), None
        if lengths is not None:
            valid = as_lengths(lengths, self._manifest, sizes)
            assert valid is not None
            if valid.min() < steps and not self._manifest.padded_states:
                raise InputError(
                    f"got chunks of {valid.min()} to {steps} steps, but this file's states do not stop at a "
                    "row's length; give chunks of one length, or pack the sequences and export again"
                )
        if not self._together(slots, steps):
            parts = self._pieces(slots, arrays, sizes, valid)
            found = {each.name: self._stacked(each, parts, steps, step=step) for each in self._engine.outputs}
            return _only(found)
        if step and slots is self._all and self._states.in_place:
            bound = self._step = self._filled(self._step, arrays, sizes, step=True)
            if bound.run():
                raise self._states.refusal()
            self._age += 1
            return bound.result()
        if valid is not None and valid.min() < steps:
            with self._kept(slots):
                outputs = self._states.run(slots, arrays, sizes, valid)
        else:
            outputs = self._states.run(slots, arrays, sizes, None)
        self._age[slots] += steps if valid is None else valid
        return _only(
            {each.name: self._seen(outputs[each.name], each, step=step) for each in self._engine.outputs}
        )

    def _together(self, slots: Array, steps: int) -> bool:
        """Tell whether a tick is one call of the engine, all of whose frames are real."""
        if self._every == _NEVER and self._even and not self._settled:
            return True
        ages = self._age[slots]
        whole = not (ages % self._unit).any()
        return whole and self._ready(int(ages.min()), int(ages.max()), steps)

    def _stacked(self, each: Layout, parts: Sequence[_Part], steps: int, *, step: bool) -> Array:
        """Return the frames of all sources; NaN is in front of fewer ones, 0 behind a row's length."""
        rows = [self._joined(each, part) for part in parts]
        buffered = self._manifest.is_buffered
        blank: Any = np.nan if buffered else 0
        if not each.timed:
            none = np.full(each.inner, blank, each.dtype)
            return np.stack([none if row is None else row for row in rows])
        arrays = [row for row in rows if row is not None]
        longest = max(map(len, arrays)) if buffered else steps
        found = np.full((len(rows), max(longest, int(step)), *arrays[0].shape[1:]), blank, each.dtype)
        for own, array in zip(found, arrays, strict=True):
            start = len(own) - len(array) if buffered else 0
            own[start : start + len(array)] = array
        return found[:, 0] if step and each.frames == 1 else each.to_given(found)

    def _slots(self, ids: Ids) -> Array:
        """Return the slots of ``ids``; each must be in the batch and given once."""
        sources = as_array("ids", ids, "int64")
        if sources.ndim != 1 or not sources.size:
            raise InputError(f"ids have shape {sources.shape}, expected (K,), K from 1")
        if len(sources) == self.capacity and not self._unused and sources.tobytes() == self._owner.tobytes():
            return self._all
        slots: Array = np.remainder(sources, self.capacity, dtype=np.int64)
        absent = (sources < 0) | (self._owner[slots] != sources)
        if np.count_nonzero(absent):  # a fifth of the time of any()
            raise StateError(f"source {sources[absent][0]} is not in this batch; add() gives ids")
        order = self._all[: len(slots)] if len(slots) <= self.capacity else np.arange(len(slots))
        self._place[slots] = order
        twice = self._place[slots] != order
        if np.count_nonzero(twice):
            raise StateError(f"got source {sources[twice][0]} twice in one tick; give it in the next")
        return slots


class _Entry:
    """A context for one thread at a time; a second one is refused at once and never waits."""

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free = [None]
        """Empty while a thread is inside: ``pop`` is atomic and takes half the time of a lock."""

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
    """The only input, as a caller gives it; None if there are several, or samples are checked."""

    def fits(self, x: object) -> bool:
        """Tell whether ``x`` is an array of just the shape and dtype of the only input."""
        cell = self.cell
        return type(x) is np.ndarray and cell is not None and x.shape == cell.shape and x.dtype is cell.dtype


def _check_streamable(engine: Engine, *, many: bool) -> None:
    """Raise ``ContractError`` if there are no states, chunks are not the whole, or rows are no axis."""
    manifest = engine.manifest
    if reason := manifest.unstreamable:
        raise ContractError(f"this file can't be streamed: {reason}; use run() on whole sequences")
    if not manifest.states and not manifest.is_buffered:
        raise ContractError("this file carries no states; export it with them, or use run()")
    if not many:
        return
    for each in (*engine.inputs, *engine.outputs, *layouts(manifest.states, manifest)):
        if each.place is None or (each.factor and each not in engine.outputs):
            raise ContractError(
                f"{each.name} has no axis {manifest.batch or 'of rows'}; open one stream() a source instead"
            )
    for each in engine.outputs:
        if np.dtype(each.dtype).kind != "f" and manifest.is_buffered:
            raise ContractError(f"{each.name} is {each.dtype}, which has no NaN; open one stream() a source")


def _only(found: dict[str, Any], outputs: int | None = None) -> Any:
    """Return the value of a single output; of several, all by name; None if there is none of any."""
    if not found:
        return None
    return next(iter(found.values())) if (outputs or len(found)) == 1 else found


def _copies(views: Arrays) -> dict[str, Array]:
    return {name: view.copy() for name, view in views.items()}


def _in_use() -> StateError:
    return StateError("another thread is using this stream; use one per thread, or take turns")
