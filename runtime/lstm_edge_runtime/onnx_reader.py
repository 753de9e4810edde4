"""What a model file says before onnxruntime opens it: a walk over its protobuf, weights skipped.

Field numbers are those of ``onnx.proto3``; they are frozen by its compatibility rules.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ._protobuf import fields
from .errors import FileFormatError

__all__ = ["FileFacts", "is_ort_format", "scan"]

_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _FUNCTION_NODE = 1, 5, 7
_NODE_OP, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_BYTES = 1, 4
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = (5, 10), (6, 11)
_TENSOR_EXTERNAL = 13
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


class FileFacts(NamedTuple):
    """What matters about a file before a session exists."""

    external: tuple[str, ...] = ()
    """Locations of external data, as the file writes them."""
    backward: str = ""
    """The operator of the first recurrent node that also runs, or only runs, backwards."""


def is_ort_format(data: memoryview) -> bool:
    """Tell whether ``data`` is in onnxruntime's own flatbuffers format."""
    return bytes(data[4:8]) == b"ORTM"


def scan(data: memoryview) -> FileFacts:
    """Read the facts of an ``.onnx`` file.

    Raises:
        FileFormatError: not a whole ONNX file.
    """
    external: dict[str, None] = {}
    backward: list[str] = []
    graphs = 0
    try:
        for field, part in _parts(data):
            if field == _MODEL_GRAPH:
                graphs += 1
                _scan_graph(part, external, backward)
            elif field == _MODEL_FUNCTION:
                for inner, node in _parts(part):
                    if inner == _FUNCTION_NODE:
                        _scan_node(node, external, backward)
    except (ValueError, RecursionError) as error:
        raise FileFormatError("it is truncated, or not an ONNX file; export or copy it again") from error
    if not graphs:
        raise FileFormatError("it holds no ONNX graph; export or copy it again")
    return FileFacts(tuple(external), backward[0] if backward else "")


def _scan_graph(data: memoryview, external: dict[str, None], backward: list[str]) -> None:
    for field, part in _parts(data):
        if field == _GRAPH_NODE:
            _scan_node(part, external, backward)
        elif field == _GRAPH_INITIALIZER:
            _scan_tensor(part, external)


def _scan_node(data: memoryview, external: dict[str, None], backward: list[str]) -> None:
    operator, direction = "", b"forward"
    for field, part in _parts(data):
        if field == _NODE_OP:
            operator = str(part, "utf-8")
        elif field == _NODE_ATTRIBUTE:
            name, value = b"", b""
            for inner, content in _parts(part):
                if inner == _ATTRIBUTE_NAME:
                    name = bytes(content)
                elif inner == _ATTRIBUTE_BYTES:
                    value = bytes(content)
                elif inner in _ATTRIBUTE_TENSORS:
                    _scan_tensor(content, external)
                elif inner in _ATTRIBUTE_GRAPHS:
                    _scan_graph(content, external, backward)
            if name == b"direction":
                direction = value
    if operator in _RECURRENT and direction != b"forward":
        backward.append(operator)


def _scan_tensor(data: memoryview, external: dict[str, None]) -> None:
    for field, part in _parts(data):
        if field == _TENSOR_EXTERNAL:
            entry = {inner: bytes(content) for inner, content in _parts(part)}
            if entry.get(1) == b"location":
                external[entry.get(2, b"").decode("utf-8")] = None


def _parts(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield each length-delimited field's number and content, skipping the scalars."""
    return ((number, value) for number, value in fields(data) if not isinstance(value, int))
