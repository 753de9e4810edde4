"""The Python backend's model: a file of lstm-edge with one state for each sequence. Triton runs this.

A sequence begins with a request that has sequence_start, ends with sequence_end, and is dropped when it was
idle for longer than the configuration's max_sequence_idle_microseconds. It starts again from the reset state
after the number of steps in the configuration's parameter reset_every, if it is a number. Requests of
several sequences that arrive together and have the same length are computed in one call. Where the stream of
the file is behind or has a unit, a response has the frames that its samples complete, ``(1, frames, C)``; an
output without a time axis is ``(0, C)`` if they complete none.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from lstm_edge_runtime import LstmEdgeError, load
from lstm_edge_runtime.errors import ContractError, StateError


class TritonPythonModel:
    """The class that the Python backend uses."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file in the same folder, and reserve states for the maximum number of open sequences."""
        config = json.loads(args["model_config"])
        batching = config["sequence_batching"]
        folder = Path(args["model_repository"]) / args["model_version"]
        self._model = load(folder / "model.onnx")
        self._idle = int(batching["max_sequence_idle_microseconds"]) / 1e6
        every = config.get("parameters", {}).get("reset_every", {}).get("string_value", "never")
        self._streams = self._model.streams(
            int(batching["oldest"]["max_candidate_sequences"]),
            reset_every=int(every) if every.isdecimal() else every,
        )
        interface = self._model.manifest
        self._take = self._streams.process if interface.sequence else self._streams.step
        self._late = interface.stream is not None
        self._none = {
            spec.name: np.zeros([0, *(each for each in spec.axes if isinstance(each, int))], spec.dtype)
            for spec in interface.outputs
        }
        self._inputs = [spec["name"] for spec in config["input"]]
        self._outputs = [spec["name"] for spec in config["output"]]
        self._sources: dict[int, int] = {}
        self._used: dict[int, float] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer one request of each sequence; a request that can't be answered gets its own error."""
        responses: list[Any] = [None] * len(requests)
        calls: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        feeds, sources = [], []
        for place, request in enumerate(requests):
            feed: dict[str, Any] = {}
            feeds.append(feed)
            try:
                feed |= {name: _array(request, name)[0] for name in self._inputs}
                sources.append(self._source(_control(request, "CORRID"), bool(_control(request, "START"))))
            except LstmEdgeError as error:
                sources.append(-1)
                responses[place] = _refuse(error)
            else:
                calls.setdefault(tuple(array.shape for array in feed.values()), []).append(place)
        for places in calls.values():
            self._run(places, feeds, sources, responses)
        for request in requests:
            if _control(request, "END"):
                self._drop(_control(request, "CORRID"))
        return responses

    def _run(
        self, places: list[int], feeds: list[dict[str, Any]], sources: list[int], responses: list[Any]
    ) -> None:
        """Compute requests of one shape in one call."""
        ids = [sources[place] for place in places]
        own = [feeds[place] for place in places]
        try:
            rows = self._late_rows(ids, own) if self._late else self._rows(ids, own)
        except LstmEdgeError as error:
            for place in places:
                responses[place] = _refuse(error)
            return
        for place, row in zip(places, rows, strict=True):
            tensors = [pb_utils.Tensor(name, np.ascontiguousarray(row[name])) for name in self._outputs]
            responses[place] = pb_utils.InferenceResponse(output_tensors=tensors)

    def _rows(self, ids: list[int], feeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return each output of each source, ``(1, ...)``."""
        given = self._take({name: np.stack([feed[name] for feed in feeds]) for name in self._inputs}, ids)
        arrays = given if isinstance(given, dict) else {self._outputs[0]: given}
        return [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(len(feeds))]

    def _late_rows(self, ids: list[int], feeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the frames that each source completes, ``(1, frames, C)``, or ``(0, C)``."""
        given = self._streams.process(dict(zip(ids, feeds, strict=True)))
        found = (given[source] for source in ids)
        frames = (each if isinstance(each, dict) else {self._outputs[0]: each} for each in found)
        return [
            {name: self._none[name] if array is None else array[None] for name, array in each.items()}
            for each in frames
        ]

    def _source(self, sequence: int, start: bool) -> int:
        """Return the state of a sequence, a new one at its start."""
        now = time.monotonic()
        for idle in [each for each, used in self._used.items() if now - used > self._idle]:
            self._drop(idle)
        if start:
            self._drop(sequence)
            self._sources[sequence] = self._streams.add()
        elif sequence not in self._sources:
            raise StateError(
                f"sequence {sequence} is not open: it never started, has ended or was idle too long; "
                "send sequence_start with its first request"
            )
        self._used[sequence] = now
        return self._sources[sequence]

    def _drop(self, sequence: int) -> None:
        source = self._sources.pop(sequence, None)
        if source is not None:
            del self._used[sequence]
            self._streams.remove(source)


def _array(request: Any, name: str) -> Any:
    array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    if not array.flags.c_contiguous:
        raise ContractError(
            f"this Python backend is built for numpy 1 and misreads arrays of numpy {np.__version__}; "
            'pip install "numpy<2" in its environment, or take a newer Triton'
        )
    return array


def _control(request: Any, name: str) -> int:
    return int(_array(request, name).reshape(-1)[0])


def _refuse(error: Exception) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
