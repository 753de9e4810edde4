"""Running a graph in onnxruntime on the CPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.ort import open_session, run_by_name

__all__ = ["Session", "to_bytes"]

Array = npt.NDArray[Any]

_LARGEST = 2**31 - 1


class Session:
    """An onnxruntime session that takes and gives arrays by name."""

    def __init__(self, content: bytes, guarded: bytes | None = None, name: str = "the file") -> None:
        """Open ``content``; what onnxruntime raises in ``run`` passes through.

        Args:
            content: the file.
            guarded: the same graph, guarded; it sees every new set of shapes first.
            name: what to call the file in messages.

        Raises:
            FileFormatError: onnxruntime refuses it; the message carries its first line.
        """
        self._guarded = None if guarded is None else Session(guarded, name=name)
        self._seen: set[tuple[tuple[int, ...], ...]] = set()
        self._session = open_session(content, name=name)
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; entries of ``feeds`` that the graph does not take are left out."""
        given = {name: feeds[name] for name in self.inputs}
        shapes = tuple(array.shape for array in given.values())
        if self._guarded is not None and shapes not in self._seen:
            self._guarded.run(given)
            self._seen.add(shapes)
        return run_by_name(self._session, given, self.outputs if outputs is None else outputs)


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
