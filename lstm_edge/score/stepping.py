"""Many series through one model, step by step, each with its own state."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge.data.sample_input import sample_input
from lstm_edge.results import main_name, main_output
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

if TYPE_CHECKING:
    from lstm_edge_runtime import Model, State
    from lstm_edge_runtime.model import ResetEvery

_GROUP = 512
"""Series per batch: enough that a tick's fixed cost is small, few enough that states fit in the cache."""
_TELL = 256
"""Steps of a single series between two reports."""


class Stepper:
    """Runs series from their states.

    The results of a series depend neither on other series nor on how its samples are split: each call is one
    step, and a file whose results depend on the other rows of the batch (int8 in onnxruntime) runs one series
    at a time.
    """

    def __init__(self, model: "Model", reset_every: "ResetEvery | None") -> None:
        """Reset each series after ``reset_every`` steps; None for those of the training.

        Raises:
            ContractError: the file can't be streamed.
            InputError: it takes several inputs.
            UnsupportedError: a step gives several frames.
        """
        manifest, self._main = model.manifest, main_name(model)
        if (frames := manifest.frames_a_unit.get(self._main, 1)) > 1:
            raise UnsupportedError(
                f"this file gives {frames} frames at a time, and score writes one result a row; use "
                "lstm-edge stream, or streams() of lstm_edge_runtime"
            )
        self._model, self._stream = model, model.stream(reset_every=reset_every)
        self.late = manifest.is_buffered
        """Whether samples may complete no frame."""
        self.reset = self._stream.state
        """The state before the first sample of a series."""
        self._place = place = sample_input(model)
        mixes = manifest.precision == "int8" and model.engine == "onnxruntime"
        if self.late:  # rows without a frame are NaN
            mixes = mixes or any(np.dtype(spec.dtype).kind != "f" for spec in model.outputs)
        self._batch = model.streams(_GROUP, reset_every=reset_every) if place.batched and not mixes else None
        self._ids = np.array([0] if self._batch is None else [self._batch.add() for _ in range(_GROUP)])
        sample = place.steps(np.zeros(place.width, dtype=place.spec.dtype))
        frame = [self._stream.step(sample) for _ in range(manifest.delay_steps + manifest.unit)][-1]
        self.width = int(_top(main_output(model, frame)[None]).shape[1])
        """C, number of values per step."""

    def run(
        self, states: Sequence["State"], counts: Array, x: Array, tell: Callable[[int], None]
    ) -> tuple[Array, list["State"]]:
        """Process the next samples of some series.

        Args:
            states: of the series.
            counts: number of samples of each ``(K,)``, from 1.
            x: the samples, one series after another ``(sum of counts, I)``.
            tell: called with the number of samples processed since the last call.

        Returns:
            The main output after each sample, float32 ``(sum of counts, C)``, the top layer's if the file has
            one output per layer, NaN for samples that complete no frame; and the new states.
        """
        x = self._place.steps(x)
        starts, ranked = np.cumsum(counts) - counts, np.argsort(-counts, kind="stable")
        out, after = np.full((len(x), self.width), np.nan, dtype=np.float32), list(states)
        for begin in range(0, len(ranked), len(self._ids)):
            own = ranked[begin : begin + len(self._ids)]
            firsts = starts[own]
            shared = int(counts[own[1]]) if len(own) > 1 else 0
            """Steps that more than one series has."""
            if self._batch is not None and shared:
                for source, index in zip(self._ids.tolist(), own.tolist(), strict=False):
                    self._batch.restore(source, after[index])
                alive = np.searchsorted(-counts[own], -np.arange(shared), side="left")
                for step, count in enumerate(alive.tolist()):
                    rows = firsts[:count] + step
                    out[rows] = _top(main_output(self._model, self._batch.step(x[rows], self._ids[:count])))
                    tell(count)
                for source, index in zip(self._ids.tolist(), own.tolist(), strict=False):
                    after[index] = self._batch.state(source)
            if alone := range(int(firsts[0]) + shared, int(firsts[0] + counts[own[0]])):
                self._stream.restore(after[own[0]])
                for index in alone:
                    result = self._stream.step(x[index])
                    if result is not None and not (isinstance(result, dict) and self._main not in result):
                        out[index] = _top(main_output(self._model, result)[None])
                    if index % _TELL == 0:
                        tell(_TELL)
                after[own[0]] = self._stream.state
        return out, after


def _top(values: Array) -> Array:
    """Return ``(K,)``, ``(K, C)`` or ``(K, layers, C)`` as ``(K, C)``, of the top layer."""
    return values.reshape(len(values), -1, values.shape[-1] if values.ndim > 1 else 1)[:, -1]
