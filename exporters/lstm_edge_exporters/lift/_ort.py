"""Running a graph in onnxruntime on the CPU: one thread, quiet."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import FileFormatError, InputError

__all__ = ["Session", "open_session", "to_bytes"]

Array = npt.NDArray[Any]

_LARGEST = 2**31 - 1


class Session:
    """An onnxruntime session that takes and gives arrays by name."""

    def __init__(self, content: bytes, guarded: bytes | None = None) -> None:
        """Open ``content``; onnxruntime's own exceptions pass through.

        Args:
            content: the file.
            guarded: the same graph, guarded; it sees every new set of shapes first.
        """
        self._guarded = None if guarded is None else Session(guarded)
        self._seen: set[tuple[tuple[int, ...], ...]] = set()
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; entries of ``feeds`` that the graph does not take are left out."""
        names = list(self.outputs if outputs is None else outputs)
        given = {name: feeds[name] for name in self.inputs}
        shapes = tuple(array.shape for array in given.values())
        if self._guarded is not None and shapes not in self._seen:
            self._guarded.run(given)
            self._seen.add(shapes)
        return dict(zip(names, map(np.asarray, self._session.run(names, given)), strict=True))


def open_session(content: bytes, what: str, guarded: bytes | None = None) -> Session:
    """Open ``content`` in onnxruntime, ``guarded`` as ``Session`` takes it.

    Raises:
        FileFormatError: onnxruntime refuses it; the message carries its first line.
    """
    try:
        return Session(content, guarded)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise FileFormatError(f"{what} does not load in onnxruntime: {str(error).splitlines()[0]}") from error


def to_bytes(model: ir.Model) -> bytes:
    """Serialize ``model`` with its weights inside.

    Raises:
        InputError: it would pass protobuf's 2 GiB.
    """
    size = sum(
        tensor.nbytes
        for graph in (model.graph, *model.graph.subgraphs())
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None
    )
    if size > _LARGEST:
        raise InputError(
            f"the weights are {size} bytes, one ONNX file holds at most 2 GiB; lift a smaller part"
        )
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content
