"""A batch: many sources, each with its own id and state, and one call into the engine
per tick.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import InputArrays, as_array, check_samples, check_state, reset_states
from .axes import Layout
from .engine import Arrays, Call
from .errors import InputError, StateError
from .manifest import Array
from .results import Result, only
from .rules import NEVER, Entry, check_batched, check_streamable, reset_interval
from .samples import SampleReader, Samples, copier, for_caller
from .state import State

_MAX_CAPACITY = 2**31 - 1
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]


class StreamBatch:
    """Many sources, each with its own id and state, for one thread at a time;
    ``Model.streams`` creates it.

    Sources come and go while it runs. A tick takes any of them, in any order, and
    touches only their states. An exception leaves every state as it was.
    """

    def __init__(self, model: Any, capacity: int, reset_every: Any = None) -> None:
        """Reserve states for up to ``capacity`` sources; see ``Model.streams``."""
        if type(capacity) is not int or not 1 <= capacity <= _MAX_CAPACITY:
            raise InputError(
                f"capacity is {capacity!r:.40}, expected a positive integer up to"
                f" {_MAX_CAPACITY:,}"
            )
        self._engine = model._engine
        self._manifest = self._engine.manifest
        check_streamable(self._manifest)
        check_batched(self._engine)
        self._every = reset_interval(reset_every)
        self._identity = model.identity
        self._reader = SampleReader(model, many=True)
        self._states = self._engine.states(capacity)
        self._unit = self._manifest.unit
        delays = [output.delay for output in self._engine.outputs]
        self._full_from = self._unit * max(delays, default=0)
        """Upper bound of the number of steps after which every unit has all its
        frames."""
        self._always_one_call = (
            self._unit == 1 and not self._full_from and self._every == NEVER
        )
        """True if every tick is one call with all frames."""
        self._entry = Entry()
        self._age = np.zeros(capacity, np.int64)
        """Steps of each source since its reset."""
        self._incomplete: dict[str, Array] = {}
        """The samples of each source that do not fill a unit yet,
        ``(capacity, unit, ...)``."""
        if self._unit > 1:
            self._make_room(capacity)
        self._tick_of_all: Call | None = None
        self._copies: Callable[[], Result]
        """Copies the outputs of that call."""
        self._all = np.arange(capacity)
        self._owner = np.full(capacity, -1, dtype=np.int64)
        """The id in each slot, -1 if it is free; an id is its slot plus a multiple of
        the capacity."""
        self._next = np.arange(capacity, dtype=np.int64)
        self._unused = list(range(capacity - 1, -1, -1))
        self._order_of_slot = np.zeros(capacity, dtype=np.int64)

    def _make_room(self, capacity: int) -> None:
        """Allocate the samples of incomplete units."""
        for layout in self._engine.inputs:
            if layout.timed:
                shape = (capacity, self._unit, *layout.inner)
                self._incomplete[layout.name] = np.zeros(shape, layout.dtype)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the sources."""
        return tuple(self._owner[self._owner >= 0].tolist())

    def __len__(self) -> int:
        """Return the number of open sources."""
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
            slots = self._slots([source])
            arrays = self._states.read(slots)
            age = int(self._age[slots][0])
            count = age % self._unit
            samples = {}
            if count:
                for name, stored in self._incomplete.items():
                    samples[name] = stored[slots[0], :count]
            return State(
                arrays=arrays, identity=self._identity, age=age, samples=samples
            )

    def restore(self, source: int, state: State) -> None:
        """Continue one source from the ``state`` of any stream; ``StateError`` as for
        ``Stream.restore``.
        """
        with self._entry:
            slots = self._slots([source])
            arrays = check_state(state, self._manifest, identity=self._identity, rows=1)
            samples = check_samples(state, self._manifest)
            self._states.write(slots, arrays)
            self._age[slots] = state.age
            for name, array in samples.items():
                self._incomplete[name][slots[0], : len(array)] = array

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
            raise InputError("this file takes one step per call; use step()")
        with self._entry:
            return self._tick(chunks, ids, step=False)

    def _tick(self, x: InputArrays, ids: Ids, *, step: bool) -> Result:
        """Check everything, call the engine, and only then change the states of
        ``ids``.
        """
        slots = self._slots(ids)
        samples = self._reader.read(x, len(slots), step=step)
        if not self._always_one_call and not self._is_one_call(slots, samples.steps):
            return self._tick_in_segments(slots, samples, step=step)
        if step and slots is self._all and self._states.in_place and self._unit == 1:
            return self._step_all(samples)
        outputs = self._states.run(slots, samples.arrays, samples.sizes)
        self._age[slots] += samples.steps
        return self._for_caller(outputs, step=step)

    def _step_all(self, samples: Samples) -> Result:
        """Take one step of every source in place."""
        call = self._tick_of_all
        if call is None or call.sizes != samples.sizes:
            call = self._tick_of_all = self._states.bind(samples.sizes)
            self._copies = copier(call.outputs, self._engine.outputs, step=True)
        for name, array in samples.arrays.items():
            call.inputs[name][...] = array
        if call.run():
            raise self._engine.refusal()
        self._age += 1
        return self._copies()

    def _for_caller(self, outputs: Arrays, *, step: bool) -> Result:
        """Return outputs as callers see them."""
        results = {}
        for output in self._engine.outputs:
            array = outputs[output.name]
            results[output.name] = for_caller(array, output, step=step)
        return only(results, len(results))

    def _is_one_call(self, slots: Array, steps: int) -> bool:
        """Return True if whole units follow whole units of all sources, without a
        reset or a dropped frame.
        """
        ages = self._age[slots]
        return (
            not steps % self._unit
            and int(ages.min()) >= self._full_from
            and int(ages.max()) + steps <= self._every
            and not np.count_nonzero(ages % self._unit)
        )

    # --- Segments

    def _tick_in_segments(
        self, slots: Array, samples: Samples, *, step: bool
    ) -> Result:
        """Take steps in segments, so that no source is reset within one."""
        ages = self._age[slots]
        counts = ages % self._unit
        units = (counts + samples.steps) // self._unit
        is_reset = int(ages.max()) + samples.steps > self._every
        completed = _Frames(self._engine.outputs, len(slots))
        if not is_reset and not units.any():
            self._keep(slots, counts, samples)
        elif is_reset or len(np.unique(units[units > 0])) > 1:
            with self._unchanged_by_errors(slots):
                self._take_segments(slots, samples, completed)
        else:
            self._take_segment(slots, samples, completed)
        results = {}
        for output in self._engine.outputs:
            if output.name in self._manifest.counts:
                results[output.name] = completed.counted(output)
            else:
                results[output.name] = completed.stacked(output, step=step)
        return only(results, len(results))

    def _keep(self, slots: Array, counts: Array, samples: Samples) -> None:
        """Store samples after ``counts`` earlier ones that do not fill a unit."""
        rows = slots[:, None]
        steps = counts[:, None] + np.arange(samples.steps)
        for name, stored in self._incomplete.items():
            stored[rows, steps] = samples.arrays[name]
        self._age[slots] += samples.steps

    def _take_segments(
        self, slots: Array, samples: Samples, completed: "_Frames"
    ) -> None:
        """Take steps up to the next reset of a source, until all are taken."""
        start = 0
        while start < samples.steps:
            ended = slots[self._age[slots] >= self._every]
            if ended.size:
                self._reset(ended)
            until_reset = self._every - int(self._age[slots].max())
            steps = min(samples.steps - start, until_reset)
            arrays = {}
            for layout in self._engine.inputs:
                array = samples.arrays[layout.name]
                chunk = array[:, start : start + steps] if layout.timed else array
                arrays[layout.name] = chunk
            self._take_segment(slots, Samples(arrays, samples.sizes, steps), completed)
            start += steps

    def _take_segment(
        self, slots: Array, samples: Samples, completed: "_Frames"
    ) -> None:
        """Run the stored samples and the new ones, and store those that do not fill a
        unit.
        """
        steps = samples.steps
        ages = self._age[slots]
        counts = ages % self._unit
        units = (counts + steps) // self._unit
        joined = self._join_incomplete(slots, counts, samples)
        for number in np.unique(units[units > 0]).tolist():  # two at the most
            rows = np.flatnonzero(units == number)
            taken = number * self._unit
            inputs = {}
            for layout in self._engine.inputs:
                array = joined[layout.name][rows]
                inputs[layout.name] = array[:, :taken] if layout.timed else array
            sizes = {**samples.sizes, **self._manifest.axis_sizes(steps=taken)}
            outputs = self._states.run(slots[rows], inputs, sizes)
            completed.add(
                _Units(
                    rows=rows,
                    units=number,
                    units_before=ages[rows] // self._unit,
                    outputs=outputs,
                )
            )
        row_numbers = np.arange(len(slots))[:, None]
        last = (units * self._unit)[:, None] + np.arange(self._unit)
        for name, stored in self._incomplete.items():
            stored[slots] = joined[name][row_numbers, last]
        self._age[slots] += steps

    def _join_incomplete(
        self, slots: Array, counts: Array, samples: Samples
    ) -> dict[str, Array]:
        """Return the stored samples followed by the new ones, with room for a unit at
        the end.
        """
        joined = dict(samples.arrays)
        row_numbers = np.arange(len(slots))[:, None]
        new_steps = counts[:, None] + np.arange(samples.steps)
        for name, stored in self._incomplete.items():
            steps = samples.steps + 2 * self._unit
            shape = (len(slots), steps, *stored.shape[2:])
            array = joined[name] = np.zeros(shape, stored.dtype)
            array[:, : self._unit] = stored[slots]
            array[row_numbers, new_steps] = samples.arrays[name]
        return joined

    # --- States

    def _reset(self, slots: Array) -> None:
        """Set the states of these sources to their reset values."""
        self._states.write(slots, reset_states(self._manifest, len(slots)))
        self._age[slots] = 0

    @contextmanager
    def _unchanged_by_errors(self, slots: Array) -> Iterator[None]:
        """Restore states, ages and stored samples if the block raises."""
        states = self._states.read(slots)
        ages = self._age[slots]
        incomplete = {name: array[slots] for name, array in self._incomplete.items()}
        try:
            yield
        except BaseException:
            self._states.write(slots, states)
            self._age[slots] = ages
            for name, array in incomplete.items():
                self._incomplete[name][slots] = array
            raise

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
        self._order_of_slot[slots] = order
        twice = self._order_of_slot[slots] != order
        if np.count_nonzero(twice):
            raise StateError(
                f"got source {sources[twice][0]} twice in one tick; give it in the next"
            )
        return slots


class _Units(NamedTuple):
    """The outputs of one call."""

    rows: Array
    """The rows of the tick that took part."""
    units: int
    """The number of units, the same for all of them."""
    units_before: Array
    """The number of units of each row since its reset, before the call."""
    outputs: Arrays
    """Outputs by name, one row per source."""


class _Frames:
    """The frames that the sources of a tick complete."""

    def __init__(self, outputs: Sequence[Layout], rows: int) -> None:
        """Collect frames of ``outputs`` for ``rows`` sources."""
        self._outputs = outputs
        self._rows = rows
        self._calls: list[_Units] = []

    def add(self, call: _Units) -> None:
        """Add the outputs of a call."""
        self._calls.append(call)

    def stacked(self, output: Layout, *, step: bool) -> Array:
        """Return an output of all sources, NaN in front of those with fewer frames."""
        if len(self._calls) == 1 and self._is_whole(self._calls[0], output):
            array = self._calls[0].outputs[output.name]
            return for_caller(array, output, step=step)
        rows = self._by_row(output)
        if not output.timed:
            result = self._missing(output, ())
            for row, arrays in rows.items():
                if arrays:
                    result[row] = arrays[-1]
            return result
        lengths = {row: sum(map(len, arrays)) for row, arrays in rows.items()}
        longest = max([int(step), *lengths.values()])
        result = self._missing(output, (longest,))
        for row, arrays in rows.items():
            if lengths[row]:
                start = longest - lengths[row]
                np.concatenate(arrays, out=result[row, start:])
        return for_caller(result, output, step=step)

    def _missing(self, output: Layout, frames: tuple[int, ...]) -> Array:
        """Return an array of all sources without frames: NaN, or 0 for integers."""
        dtype = np.dtype(output.dtype)
        missing = np.nan if dtype.kind == "f" else 0
        return np.full((self._rows, *frames, *output.inner), missing, dtype)

    def counted(self, output: Layout) -> Array:
        """Return an output that counts steps, added up over the calls."""
        total = np.zeros((self._rows, *output.inner), output.dtype)
        for call in self._calls:
            total[call.rows] += call.outputs[output.name]
        return total

    def _is_whole(self, call: _Units, output: Layout) -> bool:
        """Return True if a call has all its frames for every row of the tick."""
        if len(call.rows) < self._rows:
            return False
        return int(call.units_before.min()) * output.frames >= output.delay

    def _by_row(self, output: Layout) -> dict[int, list[Array]]:
        """Return by row the frames of each call, or its last result, without the
        delay.
        """
        rows: dict[int, list[Array]] = {}
        for call in self._calls:
            frames_before = call.units_before * output.frames
            dropped = np.maximum(0, output.delay - frames_before)
            for index, row in enumerate(call.rows.tolist()):
                array = call.outputs[output.name][index]
                arrays = rows.setdefault(row, [])
                if output.timed:
                    arrays.append(array[dropped[index] :])
                elif dropped[index] < call.units:
                    arrays.append(array)
        return rows
