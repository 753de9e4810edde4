"""The series of a partition: their states, and their steps through the model."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lstm_edge.data.sample_input import SampleInput
from lstm_edge.results import frame_axis, main_name, main_output
from lstm_edge_runtime import Model, State
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.stream import SlidingStream

_GROUP, _FEW, _CHUNK = 512, 6, 64
"""Maximum number of series per call (for the cache), minimum (single steps are faster), maximum of steps."""


class Pool:
    """States of many series, by number. Results depend neither on the others nor on how rows are cut."""

    def __init__(self, model: Model, size: int, reset_every: Any, window: int | None = None) -> None:
        """Open ``size`` series at the reset state; ``LstmEdgeError`` if the file can't be streamed.

        With ``window``, each result is that of the last steps of its series from the reset state.
        """
        contract, self._main = model.manifest, main_name(model)
        if contract.unit > 1:
            why = f"this file takes {contract.unit} steps at a time, and score writes one result per row"
            raise UnsupportedError(f"{why}; use lstm-edge stream")
        self._model, self._samples = model, SampleInput(model)
        self._window, self._sliding = window, dict[int, SlidingStream]()
        stream: Any = model.stream(window=window) if window else model.stream(reset_every=reset_every)
        self.delayed = bool(window) or any(contract.delays.values())  # rows may have no result
        floats = all(np.dtype(spec.dtype).kind == "f" for spec in model.outputs)
        alone = contract.precision == "int8" and model.engine == "onnxruntime"  # rows share a scale
        together = self._samples.batched and not (alone or window) and (floats or not self.delayed)
        self._batch = model.streams(size, reset_every=reset_every) if together else None
        self._ids = np.array([self._batch.add() for _ in range(size)] if self._batch is not None else [])
        every_step = frame_axis(model) is not None and not self._samples.one_step
        chunks = every_step and not self.delayed and contract.precision == "fp32" and len(model.outputs) == 1
        self._chunk = _CHUNK if chunks and contract.batch_axis(contract.axes[self._main]) == 0 else 1
        self._stream, self._reset = stream, State({}, model.identity) if window else stream.state
        self._states = dict[int, State]()  # of series that have none in the batch
        sample = self._samples.steps(np.zeros(self._samples.width, self._samples.spec.dtype))
        count = window or 1 + max(contract.delays.values(), default=0)
        frame = [stream.step(sample) for _ in range(count)][-1]
        self.width = int(_top(main_output(model, frame)[None]).shape[1])  # C, values per step
        self._plain = isinstance(frame, np.ndarray) and frame.shape == (self.width,)

    def run(self, series: Array, counts: Array, x: Array) -> Array:
        """Take the next steps of some series.

        ``series (K,)`` are their numbers, ``counts (K,)`` the number of steps of each, ``x`` the samples
        ``(sum of counts, I)``, one series after another. Returns the main output after each sample, float32
        ``(sum of counts, C)``; NaN if it completes no frame.
        """
        x, first = self._samples.steps(x), np.cumsum(counts) - counts
        out = np.full((len(x), self.width), np.nan, np.float32)
        ranked = np.argsort(-counts, kind="stable")
        for begin in range(0, len(ranked), _GROUP):
            members = ranked[begin : begin + _GROUP]
            shared = self._run_together(series[members], first[members], counts[members], x, out)
            for index in members[counts[members] > shared].tolist():
                start = int(first[index])
                self._run_alone(int(series[index]), start + shared, start + int(counts[index]), x, out)
        return out

    def _run_together(self, series: Array, first: Array, counts: Array, x: Array, out: Array) -> int:
        """Run the steps that at least ``_FEW`` series have, longest series first; return their number."""
        if len(series) < _FEW or self._batch is None:
            return 0
        ids = self._ids[series]
        for start, stop, rows in self._calls(counts, int(counts[_FEW - 1])):
            if rows < len(ids):
                ids = ids[:rows]
            if self._chunk > 1:
                at = first[:rows, None] + np.arange(start, stop)
                values = main_output(self._model, self._batch.process(self._arrange(x[at]), ids))
                out[at] = values.reshape(*at.shape, self.width)
            else:
                at = first[:rows] + start
                result = self._batch.step(x[at], ids)
                out[at] = result if self._plain else _top(main_output(self._model, result))
        return int(counts[_FEW - 1])

    def _calls(self, counts: Array, shared: int) -> Iterator[tuple[int, int, int]]:
        """Yield the first step, the end and the number of series of each call."""
        rows = np.searchsorted(-counts, -np.arange(shared), side="left").tolist()
        start = 0
        while start < shared:
            stop = start + 1
            while stop < min(start + self._chunk, shared) and rows[stop] == rows[start]:
                stop += 1
            yield start, stop, rows[start]
            start = stop

    def _run_alone(self, series: int, start: int, stop: int, x: Array, out: Array) -> None:
        """Run a single series, at a fraction of the cost of a batch of one."""
        if self._window:
            if series not in self._sliding:
                self._sliding[series] = self._model.stream(window=self._window)
            self._stream = self._sliding[series]
        else:
            self._stream.restore(self[series])
        if self._chunk > 1:
            values = self._stream.process(self._arrange(x[None, start:stop])[0])
            out[start:stop] = main_output(self._model, values).reshape(stop - start, self.width)
        else:
            for row in range(start, stop):
                result = self._stream.step(x[row])
                if result is not None and not (isinstance(result, dict) and self._main not in result):
                    out[row] = result if self._plain else _top(main_output(self._model, result)[None])
        if not self._window:
            self[series] = self._stream.state

    def _arrange(self, x: Array) -> Array:
        """Return steps ``(K, L)`` or ``(K, L, I)`` in the layout of the file's input."""
        return self._samples.rows(x.reshape(*x.shape[:2], self._samples.width))

    def __getitem__(self, series: int) -> State:
        if self._batch is not None:
            return self._batch.state(int(self._ids[series]))
        return self._states.get(series, self._reset)

    def __setitem__(self, series: int, state: State) -> None:
        if self._batch is not None:
            self._batch.restore(int(self._ids[series]), state)
        else:
            self._states[series] = state

    def columns(self, series: range) -> dict[str, pa.Array]:
        """Return the states of series as columns of bytes, and their ages."""
        states = [self[number] for number in series]
        arrays = {
            f"state/{name}": pa.array([state[name].tobytes() for state in states], pa.binary())
            for name in self._reset
        }
        return arrays | {"age": pa.array([state.age for state in states], pa.int64())}

    def restore(self, series: int, row: Mapping[str, Any]) -> None:
        """Continue a series from a row of ``columns``."""
        arrays = {
            name: np.frombuffer(row[f"state/{name}"], like.dtype).reshape(like.shape)
            for name, like in self._reset.items()
        }
        self[series] = State(arrays, self._reset.identity, int(row["age"]))


def _top(values: Array) -> Array:
    """Return ``(K,)``, ``(K, C)`` or ``(K, layers, C)`` as ``(K, C)``, of the top layer."""
    return values.reshape(len(values), -1, values.shape[-1] if values.ndim > 1 else 1)[:, -1]
