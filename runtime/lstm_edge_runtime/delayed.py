"""Streams of networks whose frames need later steps: their results are a fixed number of steps behind.

Such a network streams by a graph of its own (``Manifest.stream``). A state behind a delay is held at its
reset value for its first ``start`` steps, so a call ends there. Frames before the first real one are left
out.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ._core import Core, InputArrays
from .chunks import Runner, take_steps
from .errors import InputError
from .manifest import Array, Manifest, StateSpec
from .stream import Result, Stream
from .stream_batch import StatePool, StreamBatch, stack_chunks, stack_rows, time_axis, to_graph

__all__ = ["DelayedBatch", "DelayedStream", "run_delayed"]


def _room(states: Iterable[StateSpec], ages: Iterable[int], steps: int) -> int:
    """Return how many of ``steps`` a call may take, so that no state of these ages starts inside of it."""
    starts = {state.start for state in states}
    return min([start - age for age in set(ages) for start in starts if start > age], default=steps)


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
    assert manifest.stream is not None
    states, age = manifest.states_in(feeds), 0
    frames: dict[str, list[Array]] = {}
    outputs: Mapping[str, Array] = {}
    for size in sizes:
        end = age + size
        while age < end:
            stop = age + min(end - age, _room(manifest.states, [age], end - age))
            outputs = run({**take_steps(manifest, feeds, age, stop), **states})
            new = manifest.states_out(outputs)
            states = {
                state.input: (states if stop <= state.start else new)[state.input]
                for state in manifest.states
            }
            for name, axis in manifest.time_axes.items():
                if name in manifest.stream.delays:
                    early = max(0, manifest.stream.delays[name] - age)
                    frames.setdefault(name, []).append(_behind(outputs[name], axis, early))
            age = stop
    joined = {spec.name: outputs[spec.name] for spec in manifest.outputs}
    return joined | {name: np.concatenate(parts, manifest.time_axes[name]) for name, parts in frames.items()}


class DelayedStream(Stream):
    """A stream whose results are behind; see ``Stream``."""

    __slots__ = ("_delays", "_settled")

    def __init__(self, core: Core, reset_every: "int | str | None" = None) -> None:
        """Open a stream on the graph of the stream."""
        self._delays = _delays(core.manifest)
        super().__init__(core, reset_every)

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples."""
        return max(self._delays.values())

    def step(self, sample: InputArrays) -> Result | None:
        """Take one time step.

        Args:
            sample: as ``Stream.step`` takes it.

        Returns:
            The output of the frame ``delay`` steps before; None if that is before the first. Where there are
            several outputs, a mapping by name with those that have a frame; None if none has.

        Raises:
            InputError, StateError: as ``Stream.step``.
        """
        if self._settled <= self._steps < self._due:
            return super().step(sample)
        with self._use:
            call = self._prepare_step(sample)
            with self._kept():
                self._start_again()
                age = self._age
                self._hold(1, call.take)
                self._steps += 1
            return self._given(call.result(), age)

    def process(self, chunk: InputArrays) -> Result | None:
        """Take many time steps.

        Args:
            chunk: as ``Stream.process`` takes it.

        Returns:
            The frames that are complete ``(frames, C)``, ``(0, C)`` if none is; of an output without a time
            axis ``(C,)`` that of the last step, None before the first. By name where there are several.

        Raises:
            InputError, StateError: as ``Stream.process``.
        """
        with self._use:
            sizes, arrays = self._to_graph(chunk, {})
            sequence, parts = self._manifest.sequence or "", []
            place, steps = 0, sizes[sequence]
            with self._kept():
                while place < steps:
                    self._start_again()
                    left = min(steps - place, self._due - self._steps)
                    size = min(left, _room(self._manifest.states, [self._age], left))
                    piece = take_steps(self._manifest, arrays, place, place + size)
                    call = self._chunk_call = self._call_of(
                        {**sizes, sequence: size}, piece, self._chunk_call, drop_sequence=False
                    )
                    self._hold(size, call.take)
                    parts.append((self._by_name(call.result()), self._age))
                    self._steps += size
                    place += size
            return self._joined(parts)

    def _count_from(self, steps: int, age: int) -> None:
        super()._count_from(steps, age)
        starts = (state.start for state in self._manifest.states)
        self._settled = self._start + max([*starts, *self._delays.values()])

    def _hold(self, steps: int, take: Any) -> None:
        """Take a call that no state starts inside of; the states that have not started keep what they are."""
        end, states = self._age + steps, self._sets.read()
        held = {
            state.input: states[state.input].copy() for state in self._manifest.states if end <= state.start
        }
        take()
        if held:
            self._sets.write({**self._sets.read(), **held})

    def _by_name(self, result: Result) -> dict[str, Array]:
        return result if isinstance(result, dict) else {self._manifest.outputs[0].name: result}

    def _given(self, result: Result, age: int) -> Result | None:
        """Return what a step gave at that age; None where it has no frame."""
        given = {name: array for name, array in self._by_name(result).items() if age >= self._delays[name]}
        return None if not given else given if isinstance(result, dict) else next(iter(given.values()))

    def _joined(self, parts: list[tuple[dict[str, Array], int]]) -> Result | None:
        """Return the frames of calls, each with the age at which it began."""
        joined: dict[str, Any] = {}
        for spec in self._manifest.outputs:
            axis, delay = time_axis(spec.axes, self._manifest), self._delays[spec.name]
            if axis is None:
                joined[spec.name] = parts[-1][0][spec.name] if self._age > delay else None
                continue
            arrays = [_behind(rows[spec.name], axis, max(0, delay - age)) for rows, age in parts]
            joined[spec.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)
        return joined if len(joined) > 1 else next(iter(joined.values()))


class DelayedBatch(StreamBatch):
    """A batch whose results are behind: each source has its own age, and no frame before its first.

    In ``{id: output}`` the sources without a frame are left out of a step; in an array their rows are NaN.
    """

    def __init__(self, core: Core, capacity: int, reset_every: "int | str | None" = None) -> None:
        """Reserve states on the graph of the stream; see ``Model.streams``."""
        super().__init__(core, capacity, reset_every)
        self._delays = _delays(core.manifest)
        starts = (state.start for state in core.manifest.states)
        self._settled = max([*starts, *self._delays.values()])

    @property
    def delay(self) -> int:
        """How many steps the results are behind the samples."""
        return max(self._delays.values())

    def _by_id(self, given: Any, *, chunks: bool) -> dict[int, Any]:
        if not isinstance(given, Mapping) or not given:
            raise InputError("got samples without ids, expected {id: sample}, or an array and ids")
        samples: Any
        if chunks:
            samples, _ = stack_chunks(self._core, list(given.values()))
        else:
            samples = stack_rows(self._core, list(given.values()))
        with self._use:
            rows = self._frames(samples, list(given), step=not chunks)
            ages = self._age[self._slots(list(given))]
        results: dict[int, Any] = {}
        for place, (source, age) in enumerate(zip(given, ages.tolist(), strict=True)):
            own: dict[str, Any] = {}
            for spec in self._manifest.outputs:
                array, axis = rows[spec.name][place], time_axis(spec.axes, self._manifest)
                frames = age - self._delays[spec.name]
                if chunks and axis is not None:
                    own[spec.name] = _behind(
                        array, axis, array.shape[axis] - min(array.shape[axis], max(frames, 0))
                    )
                elif frames > 0:
                    own[spec.name] = array
                elif chunks:
                    own[spec.name] = None
            if own:
                results[source] = next(iter(own.values())) if len(rows) == 1 else own
        return results

    def _tick(self, samples: Any, ids: Any, lengths: Any, *, step: bool) -> dict[str, Array]:
        if lengths is not None:
            raise InputError("got lengths, and rows of this file are of one length; leave them out")
        for spec in self._manifest.outputs:
            if np.dtype(spec.dtype).kind != "f" and self._delays[spec.name]:
                raise InputError(f"{spec.name} is {spec.dtype}, which has no NaN; give {{id: samples}}")
        rows = self._frames(samples, ids, step=step)
        ages = self._age[self._slots(ids)]
        for spec in self._manifest.outputs:
            array, axis = rows[spec.name], time_axis(spec.axes, self._manifest)
            frames = ages - self._delays[spec.name]
            if step or axis is None:
                array[frames <= 0] = np.nan
            else:
                moved = np.moveaxis(array, 1 + axis, 1)
                moved[np.arange(moved.shape[1]) < (moved.shape[1] - frames)[:, None]] = np.nan
        return rows

    def _frames(self, samples: Any, ids: Any, *, step: bool) -> dict[str, Array]:
        """Take samples; return a row a source, in which frames before its first mean nothing."""
        slots = self._slots(ids)
        feeds, sizes = to_graph(self._core, samples, len(slots), step=step)
        steps, start = sizes[self._manifest.sequence or ""], 0
        rows: dict[str, Array] = {}
        with self._kept(slots):
            while start < steps:
                self._reset(self._due(slots))
                ages = self._age[slots]
                left = min(steps - start, int((self._every - ages).min()) if self._every else steps)
                size = min(left, _room(self._manifest.states, ages.tolist(), left))
                piece = self._hold(slots, ages, take_steps(self._manifest, feeds, start, start + size), size)
                self._put(rows, piece, np.arange(len(slots)), slice(start, start + size), steps)
                self._age[slots] += size
                start += size
        if not step:
            return rows
        return {
            spec.name: rows[spec.name]
            if (axis := time_axis(spec.axes, self._manifest)) is None
            else rows[spec.name].take(0, 1 + axis)
            for spec in self._manifest.outputs
        }

    def _hold(self, slots: Array, ages: Array, feeds: Mapping[str, Array], size: int) -> dict[str, Array]:
        """Take a call that no state starts inside of; the states that have not started keep what they are."""
        young = np.flatnonzero(ages + size <= self._settled)
        before = self._pool.gather(slots[young]) if young.size else {}
        outputs = self._run_blocks(slots, feeds, step=False)
        if young.size:
            assert isinstance(self._pool, StatePool)  # only onnxruntime runs files with a delay
            ends = ages[young] + size
            held = {state.input: ends <= state.start for state in self._manifest.states}
            self._pool.put_back(slots[young], before, held)
        return outputs


def _delays(manifest: Manifest) -> Mapping[str, int]:
    assert manifest.stream is not None
    return manifest.stream.delays


def _behind(array: Array, axis: int, count: int) -> Array:
    """Return ``array`` without its first ``count`` frames."""
    return array[(slice(None),) * axis + (slice(min(count, array.shape[axis]), None),)]
