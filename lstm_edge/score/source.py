"""Score one source: its rows and saved state give its results and its next state."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from lstm_edge.data.sample_input import SampleInput
from lstm_edge.results import class_labels, result_names
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.files import malformed_as
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.results import softmax
from lstm_edge_runtime.state import state_of_bytes

LATE = "_late"
"""Column of rows without a result, because a run before has scored later ones."""


class Scorer:
    """A model that scores one source after another."""

    def __init__(self, model: bytes, reset_every: Any) -> None:
        """Open the content of a model file; InputError if it takes several steps."""
        self._model = load(model)
        manifest = self._model.manifest
        if manifest.unit > 1:
            raise InputError(
                f"the file takes {manifest.unit} steps at a time, and score writes one"
                " result per row; use lstm-edge stream"
            )
        samples = SampleInput(self._model)
        self._steps = samples.steps
        self.width = samples.width
        self.features = tuple(manifest.signal.features)
        self.identity = self._model.identity
        interval: Any = reset_every or manifest.reset_every or "never"
        self.reset_every = interval
        self._stream = self._model.stream(reset_every=interval)
        frame: Any = None
        delay = max(manifest.delays.values(), default=0)
        for _ in range(delay + 1):
            frame = self._stream.step(self._steps(np.zeros(self.width, np.float32)))
        width = self._model.frames(frame).shape[1]
        self._is_flat = not delay and np.shape(frame) == (width,)
        """True if each step returns the values of the main output as they are."""
        self.labels = class_labels(manifest.task, width)
        self.values = result_names(manifest.task, width)
        """Names of the probabilities or values."""
        self.saved = b""
        """State after the source that was scored last."""

    def score(
        self, source: Any, frames: Iterable[pd.DataFrame], saved: bytes | None
    ) -> Iterator[pd.DataFrame]:
        """Yield series, order, ``LATE`` and results of a source; ``saved`` is then new.

        Args:
            source: its name.
            frames: its rows of this run, sorted over all frames: series, order, order as
                int64 or float64, and features.
            saved: state after the run before; None if there is none.

        Raises:
            InputError: a cell is empty or infinite, or an order is there twice.
            FileFormatError, StateError: the state is damaged, or of another model.
        """
        last = late_until = self._restore(saved)
        for frame in frames:
            numbers = frame.iloc[:, 2:].to_numpy(np.float64)
            bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
            if source is None or len(bad):
                row = frame.iloc[int(bad[0]) if len(bad) else 0].tolist()
                cells = ", ".join(map(str, row[1:]))
                raise InputError(f"{source!r}: an empty or infinite cell in {cells}")
            order = frame.iloc[:, 2].to_numpy()
            is_late = np.zeros(len(order), bool)
            if late_until is not None:
                is_late = order <= late_until
            order = order[~is_late]
            before = order[:0] if last is None else np.array([last], order.dtype)
            order = np.concatenate([before, order])
            if not (np.diff(order) > 0).all():
                twice = order[1:][np.diff(order) <= 0][0]
                raise InputError(f"{source!r} has two rows at {twice}; remove one")
            last = order[-1]
            results = self._results(frame.iloc[:, 3:].to_numpy(np.float32)[~is_late])
            results.index = frame.index[~is_late]
            yield frame.iloc[:, :2].assign(**{LATE: is_late}).join(results)
        self.saved = self._stream.state.to_bytes(last=[last])

    def _restore(self, saved: bytes | None) -> Any:
        """Continue from a state; return the order of its last row."""
        self._stream.reset()
        if saved is None:
            return None
        with malformed_as(FileFormatError, "a state is damaged", "use a new output"):
            state, others = state_of_bytes(saved)
            self._stream.restore(state)
            return others["last"][0]

    def _results(self, x: Array) -> pd.DataFrame:
        """Return label and probabilities, or values, after each sample; empty cells where
        a sample completes no frame.
        """
        results = [self._stream.step(sample) for sample in self._steps(x)]
        if not self._is_flat:
            missing = np.full((1, len(self.values)), np.nan)
            results = [[*missing, *self._model.frames(y)][-1] for y in results]
        values = np.array(results, np.float32).reshape(-1, len(self.values))
        if not self.labels:
            return pd.DataFrame(values, columns=self.values)
        values = softmax(values)
        labels = np.array(self.labels, object)[values.argmax(axis=1)]
        labels[np.isnan(values).any(axis=1)] = None
        frame = pd.DataFrame(values, columns=self.values)
        frame.insert(0, "label", labels)
        return frame
