"""Many series through one model, step by step, each with a state of its own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge.data.sample_input import sample_input
from lstm_edge.results import main_output
from lstm_edge_runtime import State

from .job import Tell

if TYPE_CHECKING:
    from lstm_edge_runtime import Model, StreamBatch
    from lstm_edge_runtime.model import ResetEvery

from lstm_edge_runtime.manifest import Array

__all__ = ["Stepper"]

_GROUP = 512
"""Series in one batch: enough that a tick's fixed cost is small, few enough that states stay in the cache."""
_TELL = 256
"""Steps of a lone series between two reports."""


class Stepper:
    """Takes every series through its samples in order; states stay between two calls.

    A series gets the same bits whatever others are beside it and however its samples are cut: one step a
    call, and a file whose results depend on batch mates (int8 in onnxruntime) runs one series at a time.
    """

    def __init__(self, model: "Model", reset_every: int | None) -> None:
        """Let each series start again after ``reset_every`` steps; None for never.

        Raises:
            ContractError: the file can't be streamed.
            InputError: it takes several inputs.
        """
        model.interface.require_no_delay("score")
        self._model = model
        self._every: ResetEvery = reset_every or "never"
        self._stream = model.stream(reset_every=self._every)
        place = sample_input(model)
        mixes = model.interface.precision == "int8" and model.engine == "onnxruntime"
        self._shared = place.batched and not mixes
        self._groups: list[StreamBatch] = []
        self._places: dict[str, tuple[int, int]] = {}
        """Each series' batch and its id there."""
        self._states: dict[str, State] = {}
        """Of series that run one at a time."""
        probe = self._stream.step(np.zeros(place.width, dtype=place.spec.dtype))
        self._stream.reset()
        assert probe is not None
        self.width = int(_top(np.asarray(main_output(model, probe))[None]).shape[1])
        """C, how many values one step gives."""

    def run(self, names: Sequence[str], counts: Array, x: Array, tell: Tell) -> Array:
        """Take the next samples of some series.

        Args:
            names: of the series, each once.
            counts: how many samples each has ``(K,)``, from 1.
            x: their samples one series after another ``(sum of counts, I)``.
            tell: called with the number of samples done.

        Returns:
            The main output after each sample, float32 ``(sum of counts, C)``; of the top layer where the file
            reads out every layer.
        """
        starts = np.cumsum(counts) - counts
        out = np.empty((len(x), self.width), dtype=np.float32)
        if not self._shared:
            for name, start, count in zip(names, starts.tolist(), counts.tolist(), strict=True):
                self._run_alone(name, x[start : start + count], out[start : start + count], tell)
            return out
        members: dict[int, list[int]] = {}
        for index, name in enumerate(names):
            members.setdefault(self._place(name)[0], []).append(index)
        for group, indices in members.items():
            chosen = np.array(indices)[np.argsort(-counts[indices], kind="stable")]
            ids = np.array([self._places[names[index]][1] for index in chosen])
            self._run_group(self._groups[group], ids, starts[chosen], counts[chosen], x, out, tell)
        return out

    def state(self, name: str) -> State:
        """Return a copy of a series' state."""
        if not self._shared:
            return self._states[name]
        group, source = self._place(name)
        return self._groups[group].state(source)

    def restore(self, name: str, arrays: Mapping[str, Array], age: int) -> None:
        """Let a series go on from the arrays and the age of what ``state`` gave."""
        state = State(arrays, self._model.identity, age)
        if self._shared:
            group, source = self._place(name)
            self._groups[group].restore(source, state)
        else:
            self._states[name] = state

    def _place(self, name: str) -> tuple[int, int]:
        if name not in self._places:
            if not self._groups or len(self._groups[-1]) == _GROUP:
                self._groups.append(self._model.streams(_GROUP, reset_every=self._every))
            self._places[name] = len(self._groups) - 1, self._groups[-1].add()
        return self._places[name]

    def _run_group(
        self, batch: "StreamBatch", ids: Array, starts: Array, counts: Array, x: Array, out: Array, tell: Tell
    ) -> None:
        """Take the samples of series that are sorted by their counts, the most first."""
        lone = int(counts[1]) if len(counts) > 1 else 0
        """From here on only the first series is left."""
        alive = np.searchsorted(-counts, -np.arange(lone), side="left")
        for step, count in enumerate(alive.tolist()):
            rows = starts[:count] + step
            out[rows] = _top(main_output(self._model, batch.step(x[rows], ids[:count])))
            tell(count)
        if counts[0] > lone:
            self._stream.restore(batch.state(ids[0]))
            begin, end = int(starts[0]) + lone, int(starts[0] + counts[0])
            self._steps(x[begin:end], out[begin:end], tell)
            batch.restore(ids[0], self._stream.state)

    def _run_alone(self, name: str, x: Array, out: Array, tell: Tell) -> None:
        if name in self._states:
            self._stream.restore(self._states[name])
        else:
            self._stream.reset()
        self._steps(x, out, tell)
        self._states[name] = self._stream.state

    def _steps(self, x: Array, out: Array, tell: Tell) -> None:
        for index, sample in enumerate(x):
            result = self._stream.step(sample)
            assert result is not None
            out[index] = _top(main_output(self._model, result)[None])
            if index % _TELL == _TELL - 1:
                tell(_TELL)
        tell(len(x) % _TELL)


def _top(values: Array) -> Array:
    """Return ``(K,)``, ``(K, C)`` or ``(K, layers, C)`` as ``(K, C)``, of the top layer."""
    return values.reshape(len(values), -1, values.shape[-1] if values.ndim > 1 else 1)[:, -1]
