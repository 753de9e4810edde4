"""A batch of streams: many sources of samples, one call into the engine per tick."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._core import Core, ExclusiveUse, InputArrays, as_array, by_name
from .axes import check_output, describe, learn_sizes, resolve, row_factor, shape_of
from .binding import WORKSPACE, BoundCall, StateSets, retain_heap
from .chunks import only, take_steps, time_axis
from .errors import ContractError, InputError, StateError
from .manifest import LONGEST, Array, Manifest
from .state import State

if TYPE_CHECKING:
    from .native.engine import NativePool, NativeTick


_BLOCK = 256
"""Rows that onnxruntime takes at a time."""
_DTYPE = attrgetter("dtype")
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]


class StreamBatch:
    """Many sources, each with its own id and state; ``Model.streams`` creates it.

    Sources come and go while it runs. A tick takes any of them, in any order, and touches only their states.
    Like a stream it belongs to one thread at a time, and an exception leaves every state as it was.
    """

    def __init__(self, core: Core, capacity: int, reset_every: "int | str | None" = None) -> None:
        """Reserve states for ``capacity`` sources, none of which exists yet; see ``Model.streams``."""
        manifest = core.manifest
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise InputError(f"capacity is {capacity!r}, expected a positive integer")
        core.require_streamable()
        self._every = core.steps_to_reset(reset_every)
        if manifest.batch is None:
            raise ContractError("this file has no batch axis; open one stream() per source instead")
        _check_rows(manifest)
        self._core, self._manifest, self._batch = core, manifest, manifest.batch
        self._identity = core.identity
        self._use = ExclusiveUse("batch")
        self._axes, states = _batch_axes(manifest), core.initial_states({self._batch: capacity})
        self._native = None if core.native is None else core.native.pool(states)
        self._pool: NativePool | StatePool = self._native or StatePool(core, self._axes, states)
        retain_heap(WORKSPACE * self._pool.nbytes)
        self._at_reset = core.initial_states({self._batch: 1})
        self._owner = np.full(capacity, -1, dtype=np.int64)
        """The id in each slot, -1 where it is free; an id is its slot plus a multiple of the capacity."""
        self._next = np.arange(capacity, dtype=np.int64)
        self._free = list(range(capacity - 1, -1, -1))
        self._place = np.zeros(capacity, dtype=np.int64)
        self._all = np.arange(capacity)
        self._age = np.zeros(capacity, dtype=np.int64)
        """Of each slot, the steps since its state was at reset."""
        self._tick_of: NativeTick | None = None

    @property
    def capacity(self) -> int:
        """Maximum number of sources."""
        return len(self._owner)

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples; 0 unless frames need later steps."""
        return 0

    @property
    def reset_every(self) -> int | None:
        """Number of steps after which a source is reset automatically; None for never."""
        return self._every

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the sources."""
        return tuple(self._owner[self._owner >= 0].tolist())

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def add(self) -> int:
        """Add a source at the reset state and return its id, which no other source ever had.

        Raises:
            StateError: the batch is full.
        """
        with self._use:
            if not self._free:
                raise StateError(
                    f"all {self.capacity} slots are in use; remove a source, or open a larger batch"
                )
            slot = self._free.pop()
            source = int(self._next[slot])
            self._next[slot] += self.capacity
            self._owner[slot] = source
            self._reset(np.array([slot]))
            return source

    def remove(self, source: int) -> None:
        """Remove a source; its place is free for another.

        Raises:
            StateError: it is not in the batch.
        """
        with self._use:
            slot = self._slot(source)
            self._owner[slot] = -1
            self._free.append(slot)

    def reset(self, source: int) -> None:
        """Reset one source's states; ``StateError`` if it is not in the batch."""
        with self._use:
            self._reset(self._slots([source]))

    def state(self, source: int) -> State:
        """Return a copy of one source's state, for any stream; ``StateError`` if it is not in the batch."""
        with self._use:
            slots = self._slots([source])
            return State(self._pool.gather(slots), self._identity, int(self._age[slots[0]]))

    def restore(self, source: int, state: State) -> None:
        """Continue one source from ``state``, of a stream or of another batch.

        Raises:
            StateError: the source is not in the batch, or the state is of another model.
        """
        with self._use:
            slots = self._slots([source])
            self._pool.scatter(slots, self._core.check_state(state, {self._batch: 1}))
            self._age[slots] = state.age

    def step(self, samples: InputArrays | Mapping[int, Any], ids: Ids | None = None) -> Any:
        """Take one time step of some sources.

        Args:
            samples: with ``ids``, an array ``(K, I)`` (by name where there are several inputs), a row a
                source; without, ``{id: sample (I,)}``.
            ids: the sources that the rows belong to, each once.

        Returns:
            With ``ids``, the outputs ``(K, C)``, by name where there are several; else ``{id: output}``.
            Each source's output equals that of its own ``Stream.step``. Where that is None, its row is
            NaN, and ``{id: output}`` is without it.

        Raises:
            InputError: wrong rank, width or dtype; no source; NaN or infinity where the model checks, or for
                an int8 file, which quantizes a tick's sources together.
            StateError: a source that is not in the batch, or given twice; another thread is using the batch.
        """
        if ids is None:
            return self._by_id(samples, chunks=False)
        with self._use:
            return only(self._tick(samples, ids, None, step=True))

    def process(
        self,
        chunks: InputArrays | Mapping[int, Any],
        ids: Ids | None = None,
        lengths: npt.ArrayLike | None = None,
    ) -> Any:
        """Take many time steps of some sources in one call.

        Args:
            chunks: with ``ids``, ``(K, L, I)``; without, ``{id: chunk (L_i, I)}``, of unequal lengths where
                the file takes ``lengths``.
            ids: the sources that the rows belong to, each once.
            lengths: with ``ids``, the valid steps of each row ``(K,)``.

        Returns:
            As ``step``. In ``{id: output}`` an output with a sequence axis ends with its own chunk.

        Raises:
            InputError: as ``step``; or unequal chunks for a file without ``lengths``, or without a time axis.
            StateError: as ``step``.
        """
        if self._manifest.sequence is None:
            raise InputError("this file takes one step a call; use step()")
        if ids is None:
            if lengths is not None:
                raise InputError("got {id: chunk} and lengths; each chunk has its own, so remove lengths")
            return self._by_id(chunks, chunks=True)
        with self._use:
            return only(self._tick(chunks, ids, lengths, step=False))

    def _by_id(self, given: Any, *, chunks: bool) -> dict[int, Any]:
        if not isinstance(given, Mapping) or not given:
            raise InputError("got samples without ids, expected {id: sample}, or an array and ids")
        ids = list(given)
        if not chunks:
            with self._use:
                rows = self._tick(stack_rows(self._core, list(given.values())), ids, None, step=True)
            if len(rows) == 1:
                return dict(zip(ids, next(iter(rows.values())), strict=True))
            each = (dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True))
            return dict(zip(ids, each, strict=True))
        stacked, lengths = stack_chunks(self._core, list(given.values()))
        with self._use:
            rows = self._tick(stacked, ids, lengths if self._manifest.lengths else None, step=False)
        each = (_cut(self._manifest, rows, place, end) for place, end in enumerate(lengths.tolist()))
        return dict(zip(ids, map(only, each), strict=True))

    def _tick(self, samples: Any, ids: Ids, lengths: npt.ArrayLike | None, *, step: bool) -> dict[str, Array]:
        """Check everything, call the engine once, and only then change the states of ``ids``."""
        slots = self._slots(ids)
        if step:
            if (due := self._due(slots)).size:
                with self._kept(due):
                    self._reset(due)
                    rows = self._step(samples, slots)
            else:
                rows = self._step(samples, slots)
            self._age[slots] += 1
            return rows
        feeds, sizes = to_graph(self._core, samples, len(slots), step=step)
        valid = self._core.convert_lengths(lengths, sizes)
        steps = sizes.get(self._manifest.sequence or "", 1)
        self._check_padding(valid, steps)
        retain_heap(WORKSPACE * steps * self._pool.nbytes)
        ends = valid[self._core.lengths.name] if self._core.lengths else np.full(len(slots), steps)
        if self._every is not None:
            with self._kept(slots):
                return self._by_window(slots, feeds, ends, steps)
        rows = self._chunk(slots, feeds | valid)
        self._age[slots] += ends
        return rows

    def _step(self, samples: InputArrays, slots: Array) -> dict[str, Array]:
        if self._native is not None:
            return self._native_step(self._native, samples, slots)
        feeds, sizes = to_graph(self._core, samples, len(slots), step=True)
        if len(slots) == self.capacity <= _BLOCK:
            return self._tick_all(slots, feeds, sizes)
        return self._run_blocks(slots, feeds | self._core.convert_lengths(None, sizes), step=True)

    def _chunk(self, slots: Array, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._native is not None:
            outputs = self._native.engine.tick(feeds, self._native, slots)
            return to_sources(self._manifest, outputs, step=False)
        return self._run_blocks(slots, feeds, step=False)

    def _by_window(
        self, slots: Array, feeds: Mapping[str, Array], ends: Array, steps: int
    ) -> dict[str, Array]:
        """Take chunks in pieces, so that no source starts again inside of one.

        Args:
            slots: of the sources.
            feeds: their chunks in the file's layout, ``steps`` long.
            ends: number of valid steps ``(K,)``.
            steps: the chunks' length.
        """
        rows: dict[str, Array] = {}
        batch, start, last = self._batch, 0, int(ends.max())
        while start < last:
            live = np.flatnonzero(ends > start)
            self._reset(self._due(slots[live]))
            room = (self._every or last) - self._age[slots[live]]
            size = min(last - start, int(room.min()))
            valid = np.minimum(ends[live] - start, size)
            given = {
                spec.name: feeds[spec.name].take(live, axis=spec.axes.index(batch))
                for spec in self._core.data
            }
            given = take_steps(self._manifest.time_axes, given, start, start + size)
            if self._core.lengths:
                given[self._core.lengths.name] = valid.astype(self._core.lengths.dtype)
            self._put(rows, self._chunk(slots[live], given), live, slice(start, start + size), (steps, last))
            self._age[slots[live]] += valid
            start += size
        return rows

    def _put(
        self,
        rows: dict[str, Array],
        piece: Mapping[str, Array],
        live: Array,
        time: slice,
        steps: tuple[int, int],
    ) -> None:
        """Write a piece of some sources into the outputs of whole chunks; the first makes room.

        ``steps`` are those of the chunks and of the longest row.
        """
        for spec in self._manifest.outputs:
            part, along = piece[spec.name], time_axis(spec.axes, self._manifest)
            if spec.name not in rows:
                frames = steps[LONGEST in spec.axes]
                shape = [frames if axis - 1 == along else size for axis, size in enumerate(part.shape)]
                rows[spec.name] = np.zeros(shape, part.dtype)
            if spec.name in self._manifest.counts:
                rows[spec.name][live] += part
            elif along is None:
                rows[spec.name][live] = part
            else:
                np.moveaxis(rows[spec.name], 1 + along, 1)[live, time] = np.moveaxis(part, 1 + along, 1)

    def _reset(self, slots: Array) -> None:
        self._pool.scatter(slots, self._at_reset)
        self._age[slots] = 0

    def _due(self, slots: Array) -> Array:
        """Return those of the slots whose states are to start again."""
        return slots[:0] if self._every is None else slots[self._age[slots] >= self._every]

    @contextmanager
    def _kept(self, slots: Array) -> Iterator[None]:
        """Put states and ages of sources back where they were if the block raises."""
        before, age = self._pool.gather(slots), self._age[slots]
        try:
            yield
        except BaseException:
            self._pool.scatter(slots, before)
            self._age[slots] = age
            raise

    def _native_step(self, pool: "NativePool", samples: InputArrays, slots: Array) -> dict[str, Array]:
        rows, arrays = len(slots), []
        for spec, array in self._core.convert_inputs(samples):
            axes = [axis for axis in spec.axes if axis not in (self._batch, self._manifest.sequence)]
            if array.shape != (rows, *axes):
                learn_sizes(spec.name, (self._batch, *axes), array.shape, {self._batch: rows})
            arrays.append(array)
        if self._tick_of is None:
            self._tick_of = pool.single_step()
        return self._tick_of.run(arrays, None if slots is self._all else slots, rows)

    def _run_blocks(self, slots: Array, feeds: Mapping[str, Array], *, step: bool) -> dict[str, Array]:
        """Run onnxruntime on blocks of rows, whose working memory stays in the cache."""
        places = {spec.name: spec.axes.index(self._batch) for spec in self._manifest.inputs}
        steps = self._manifest.steps(feeds)
        times = {self._manifest.sequence or "": steps, **self._manifest.time_sizes(steps)}
        rows: list[dict[str, Array]] = []
        after: list[dict[str, Array]] = []
        for start in range(0, len(slots), _BLOCK):
            part = slice(start, start + _BLOCK)
            given = {
                name: np.ascontiguousarray(array[(slice(None),) * places[name] + (part,)])
                for name, array in feeds.items()
            }
            outputs, states = self._core.call(given | self._pool.gather(slots[part]))
            sizes = {**times, self._batch: len(slots[part])}
            for spec in self._manifest.outputs:
                check_output(spec.name, spec.axes, outputs[spec.name].shape, sizes)
            rows.append(to_sources(self._manifest, outputs, step=step))
            after.append(states)
        for start, states in zip(range(0, len(slots), _BLOCK), after, strict=True):
            self._pool.scatter(slots[start : start + _BLOCK], states)
        if len(rows) == 1:
            return rows[0]
        return {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}

    def _check_padding(self, valid: Mapping[str, Array], steps: int) -> None:
        """Refuse short rows if padding would change their states."""
        shortest = min((int(array.min()) for array in valid.values()), default=steps)
        if shortest < steps and not self._manifest.padded_states:
            raise InputError(
                f"got chunks of {shortest} to {steps} steps, but this file's states do not stop at a row's "
                "length; give chunks of one length, or pack the sequences in forward and export again"
            )

    def _tick_all(
        self, slots: Array, feeds: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """Take one step of every source in place: samples move to the states, not states to the samples."""
        assert isinstance(self._pool, StatePool)
        call = self._pool.bound_step(feeds, sizes)
        where: Any = slice(None) if slots is self._all else slots
        for spec in self._core.data:
            place = spec.axes.index(self._batch)
            call.inputs[spec.name][(slice(None),) * place + (where,)] = feeds[spec.name]
        call.run()
        rows = to_sources(self._manifest, call.outputs, step=True)
        return {name: array[where].copy() for name, array in rows.items()}

    def _slots(self, ids: Ids) -> Array:
        """Return the slots of ``ids``; each must be in the batch and given once."""
        try:
            sources = np.asarray(ids)
        except ValueError as error:
            raise InputError(
                f"ids are not one row of whole numbers ({error}); give each source once"
            ) from error
        if sources.ndim != 1 or not sources.size or sources.dtype.kind not in "iu":
            raise InputError(
                f"ids are {sources.dtype} {sources.shape}, expected whole numbers (K,), K from 1"
            )
        same_kind = sources.dtype == np.int64 and len(sources) == self.capacity
        if same_kind and not self._free and sources.tobytes() == self._owner.tobytes():
            return self._all
        slots: Array = np.remainder(sources, self.capacity, dtype=np.int64)
        order = np.arange(len(slots))
        absent = (sources < 0) | (self._owner[slots] != sources)
        if absent.any():
            raise StateError(f"source {sources[absent][0]} is not in this batch; add() gives ids")
        self._place[slots] = order
        twice = self._place[slots] != order
        if twice.any():
            raise StateError(f"got source {sources[twice][0]} twice in one tick; give it in the next")
        return slots

    def _slot(self, source: int) -> int:
        return int(self._slots([source])[0])


class StatePool:
    """Blocks of ``capacity`` slots along each state's batch axis, all at the reset value.

    An axis of ``k*N`` rows has k blocks of N, as the rows of a stacked output do.
    """

    def __init__(self, core: Core, axes: Mapping[str, tuple[int, int]], states: dict[str, Array]) -> None:
        """Take the blocks; ``ContractError`` if a state has no rows per source."""
        self._core, self._axes, self._blocks = core, axes, states
        if any(factor for _, factor in axes.values()):
            self._check_order()
        self._sets: StateSets | None = None
        self._call: BoundCall | None = None
        self.nbytes = sum(block.nbytes for block in self._blocks.values())

    def bound_step(self, feeds: Mapping[str, Array], sizes: Mapping[str, int]) -> BoundCall:
        """Return the bound call of one step of every slot, for inputs like ``feeds``.

        It reads and writes the blocks in place. It needs a second set of them, which the first such call
        allocates.
        """
        session, manifest = self._core.session, self._core.manifest
        if self._sets is None:
            self._sets = StateSets(session, self._blocks)
        if self._call is None or any(
            self._call.inputs[name].shape != array.shape for name, array in feeds.items()
        ):
            valid = self._core.convert_lengths(None, sizes)
            self._call = BoundCall(session, manifest, self._sets, feeds, sizes, valid)
        return self._call

    def gather(self, slots: Array) -> dict[str, Array]:
        """Return the states of ``slots`` in their order."""
        return {name: self._take(name, block, slots) for name, block in self.arrays.items()}

    def scatter(self, slots: Array, states: Mapping[str, Array]) -> None:
        """Write ``states`` to ``slots``."""
        blocks = self.arrays
        for name, block in blocks.items():
            axis, rows = by_slot(block, *self._axes[name])
            rows[(slice(None),) * axis + (slots,)] = by_slot(states[name], *self._axes[name])[1]
        if self._sets is not None and self._sets.device != "cpu":
            self._sets.write(blocks)

    @property
    def arrays(self) -> dict[str, Array]:
        """The blocks by state: on the CPU the memory itself, else a copy."""
        return self._blocks if self._sets is None else self._sets.read()

    def _take(self, name: str, block: Array, slots: Array) -> Array:
        axis, rows = by_slot(block, *self._axes[name])
        taken = rows.take(slots, axis=axis)
        return taken.reshape([-1 if i == self._axes[name][0] else size for i, size in enumerate(block.shape)])

    def _check_order(self) -> None:
        """Raise ``ContractError`` where ``k*N`` rows are not k blocks of N: two sources would be mixed.

        Two sources together must get what each gets alone.
        """
        core, rng = self._core, np.random.default_rng(0)
        batch, sequence = core.manifest.batch or "", core.manifest.sequence or ""
        sizes = {batch: 2, sequence: 1}
        shapes = {spec.name: (spec.axes, spec.dtype) for spec in core.data}
        shapes |= {spec.input: (spec.axes, spec.dtype) for spec in core.manifest.states}
        both = {
            name: rng.normal(size=shape_of(axes, sizes)).astype(dtype)
            for name, (axes, dtype) in shapes.items()
        }
        together = core.call(both | core.convert_lengths(None, sizes))[1]
        for source in (0, 1):
            one = {
                spec.name: both[spec.name].take([source], axis=spec.axes.index(batch)) for spec in core.data
            }
            one |= {name: self._take(name, both[name], np.array([source])) for name in self._axes}
            alone = core.call(one | core.convert_lengths(None, sizes | {batch: 1}))[1]
            for spec in core.manifest.states:
                rows = self._take(spec.input, together[spec.input], np.array([source]))
                if not np.allclose(rows, alone[spec.input], rtol=0.05, atol=0.05):
                    raise ContractError(
                        f"the rows of state {spec.input} {describe(spec.axes)} are not in blocks of {batch}; "
                        "open one stream() a source instead"
                    )


def by_slot(block: Array, axis: int, factor: int) -> tuple[int, Array]:
    """Return the axis of sources and a view of a state's rows on which it is an axis of its own.

    Args:
        block: the rows.
        axis: that of the rows.
        factor: their number for each source, in blocks; 0 for one.
    """
    if not factor:
        return axis, block
    return axis + 1, block.reshape((*block.shape[:axis], factor, -1, *block.shape[axis + 1 :]))


def _batch_axes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Return each state's batch axis and its k, 0 for an axis of N rows.

    Raises:
        ContractError: a state has no batch axis.
    """
    batch, axes = manifest.batch or "", {}
    for spec in manifest.states:
        rows = [(place, row_factor(axis, batch)) for place, axis in enumerate(spec.axes)]
        found = [(place, factor) for place, factor in rows if factor is not None]
        if len(found) != 1:
            raise ContractError(
                f"state {spec.input} has no batch axis {batch}; open one stream() a source instead"
            )
        axes[spec.input] = found[0]
    return axes


def _check_rows(manifest: Manifest) -> None:
    """Raise ``ContractError`` if an input or output has no axis of sources."""
    for spec in (*manifest.inputs, *manifest.outputs):
        if sum(row_factor(axis, manifest.batch) is not None for axis in spec.axes) != 1:
            raise ContractError(
                f"{spec.name} has no batch axis {manifest.batch}; open one stream() a source instead"
            )


def to_graph(
    core: Core, samples: InputArrays, rows: int, *, step: bool
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the data inputs in the file's layout, and the sizes of its named axes.

    Args:
        core: the model.
        samples: ``(K, I)`` for a step, else ``(K, L, I)``, by name where there are several inputs.
        rows: K.
        step: whether the time axis is left out and has size 1.

    Raises:
        InputError: another rank, width or dtype; NaN or infinity where the model checks.
    """
    manifest, arrays = core.manifest, {}
    sizes = {manifest.batch or "": rows}
    for spec, array in core.convert_inputs(samples, shared=True):
        inner = tuple(axis for axis in spec.axes if axis != manifest.batch)
        seen = tuple(axis for axis in inner if not (step and axis == manifest.sequence))
        learn_sizes(spec.name, (manifest.batch or "", *seen), array.shape, sizes, manifest.chunk_ranges)
        if step and manifest.sequence is not None:
            sizes[manifest.sequence] = 1
        given = array.reshape(resolve((manifest.batch or "", *inner), sizes) or ())
        place = spec.axes.index(manifest.batch or "")
        arrays[spec.name] = np.ascontiguousarray(np.moveaxis(given, 0, place)) if place else given
    return arrays, sizes


def to_sources(manifest: Manifest, outputs: Mapping[str, Array], *, step: bool) -> dict[str, Array]:
    """Return each output with one row per source first; ``k*N`` rows become ``(N, k)``."""
    rows = {}
    for spec in manifest.outputs:
        array, axes = outputs[spec.name], spec.axes
        place = next(i for i, axis in enumerate(axes) if row_factor(axis, manifest.batch) is not None)
        factor = row_factor(axes[place], manifest.batch)
        if factor:
            axes = (*axes[:place], factor, manifest.batch or "", *axes[place + 1 :])
            place, array = by_slot(array, place, factor)
        if step and (gone := manifest.time_axis(axes)) is not None:
            array, place = array.squeeze(gone), place - (gone < place)
        rows[spec.name] = np.moveaxis(array, place, 0) if place else array
    return rows


def stack_rows(core: Core, samples: Sequence[Any]) -> InputArrays:
    """Return the samples of some sources as one array per input, or as a list if they differ in type."""
    if len(core.data) > 1:
        parts = [by_name(sample, core.data) for sample in samples]
        return {spec.name: [part[spec.name] for part in parts] for spec in core.data}  # type: ignore[misc]
    spec, count = core.data[0], len(samples)
    dtype = np.dtype(spec.dtype)
    axes = [axis for axis in spec.axes if axis not in (core.manifest.batch, core.manifest.sequence)]
    try:  # the usual case, at a fraction of what numpy takes to look at each of many small arrays
        if list(map(_DTYPE, samples)).count(dtype) == count and set(map(len, samples)) == {*axes}:
            return np.frombuffer(b"".join(samples), dtype).reshape(count, *axes)
    except (AttributeError, TypeError, ValueError, BufferError):
        pass
    return [by_name(sample, core.data)[spec.name] for sample in samples]  # type: ignore[return-value]


def stack_chunks(core: Core, chunks: Sequence[Any]) -> tuple[dict[str, list[Any]], Array]:
    """Return each input's chunks as a list over sources, and their lengths.

    They are padded with zeros to the longest one.

    Raises:
        InputError: unequal chunks for a file without ``lengths``; inputs of one source that disagree; a chunk
            that is ragged or of another dtype.
    """
    parts = [by_name(chunk, core.data) for chunk in chunks]
    lists = {
        spec.name: [as_array(spec.name, part[spec.name], spec.dtype) for part in parts] for spec in core.data
    }
    places = {
        spec.name: place for spec in core.data if (place := time_axis(spec.axes, core.manifest)) is not None
    }
    found = [
        [part.shape[place] if part.ndim > place else 0 for part in lists[name]]
        for name, place in places.items()
    ]
    lengths = np.array(found[0], dtype=np.int64)
    longest = int(lengths.max())
    if any(each != found[0] for each in found):
        raise InputError("a source's inputs have unequal lengths; give each the same number of steps")
    if lengths.min() < 1:
        raise InputError("got an empty chunk, or one without a time axis; leave its source out of this tick")
    if core.manifest.lengths is None and lengths.min() < longest:
        raise InputError(
            f"got chunks of {lengths.min()} to {longest} steps, but this file takes no lengths; "
            "give chunks of one length, or export it with lengths"
        )
    for name, place in places.items():
        lists[name] = [_pad_end(part, place, longest) for part in lists[name]]
    return lists, lengths


def _cut(manifest: Manifest, rows: Mapping[str, Array], place: int, end: int | None) -> dict[str, Array]:
    """Return the outputs of the source in ``place``, those with a time axis up to ``end``."""
    own = {}
    for spec in manifest.outputs:
        array, axis = rows[spec.name][place], time_axis(spec.axes, manifest)
        own[spec.name] = (
            array if end is None or axis is None else array[(slice(None),) * axis + (slice(end),)]
        )
    return own


def _pad_end(array: Array, place: int, longest: int) -> Array:
    widths = [(0, longest - size if axis == place else 0) for axis, size in enumerate(array.shape)]
    return np.pad(array, widths)
