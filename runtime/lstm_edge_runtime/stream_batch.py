"""A batch of streams: many sources of samples, one call into the engine a tick."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._blocks import StateBlocks
from ._core import Core
from ._memory import WORKSPACE, expect_blocks
from ._rows import check_rows, cut, stack, to_graph, to_sources
from ._turns import Turns
from .errors import ContractError, InputError, StateError
from .inputs import Samples, by_name
from .state import State

__all__ = ["StreamBatch"]

Array = npt.NDArray[Any]
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]


class StreamBatch:
    """Many sources, each with an identity and a state of its own; ``Model.streams`` makes it.

    Sources come and go while it runs. A tick takes any of them, in any order, and touches only their states.
    Like a stream it belongs to one thread at a time, and an exception leaves every state as it was.
    """

    def __init__(self, core: Core, capacity: int) -> None:
        """Reserve states for ``capacity`` sources; none is there yet."""
        manifest = core.manifest
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise InputError(f"capacity is {capacity!r}, expected a whole number from 1")
        core.require_streamable()
        if manifest.batch is None:
            raise ContractError("this file has no batch axis; open one stream() a source instead")
        check_rows(manifest)
        self._core, self._manifest, self._batch = core, manifest, manifest.batch
        self._identity = core.identity
        self._turns = Turns("batch")
        self._blocks = StateBlocks(core, capacity)
        self._owner = np.full(capacity, -1, dtype=np.int64)
        """The id in each slot, -1 where it is free; an id is its slot plus a multiple of the capacity."""
        self._next = np.arange(capacity, dtype=np.int64)
        self._free = list(range(capacity - 1, -1, -1))
        self._place = np.zeros(capacity, dtype=np.int64)
        self._all = np.arange(capacity)

    @property
    def capacity(self) -> int:
        """How many sources fit."""
        return len(self._owner)

    @property
    def ids(self) -> tuple[int, ...]:
        """The sources that are there."""
        return tuple(self._owner[self._owner >= 0].tolist())

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def add(self) -> int:
        """Add a source at the reset state and give its id, which no other source ever had.

        Raises:
            StateError: the batch is full.
        """
        with self._turns:
            if not self._free:
                raise StateError(
                    f"all {self.capacity} places are taken; remove a source, or open a larger batch"
                )
            slot = self._free.pop()
            source = int(self._next[slot])
            self._next[slot] += self.capacity
            self._owner[slot] = source
            self._blocks.reset(slot)
            return source

    def remove(self, source: int) -> None:
        """Let a source go; its place is free for another.

        Raises:
            StateError: it is not there.
        """
        with self._turns:
            slot = self._slot(source)
            self._owner[slot] = -1
            self._free.append(slot)

    def reset(self, source: int) -> None:
        """Put one source's states back to their reset values; ``StateError`` where it is not there."""
        with self._turns:
            self._blocks.reset(self._slot(source))

    def state(self, source: int) -> State:
        """Return a copy of one source's state, for any stream; ``StateError`` where it is not there."""
        with self._turns:
            return State(self._blocks.gather(self._slots([source])), self._identity)

    def restore(self, source: int, state: State) -> None:
        """Let one source go on from ``state``, of a stream or of another batch.

        Raises:
            StateError: the source is not there, or the state belongs to another model.
        """
        with self._turns:
            slots = self._slots([source])
            self._blocks.scatter(slots, self._core.admit(state, {self._batch: 1}))

    def step(self, samples: Samples | Mapping[int, Any], ids: Ids | None = None) -> Any:
        """Take one time step of some sources.

        Args:
            samples: with ``ids``, an array ``(K, I)`` (by name where there are several inputs), a row a
                source; without, ``{id: sample (I,)}``.
            ids: the sources that the rows belong to, each once.

        Returns:
            With ``ids``, the outputs ``(K, C)``, by name where there are several; else ``{id: output}``.
            Each source's output is what its own ``Stream.step`` would give.

        Raises:
            InputError: another rank, width or dtype; NaN or infinity where the model checks; no source.
            StateError: a source that is not there or comes twice; another thread is using this batch.
        """
        if ids is None:
            return self._by_id(samples, chunks=False)
        with self._turns:
            return _only(self._tick(samples, ids, None, step=True))

    def process(
        self,
        chunks: Samples | Mapping[int, Any],
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
            return self._by_id(chunks, chunks=True)
        with self._turns:
            return _only(self._tick(chunks, ids, lengths, step=False))

    def _by_id(self, given: Any, *, chunks: bool) -> dict[int, Any]:
        if not isinstance(given, Mapping) or not given:
            raise InputError("samples came without ids; give {id: sample}, or an array and ids for its rows")
        ids = list(given)
        parts = [by_name(value, self._core.data) for value in given.values()]
        stacked, lengths = stack(self._core, parts, pad=chunks)
        with self._turns:
            rows = self._tick(
                stacked, ids, lengths if chunks and self._manifest.lengths else None, step=not chunks
            )
        ends = lengths.tolist() if chunks else [None] * len(ids)
        each = (cut(self._manifest, rows, place, end) for place, end in enumerate(ends))
        return dict(zip(ids, map(_only, each), strict=True))

    def _tick(self, samples: Any, ids: Ids, lengths: npt.ArrayLike | None, *, step: bool) -> dict[str, Array]:
        """Check everything, call the engine once, and only then change the states of ``ids``."""
        slots = self._slots(ids)
        feeds, sizes = to_graph(self._core, samples, len(slots), step=step)
        valid = self._core.valid_steps(lengths, sizes)
        native = self._core.native
        if step and native is None and len(slots) == self.capacity:
            return self._tick_all(slots, feeds, sizes)
        if not step:
            steps = sizes.get(self._manifest.sequence or "", 1)
            self._check_padding(valid, steps)
            expect_blocks(WORKSPACE * steps * self._blocks.nbytes)
        if native is not None:
            outputs = native.tick(feeds | valid, self._blocks.arrays, slots)
        else:
            outputs, states = self._core.call(feeds | valid | self._blocks.gather(slots))
            self._blocks.scatter(slots, states)
        return to_sources(self._manifest, outputs, step=step)

    def _check_padding(self, valid: Mapping[str, Array], steps: int) -> None:
        """Refuse short rows where their states would run over what stands behind them."""
        shortest = min((int(array.min()) for array in valid.values()), default=steps)
        if shortest < steps and not self._manifest.padded_states:
            raise InputError(
                f"chunks of {shortest} to {steps} steps came, but this file's states do not stop at a row's "
                "length; give chunks of one length, or pack the sequences in forward and export again"
            )

    def _tick_all(
        self, slots: Array, feeds: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """Take one step of every source where its states lie: rows move to them, and not they to the rows."""
        call = self._blocks.whole({name: array.shape for name, array in feeds.items()}, sizes)
        where: Any = slice(None) if slots is self._all else slots
        for spec in self._core.data:
            place = spec.axes.index(self._batch)
            call.inputs[spec.name][(slice(None),) * place + (where,)] = feeds[spec.name]
        call.run()
        rows = to_sources(self._manifest, call.outputs, step=True)
        return {name: array[where].copy() for name, array in rows.items()}

    def _slots(self, ids: Ids) -> Array:
        """Return the slots of ``ids``, each there and there once."""
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
        if not self._free and np.array_equal(sources, self._owner):
            return self._all
        slots: Array = np.remainder(sources, self.capacity, dtype=np.int64)
        order = np.arange(len(slots))
        absent = (sources < 0) | (self._owner[slots] != sources)
        if absent.any():
            raise StateError(f"source {sources[absent][0]} is not in this batch; add() gives ids")
        self._place[slots] = order
        twice = self._place[slots] != order
        if twice.any():
            raise StateError(f"source {sources[twice][0]} comes twice in one tick; give it in the next")
        return slots

    def _slot(self, source: int) -> int:
        return int(self._slots([source])[0])


def _only(rows: dict[str, Array]) -> Any:
    return next(iter(rows.values())) if len(rows) == 1 else rows
