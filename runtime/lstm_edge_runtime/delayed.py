"""Streams of networks whose frames need later steps, or are fewer or more than steps.

Such a network streams by a graph of its own (``Manifest.stream``). Its results are a fixed number of steps
behind, and a call takes a multiple of its unit: the steps that don't fill one are kept for the next. A state
behind a delay is held at its reset value for its first ``start`` steps, so a call ends there. Frames before
the first real one are left out. Where the network has a table of positions, a stream ends with it.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ._core import Core, InputArrays
from .axes import check_array, shape_of
from .chunks import Pace, Runner, behind, only, room, take_steps
from .errors import ContractError, InputError, StateError
from .manifest import Array, Manifest, TensorSpec
from .state import State
from .stream import WRONG_SAMPLE, Part, Result, ShapedCall, Stream
from .stream_batch import (
    Ids,
    StreamBatch,
    by_slot,
    stack_chunks,
    stack_rows,
    to_graph,
    to_sources,
)


def run_delayed(
    run: Runner, manifest: Manifest, feeds: Mapping[str, Array], sizes: Iterable[int]
) -> dict[str, Array]:
    """Run a case in chunks, as a stream does, and return its frames.

    Of an output of the last step alone it is what the last chunk gives.

    Args:
        run: runs the graph of the stream.
        manifest: its manifest; see ``Manifest.streaming``.
        feeds: the whole case, states at reset.
        sizes: steps of each chunk.
    """
    states, age, seen, pace = manifest.states_in(feeds), 0, 0, Pace(manifest)
    frames: dict[str, list[Array]] = {}
    outputs: Mapping[str, Array] = {}
    for size in sizes:
        seen += size
        end = seen - seen % manifest.unit
        while age < end:
            stop = age + room(manifest.states, [age], end - age)
            outputs = run({**take_steps(pace.places, feeds, age, stop), **states})
            new = manifest.states_out(outputs)
            states = {
                state.input: (states if stop <= state.start else new)[state.input]
                for state in manifest.states
            }
            for name, axis in manifest.time_axes.items():
                if name in pace.delays:
                    count = (stop - age) * pace.frames[name] // manifest.unit
                    if outputs[name].shape[axis : axis + 1] != (count,):
                        raise ContractError(
                            f"output {name!r} of {stop - age} steps is {outputs[name].shape}, expected "
                            f"{count} frames on axis {axis}; the file does not keep its contract"
                        )
                    frames.setdefault(name, []).append(behind(outputs[name], axis, pace.early(name, age)))
            age = stop
    joined = {spec.name: outputs[spec.name] for spec in manifest.outputs}
    return joined | {name: np.concatenate(parts, manifest.time_axes[name]) for name, parts in frames.items()}


class DelayedStream(Stream):
    """A stream whose results are behind, or come once a unit; see ``Stream``."""

    __slots__ = ("_kept_steps", "_place", "_scalar", "_settled", "_unit_call")

    def __init__(self, core: Core, reset_every: "int | str | None" = None) -> None:
        """Open a stream on the graph of the stream."""
        self._kept_steps = _room_for_rest(core, 1)
        super().__init__(core, reset_every)
        self._unit_call: ShapedCall | None = None
        self._place, self._scalar = (0, 0, 1), False
        """Of a step in the window, which is all kept steps: its distance from the one before, its length and
        the distance of its values; whether it is a single number."""
        if len(core.data) == 1 and self._kept_steps and not core.check:
            ((name, kept),) = self._kept_steps.items()
            time, unit = self._pace.places[name], self._pace.unit
            rank = len(set(range(kept.ndim)) - {time, self._pace.batches.get(name)})
            before, width = math.prod(kept.shape[:time]), kept.size // unit
            if rank <= 1:
                self._window, self._scalar = memoryview(kept.reshape(-1).data), not rank
                self._place = (width, width, 1) if before == 1 else (1, kept.size, unit)

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples."""
        return self._manifest.delay_steps

    @property
    def state(self) -> State:
        """A copy of the state, with the samples that don't fill a unit yet."""
        with self._use:
            count = self._age % self._pace.unit
            rest = take_steps(self._pace.places, self._kept_steps, 0, count) if count else {}
            return State(self._sets.read(), self._identity, self._age, rest)

    def restore(self, state: State) -> None:
        """Continue from ``state``; see ``Stream.restore``."""
        rest = _check_rest(self._core, state)
        super().restore(state)
        self._keep(rest, 0)

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step.

        Args:
            sample: as ``Stream.step`` takes it.

        Returns:
            The output of the frame that this step completes; None if it completes none. Where a unit has
            several frames, these ``(frames, C)``. Where there are several outputs, a mapping by name with
            those that have a frame; None if none has.

        Raises:
            InputError, StateError: as ``Stream.step``.
        """
        if self._pace.even and self._settled <= self._steps < self._due:
            return super().step(sample)
        with self._use:
            found = self._take_one(sample)
        if not found:
            return None
        of_step = self._pace.of_step
        given = {name: row for name, each in found.items() if (row := of_step(name, each)) is not None}
        return None if not given else given if len(found) > 1 else next(iter(given.values()))

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps.

        Args:
            chunk: as ``Stream.process`` takes it; of any length, the steps that don't fill a unit are kept.

        Returns:
            The frames that are complete ``(frames, C)``, ``(0, C)`` if none is; of an output without a time
            axis the last result ``(C,)``, None if there is none. By name where there are several.

        Raises:
            InputError, StateError: as ``Stream.process``.
        """
        with self._use:
            call = self._chunk_call
            quick = self._steps >= self._settled and not self._age % self._pace.unit
            if quick and call is not None and self._steps + call.steps <= self._due and call.accept(chunk):
                call.take()
                self._steps += call.steps
                return call.result()
            found: Result | None = only(self._take(*self._to_graph(chunk, {})))
            return found

    def _take_one(self, sample: InputArrays) -> dict[str, Any]:
        """Take one step; return what it completes by output, nothing if that is no unit."""
        known, unit = {self._manifest.sequence: 1}, self._pace.unit
        if self._steps >= self._due:
            return self._take(*self._to_graph(sample, known))
        place, arrays = self._age % unit, {}
        if unit == 1 or not self._accept(sample, place):
            arrays = self._to_graph(sample, known)[1]
            self._keep(arrays, place)
        found: dict[str, Any] = {}
        if place + 1 == unit:
            found = self._joined({}, [self._take_unit({}, arrays, self._age - place)])
        self._steps += 1
        return found

    def _accept(self, sample: Any, place: int) -> bool:
        """Take a sample of exactly the shape and dtype of a step into the window; return whether it is."""
        distance, length, apart = self._place
        try:
            if not self._scalar:
                self._window[place * distance : place * distance + length : apart] = sample
            elif type(sample) is np.float32:
                self._window[place] = sample  # type: ignore[call-overload]
            else:
                return False
        except WRONG_SAMPLE:
            return False
        return True

    def _most(self, steps: int) -> int:
        age, unit = self._age, self._pace.unit
        if age % unit or steps < unit:
            return min(unit - age % unit, steps)
        return room(self._manifest.states, [age], steps - steps % unit)

    def _take_piece(self, sizes: Mapping[str, int], arrays: Mapping[str, Array]) -> list[Part]:
        unit, size = self._pace.unit, sizes[self._manifest.sequence or ""]
        count = self._age % unit
        if not count and not size % unit:
            return super()._take_piece(sizes, arrays)
        self._keep(arrays, count)
        return [self._take_unit(sizes, arrays, self._age - count)] if count + size == unit else []

    def _take_unit(self, sizes: Mapping[str, int], arrays: Mapping[str, Array], age: int) -> Part:
        """Take the kept steps, which fill a unit that began at ``age``."""
        manifest = self._manifest
        sizes = {**sizes, manifest.batch or "": 1, manifest.sequence or "": self._pace.unit}
        call = self._unit_call = self._call_of(
            sizes, {**arrays, **self._kept_steps}, self._unit_call, drop_sequence=False
        )
        return self._call(call, age)

    def _call(self, call: ShapedCall, age: int) -> Part:
        if age >= self._pace.settled:
            return super()._call(call, age)
        self._hold(age, call.steps, call.take)
        return self._by_name(call.result()), age, call.steps

    def _keep(self, arrays: Mapping[str, Array], place: int) -> None:
        """Keep steps that don't fill a unit, behind the first ``place`` of those that are kept already."""
        for name, kept in self._kept_steps.items():
            if name in arrays:
                axis = self._pace.places[name]
                part = slice(place, place + arrays[name].shape[axis])
                kept[(slice(None),) * axis + (part,)] = arrays[name]

    @contextmanager
    def _kept(self) -> Iterator[None]:
        before = {name: array.copy() for name, array in self._kept_steps.items()}
        try:
            with super()._kept():
                yield
        except BaseException:
            for name, array in before.items():
                self._kept_steps[name][...] = array
            raise

    def _count_from(self, steps: int, age: int) -> None:
        super()._count_from(steps, age)
        self._settled = self._start + self._pace.settled
        self._due = min(self._due, self._start + self._pace.end)

    def _start_again(self) -> None:
        if self._age >= self._pace.end and (self._every is None or self._age < self._every):
            raise self._pace.ended("the stream")
        super()._start_again()

    def _hold(self, age: int, steps: int, take: Any) -> None:
        """Take a call that no state starts inside of; the states that have not started keep what they are."""
        states = self._sets.read()
        held = {
            state.input: states[state.input].copy()
            for state in self._manifest.states
            if age + steps <= state.start
        }
        take()
        if held:
            self._sets.write({**self._sets.read(), **held})


class DelayedBatch(StreamBatch):
    """A batch whose results are behind, or come once a unit: each source has its own age and kept samples.

    In ``{id: output}`` the sources without a frame are left out of a step; in an array their rows are NaN.
    """

    def __init__(self, core: Core, capacity: int, reset_every: "int | str | None" = None) -> None:
        """Reserve states on the graph of the stream; see ``Model.streams``."""
        super().__init__(core, capacity, reset_every)
        self._pace, self._kept_steps = core.pace, _room_for_rest(core, capacity)

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples."""
        return self._manifest.delay_steps

    def state(self, source: int) -> State:
        """Return a copy of one source's state, with its samples that don't fill a unit yet."""
        with self._use:
            slots = self._slots([source])
            age = int(self._age[slots[0]])
            count, kept = age % self._pace.unit, self._rows_of(self._kept_steps, slots)
            rest = take_steps(self._pace.places, kept, 0, count) if count else {}
            return State(self._pool.gather(slots), self._identity, age, rest)

    def restore(self, source: int, state: State) -> None:
        """Continue one source from ``state``; see ``StreamBatch.restore``."""
        rest = _check_rest(self._core, state)
        super().restore(source, state)
        for name, array in rest.items():
            kept = self._by_source(name, self._kept_steps[name])
            kept[self._slots([source]), : state.age % self._pace.unit] = self._by_source(name, array)

    def _by_id(self, given: Any, *, chunks: bool) -> dict[int, Any]:
        if not isinstance(given, Mapping) or not given:
            raise InputError("got samples without ids, expected {id: sample}, or an array and ids")
        samples: Any
        if chunks:
            samples, _ = stack_chunks(self._core, list(given.values()))
        else:
            samples = stack_rows(self._core, list(given.values()))
        with self._use:
            found = self._frames(samples, list(given), step=not chunks)
        results: dict[int, Any] = {}
        for place, source in enumerate(given):
            own = {spec.name: found.row(spec, place, step=not chunks) for spec in self._manifest.outputs}
            given = own if chunks else {name: array for name, array in own.items() if array is not None}
            if given:
                results[source] = next(iter(given.values())) if len(own) == 1 else given
        return results

    def _tick(self, samples: Any, ids: Ids, lengths: Any, *, step: bool) -> dict[str, Array]:
        if lengths is not None:
            raise InputError("got lengths, and rows of this file are of one length; leave them out")
        for spec in self._manifest.outputs:
            late = self._pace.delays[spec.name] or self._pace.unit > 1
            if np.dtype(spec.dtype).kind != "f" and late:
                raise InputError(f"{spec.name} is {spec.dtype}, which has no NaN; give {{id: samples}}")
        found = self._frames(samples, ids, step=step)
        return {spec.name: found.array(spec, step=step) for spec in self._manifest.outputs}

    def _frames(self, samples: Any, ids: Ids, *, step: bool) -> "_Frames":
        """Take samples of some sources; return what they complete."""
        slots = self._slots(ids)
        feeds, sizes = to_graph(self._core, samples, len(slots), step=step)
        steps, start = sizes[self._manifest.sequence or ""], 0
        found = _Frames(self._manifest, self._pace, sizes)
        counts, unit = self._age[slots] % self._pace.unit, self._pace.unit
        going = self._every is None and (self._age[slots] < self._pace.end).all()
        if going and (counts + steps < unit).all():
            self._keep(slots, counts, feeds, steps)
            self._age[slots] += steps
            return found
        with self._kept(slots):
            while start < steps:
                self._reset(self._due(slots))
                ages = self._age[slots]
                if (ended := slots[ages >= self._pace.end]).size:
                    raise self._pace.ended(f"source {self._owner[ended[0]]}")
                left = min(self._every or sys.maxsize, self._pace.end) - int(ages.max())
                size = min(steps - start, left)
                piece = take_steps(self._pace.places, feeds, start, start + size) if size < steps else feeds
                self._take(slots, ages, piece, size, found)
                self._age[slots] += size
                start += size
        return found

    def _take(
        self, slots: Array, ages: Array, feeds: Mapping[str, Array], steps: int, found: "_Frames"
    ) -> None:
        """Take steps behind those that were kept; keep those that don't fill a unit."""
        unit = self._pace.unit
        counts = ages % unit
        if unit > 1:
            feeds = self._with_kept(slots, counts, feeds, steps)
        ends, began, at = (counts + steps) // unit * unit, ages - counts, 0
        while at < ends.max():
            live = np.flatnonzero(ends > at)
            left = int(ends[live].min()) - at
            size = room(self._manifest.states, (began[live] + at).tolist(), left)
            piece = feeds if len(live) == len(slots) else self._rows_of(feeds, live)
            piece = take_steps(self._pace.places, piece, at, at + size) if unit > 1 or size < steps else piece
            found.add(live, began[live] + at, self._hold(slots[live], began[live] + at, piece, size), size)
            at += size
        for name, kept in self._kept_steps.items():
            rows = self._by_source(name, feeds[name])
            places = ends[:, None] + np.arange(unit)
            self._by_source(name, kept)[slots] = rows[np.arange(len(slots))[:, None], places]

    def _keep(self, slots: Array, counts: Array, feeds: Mapping[str, Array], steps: int) -> None:
        """Keep steps that fill no unit, behind the ``counts`` of each source that are kept already."""
        for name, kept in self._kept_steps.items():
            places = counts[:, None] + np.arange(steps)
            self._by_source(name, kept)[slots[:, None], places] = self._by_source(name, feeds[name])

    def _with_kept(
        self, slots: Array, counts: Array, feeds: Mapping[str, Array], steps: int
    ) -> dict[str, Array]:
        """Return ``feeds`` with the kept steps of each source in front, and room for a unit behind."""
        joined, rows = dict(feeds), np.arange(len(slots))[:, None]
        for name, kept in self._kept_steps.items():
            shape = list(feeds[name].shape)
            shape[self._pace.places[name]] = steps + 2 * self._pace.unit
            joined[name] = np.zeros(shape, feeds[name].dtype)
            target = self._by_source(name, joined[name])
            target[:, : self._pace.unit] = self._by_source(name, kept)[slots]
            target[rows, counts[:, None] + np.arange(steps)] = self._by_source(name, feeds[name])
        return joined

    def _by_source(self, name: str, array: Array) -> Array:
        """Return a view of an input with sources first and time second."""
        pace = self._pace
        return np.moveaxis(array, (pace.batches[name], pace.places[name]), (0, 1))

    def _rows_of(self, arrays: Mapping[str, Array], rows: Array) -> dict[str, Array]:
        axes = self._pace.batches
        return {name: array.take(rows, axes[name]) for name, array in arrays.items()}

    @contextmanager
    def _kept(self, slots: Array) -> Iterator[None]:
        before = self._rows_of(self._kept_steps, slots)
        try:
            with super()._kept(slots):
                yield
        except BaseException:
            for name, array in before.items():
                self._by_source(name, self._kept_steps[name])[slots] = self._by_source(name, array)
            raise

    def _hold(self, slots: Array, ages: Array, feeds: Mapping[str, Array], size: int) -> dict[str, Array]:
        """Take a call that no state starts inside of; the states that have not started keep what they are."""
        young = np.flatnonzero(ages + size <= self._pace.settled)
        before = self._pool.gather(slots[young]) if young.size else {}
        outputs = self._chunk(slots, feeds)
        if young.size:
            after = self._pool.gather(slots[young])
            for state in self._manifest.states:
                old, new = (by_slot(each[state.input], *self._axes[state.input]) for each in (before, after))
                held: tuple[Any, ...] = (*[slice(None)] * new[0], ages[young] + size <= state.start)
                new[1][held] = old[1][held]
            self._pool.scatter(slots[young], after)
        return outputs


class _Frames:
    """What a tick completes: a row of frames of each source, filled from the front."""

    def __init__(self, manifest: Manifest, pace: Pace, sizes: Mapping[str, int]) -> None:
        """Make room for as many frames as samples of these sizes can complete, with what was kept."""
        self._manifest, self._pace = manifest, pace
        steps = sizes[manifest.sequence or ""]
        sizes = {**sizes, **manifest.time_sizes(-(-steps // pace.unit) * pace.unit)}
        empty = {spec.name: np.zeros(shape_of(spec.axes, sizes), spec.dtype) for spec in manifest.outputs}
        self._rows = to_sources(manifest, empty, step=False)
        self._counts = {name: np.zeros(len(rows), np.int64) for name, rows in self._rows.items()}

    def add(self, live: Array, ages: Array, outputs: Mapping[str, Array], steps: int) -> None:
        """Add what a call of the sources in rows ``live`` gave, which began at these ages."""
        for spec in self._manifest.outputs:
            rows, part = (self._in_time(spec, each[spec.name]) for each in (self._rows, outputs))
            counts, early = self._counts[spec.name], self._pace.early(spec.name, ages)
            timed = self._pace.axes[spec.name] is not None
            count = steps * self._pace.frames[spec.name] // self._pace.unit if timed else 1
            if part.shape[1:] != (wanted := (count, *rows.shape[2:])):
                raise ContractError(
                    f"output {spec.name!r} of {steps} steps is {part.shape[1:]}, expected {wanted}; the file "
                    "does not keep its contract"
                )
            if self._pace.axes[spec.name] is None:
                has = early < steps // self._pace.unit
                rows[live[has]] = part[has]
                counts[live[has]] = 1
                continue
            frames, first = np.arange(part.shape[1]), counts[live] - early
            real = frames >= early[:, None]
            row, place = (
                np.broadcast_to(each, real.shape) for each in (live[:, None], first[:, None] + frames)
            )
            rows[row[real], place[real]] = part[real]
            counts[live] += real.sum(1)

    def row(self, spec: TensorSpec, place: int, *, step: bool) -> Array | None:
        """Return a source's frames; None where there is no result."""
        row, count = self._rows[spec.name][place], int(self._counts[spec.name][place])
        axis = self._pace.axes[spec.name]
        if axis is None:
            return row if count else None
        row = row[(slice(None),) * axis + (slice(count),)]
        return self._pace.of_step(spec.name, row) if step else row

    def array(self, spec: TensorSpec, *, step: bool) -> Array:
        """Return the frames of all sources, NaN in front of a source that has fewer."""
        rows, counts = self._in_time(spec, self._rows[spec.name]), self._counts[spec.name][:, None]
        axis, frames = self._pace.axes[spec.name], np.arange(rows.shape[1])
        if (counts < len(frames)).any():
            late = np.full_like(rows, np.nan)
            late[frames >= len(frames) - counts] = rows[frames < counts]
            rows = late
        if axis is None or (step and len(frames) == 1):
            return rows[:, 0]
        return np.moveaxis(rows, 1, 1 + axis)

    def _in_time(self, spec: TensorSpec, array: Array) -> Array:
        """Return a view of an output with sources first and time second."""
        axis = self._pace.axes[spec.name]
        return array[:, None] if axis is None else np.moveaxis(array, 1 + axis, 1)


def _room_for_rest(core: Core, rows: int) -> dict[str, Array]:
    """Return room for the steps of a unit of each input with a time axis; none where a unit is one step."""
    manifest = core.manifest
    if manifest.unit == 1:
        return {}
    sizes = {manifest.batch or "": rows, manifest.sequence or "": manifest.unit}
    return {
        spec.name: np.zeros(shape_of(spec.axes, sizes), spec.dtype)
        for spec in core.data
        if spec.name in manifest.time_axes
    }


def _check_rest(core: Core, state: State) -> Mapping[str, Array]:
    """Return the samples of a state that don't fill a unit.

    Raises:
        StateError: they are not as many as its age says, or of another shape.
    """
    manifest, rest = core.manifest, getattr(state, "rest", {})
    count = state.age % manifest.unit if isinstance(state, State) else 0
    names = set(_room_for_rest(core, 1)) if count else set()
    try:
        if set(rest) != names:
            raise InputError(f"got a state of age {state.age} with other samples than the last {count}")  # noqa: TRY301
        for spec in core.data:
            if spec.name in names:
                check_array(spec, rest[spec.name], {manifest.batch or "": 1, manifest.sequence or "": count})
    except InputError as error:
        raise StateError(f"{error}; save the state again, or reset the stream") from error
    return rest
