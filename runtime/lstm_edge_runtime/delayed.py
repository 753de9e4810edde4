"""Streams whose outputs lag, or whose calls take a multiple of several steps.

The steps that do not fill a unit are kept for the next call, and the frames in front of the first real one
are dropped. Everything else is in the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ._core import Core, InputArrays
from .axes import check_array, shape_of
from .chunks import behind, only, take_steps
from .errors import InputError, StateError
from .manifest import Array, TensorSpec
from .state import State
from .stream import Part, Result, Stream
from .stream_batch import Ids, StreamBatch, stack_chunks, stack_rows, to_graph


class DelayedStream(Stream):
    """A stream whose outputs lag, or come once per unit; see ``Stream``."""

    __slots__ = ("_rest",)

    def __init__(self, core: Core, reset_every: "int | str | None" = None) -> None:
        """Open a stream at the reset state."""
        super().__init__(core, reset_every)
        self._rest: Mapping[str, Array] = {}
        """Steps that do not fill a unit, in the file's layout; of no meaning at an age of whole units."""

    @property
    def delay(self) -> int:
        """Number of steps by which the outputs lag."""
        return self._manifest.delay_steps

    @property
    def state(self) -> State:
        """A copy of the state, with the samples that do not fill a unit yet."""
        with self._use:
            rest = self._rest if self._age % self._pace.unit else {}
            return State(self._sets.read(), self._identity, self._age, rest)

    def restore(self, state: State) -> None:
        """Continue from ``state``; see ``Stream.restore``."""
        rest = _check_rest(self._core, state)
        super().restore(state)
        self._rest = rest

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step.

        Args:
            sample: as for ``Stream.step``.

        Returns:
            The output of the frame that this step completes, None if it completes none; ``(frames, C)`` if a
            unit has several frames. With several outputs, a mapping of those that have a frame.

        Raises:
            InputError, StateError: as ``Stream.step``.
        """
        if self._pace.even and self._start + self._pace.settled <= self._steps < self._due:
            return super().step(sample)
        with self._use:
            found = self._take_one(sample)
        of_step = self._pace.of_step
        given = {name: row for name, each in found.items() if (row := of_step(name, each)) is not None}
        return None if not given else given if len(found) > 1 else next(iter(given.values()))

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps.

        Args:
            chunk: as for ``Stream.process``, of any length.

        Returns:
            The complete frames ``(frames, C)``, ``(0, C)`` if there is none; for an output without a time
            axis the last result ``(C,)``, None if there is none. A mapping by name with several outputs.

        Raises:
            InputError, StateError: as ``Stream.process``.
        """
        with self._use:
            call, due = self._chunk_call, self._due
            settled = self._age >= self._pace.settled and not self._age % self._pace.unit
            if settled and call is not None and self._steps + call.steps <= due and call.accept(chunk):
                call.take()
                self._steps += call.steps
                return call.result()
            found: Result = only(self._take(*self._to_graph(chunk, {})))
            return found

    def _take_one(self, sample: InputArrays) -> dict[str, Any]:
        """Take one step; return the outputs that it completes."""
        sizes, arrays = self._to_graph(sample, {self._manifest.sequence: 1})
        count = self._age % self._pace.unit
        if count + 1 == self._pace.unit or self._steps >= self._due:
            return self._take(sizes, arrays)
        self._rest = self._behind_rest(count, arrays)
        self._steps += 1
        return {}

    def _take_piece(self, sizes: Mapping[str, int], arrays: Mapping[str, Array]) -> list[Part]:
        sequence, unit = self._manifest.sequence or "", self._pace.unit
        count = self._age % unit
        arrays, total = self._behind_rest(count, arrays), count + sizes[sequence]
        steps = total // unit * unit
        self._rest = {} if steps == total else take_steps(self._pace.places, arrays, steps, total)
        if not steps:
            return []
        whole = arrays if steps == total else take_steps(self._pace.places, arrays, 0, steps)
        sizes = {**sizes, sequence: steps}
        call = self._chunk_call = self._call_of(sizes, whole, self._chunk_call, drop_sequence=False)
        return [self._call(call, self._age - count)]

    def _behind_rest(self, count: int, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return steps behind the ``count`` steps that are kept."""
        return _joined([self._rest, arrays], self._pace.places) if count else arrays

    @contextmanager
    def _kept(self) -> Iterator[None]:
        rest = self._rest
        try:
            with super()._kept():
                yield
        except BaseException:
            self._rest = rest
            raise


class DelayedBatch(StreamBatch):
    """A batch whose outputs lag, or come once per unit; each source has an age and kept steps of its own.

    In ``{id: output}`` the sources without a frame are left out of a step; in an array their rows are NaN.
    """

    def __init__(self, core: Core, capacity: int, reset_every: "int | str | None" = None) -> None:
        """Reserve states; see ``Model.streams``."""
        super().__init__(core, capacity, reset_every)
        self._pace, self._rest = core.pace, _room_for_rest(core, capacity)

    @property
    def delay(self) -> int:
        """Number of steps by which the outputs lag."""
        return self._manifest.delay_steps

    def state(self, source: int) -> State:
        """Return a copy of one source's state, with its samples that do not fill a unit yet."""
        state = super().state(source)
        with self._use:
            count, kept = state.age % self._pace.unit, self._rows_of(self._rest, self._slots([source]))
        rest = take_steps(self._pace.places, kept, 0, count) if count else {}
        return State(state, state.identity, state.age, rest)

    def restore(self, source: int, state: State) -> None:
        """Continue one source from ``state``; see ``StreamBatch.restore``."""
        rest = _check_rest(self._core, state)
        super().restore(source, state)
        for name, array in rest.items():
            kept = self._by_source(name, self._rest[name])
            kept[self._slots([source]), : state.age % self._pace.unit] = self._by_source(name, array)

    def _by_id(self, given: Any, *, chunks: bool) -> dict[int, Any]:
        if not isinstance(given, Mapping) or not given:
            raise InputError("got samples without ids, expected {id: sample}, or an array and ids")
        arrays = list(given.values())
        samples: Any = stack_chunks(self._core, arrays)[0] if chunks else stack_rows(self._core, arrays)
        with self._use:
            rows, pace = self._frames(samples, list(given), step=not chunks), self._pace
        results: dict[int, Any] = {}
        for source, own in zip(given, rows, strict=True):
            if not chunks:
                own = {name: pace.of_step(name, each) for name, each in own.items()}
                own = {name: each for name, each in own.items() if each is not None}
            if own:
                several = len(self._manifest.outputs) > 1
                results[source] = own if several else next(iter(own.values()))
        return results

    def _tick(self, samples: Any, ids: Ids, lengths: Any, *, step: bool) -> dict[str, Array]:
        if lengths is not None:
            raise InputError("got lengths, but rows of this file are of one length; leave them out")
        for spec in self._manifest.outputs:
            lags = self._pace.delays[spec.name] or self._pace.unit > 1
            if np.dtype(spec.dtype).kind != "f" and lags:
                raise InputError(f"{spec.name} is {spec.dtype}, which has no NaN; give {{id: samples}}")
        slots = self._slots(ids)
        ages = self._age[slots]
        if self._pace.even and self._every is None and (ages >= self._pace.settled).all():
            return super()._tick(samples, ids, None, step=step)
        rows = self._frames(samples, ids, step=step)
        return {
            spec.name: self._stacked(spec, [row[spec.name] for row in rows], step=step)
            for spec in self._manifest.outputs
        }

    def _frames(self, samples: Any, ids: Ids, *, step: bool) -> list[dict[str, Array | None]]:
        """Take samples of some sources; return the frames that each completes, by output."""
        slots = self._slots(ids)
        feeds, sizes = to_graph(self._core, samples, len(slots), step=step)
        steps, start, places = sizes[self._manifest.sequence or ""], 0, self._pace.places
        found: list[list[dict[str, Array]]] = [[] for _ in slots]
        with self._kept(slots):
            while start < steps:
                self._reset(self._due(slots))
                size = min([steps - start, *([] if self._every is None else self._every - self._age[slots])])
                piece = feeds if size == steps else take_steps(places, feeds, start, start + size)
                self._take(slots, piece, size, found)
                self._age[slots] += size
                start += size
        return [self._joined_row(parts, sizes) for parts in found]

    def _take(
        self, slots: Array, feeds: Mapping[str, Array], size: int, found: list[list[dict[str, Array]]]
    ) -> None:
        """Take ``size`` steps behind those that are kept, and keep those that do not fill a unit."""
        unit = self._pace.unit
        counts = self._age[slots] % unit
        units, rows = (counts + size) // unit, np.arange(len(slots))[:, None]
        if unit > 1:
            feeds = self._behind_rest(slots, counts, feeds, size)
        for count in np.unique(units[units > 0]).tolist():  # two at the most
            live = np.flatnonzero(units == count)
            given = feeds if len(live) == len(slots) else self._rows_of(feeds, live)
            given = given if unit == 1 else take_steps(self._pace.places, given, 0, count * unit)
            outputs = self._chunk(slots[live], given)
            for place, row in enumerate(live.tolist()):
                began = int(self._age[slots[row]] - counts[row])
                found[row].append(self._real({n: a[place] for n, a in outputs.items()}, began, count))
        for name, kept in self._rest.items():
            ends = (units * unit)[:, None] + np.arange(unit)
            self._by_source(name, kept)[slots] = self._by_source(name, feeds[name])[rows, ends]

    def _real(self, row: Mapping[str, Array], began: int, units: int) -> dict[str, Array]:
        """Return the outputs of one source from its first frame on, of a call that began at an age."""
        real = {}
        for name, array in row.items():
            axis, early = self._pace.axes[name], int(self._pace.early(name, began))
            if axis is not None:
                real[name] = behind(array, axis, early)
            elif early < units:
                real[name] = array
        return real

    def _joined_row(
        self, parts: Sequence[Mapping[str, Array]], sizes: Mapping[str, int]
    ) -> dict[str, Array | None]:
        """Return the frames of one source in all its calls."""
        manifest, joined = self._manifest, dict[str, Array | None]()
        for spec in manifest.outputs:
            axis, arrays = (
                self._pace.axes[spec.name],
                [each[spec.name] for each in parts if spec.name in each],
            )
            if axis is None:
                joined[spec.name] = arrays[-1] if arrays else None
            elif arrays:
                joined[spec.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)
            else:
                axes = tuple(each for each in spec.axes if each != manifest.batch)
                joined[spec.name] = np.zeros(shape_of(axes, {**sizes, **manifest.time_sizes(0)}), spec.dtype)
        return joined

    def _stacked(self, spec: TensorSpec, rows: Sequence[Array | None], *, step: bool) -> Array:
        """Return the frames of all sources, NaN in front of a source that has fewer than others."""
        axis = self._pace.axes[spec.name]
        if axis is None:
            axes = tuple(each for each in spec.axes if each != self._manifest.batch)
            none = np.full(shape_of(axes, {}), np.nan, spec.dtype)
            return np.stack([none if row is None else row for row in rows])
        arrays = [row for row in rows if row is not None]
        longest = max(max(array.shape[axis] for array in arrays), int(step))
        widths = [[(0, 0)] * array.ndim for array in arrays]
        for width, array in zip(widths, arrays, strict=True):
            width[axis] = (longest - array.shape[axis], 0)
        stacked = np.stack(
            [np.pad(each, width, constant_values=np.nan) for each, width in zip(arrays, widths, strict=True)]
        )
        return stacked.take(0, 1 + axis) if step and longest == 1 else stacked

    def _behind_rest(
        self, slots: Array, counts: Array, feeds: Mapping[str, Array], size: int
    ) -> dict[str, Array]:
        """Return ``feeds`` behind the kept steps of each source, with room for a unit at the end."""
        joined, rows = dict(feeds), np.arange(len(slots))[:, None]
        for name, kept in self._rest.items():
            shape = list(feeds[name].shape)
            shape[self._pace.places[name]] = size + 2 * self._pace.unit
            joined[name] = np.zeros(shape, feeds[name].dtype)
            target = self._by_source(name, joined[name])
            target[:, : self._pace.unit] = self._by_source(name, kept)[slots]
            target[rows, counts[:, None] + np.arange(size)] = self._by_source(name, feeds[name])
        return joined

    def _by_source(self, name: str, array: Array) -> Array:
        """Return a view of an input with sources first and time second."""
        return np.moveaxis(array, (self._pace.batches[name], self._pace.places[name]), (0, 1))

    def _rows_of(self, arrays: Mapping[str, Array], rows: Array) -> dict[str, Array]:
        return {name: array.take(rows, self._pace.batches[name]) for name, array in arrays.items()}

    @contextmanager
    def _kept(self, slots: Array) -> Iterator[None]:
        before = self._rows_of(self._rest, slots)
        try:
            with super()._kept(slots):
                yield
        except BaseException:
            for name, array in before.items():
                self._by_source(name, self._rest[name])[slots] = self._by_source(name, array)
            raise


def _joined(parts: Sequence[Mapping[str, Array]], places: Mapping[str, int]) -> dict[str, Array]:
    """Return inputs one after another; those without a time axis are the last ones."""
    return {
        name: np.concatenate([part[name] for part in parts], places[name]) if name in places else array
        for name, array in parts[-1].items()
    }


def _room_for_rest(core: Core, rows: int) -> dict[str, Array]:
    """Return room for the steps of a unit of each input with a time axis; none if a unit is one step."""
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
    """Return the samples of a state that do not fill a unit.

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
