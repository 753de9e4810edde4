"""An ONNX file's graph: its nodes, its stored tensors, its inputs. Field numbers are those of onnx.proto."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from lstm_edge_runtime._protobuf import fields, signed, varints
from lstm_edge_runtime.errors import FileFormatError

__all__ = ["Graph", "Node", "Tensor", "read_graph"]

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    21: "uint4",
    22: "int4",
}
"""TensorProto.DataType to numpy's (or ml_dtypes') name."""

_Axes = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Tensor:
    """A stored tensor or a graph input, without its values."""

    name: str
    dtype: str
    axes: _Axes
    """A name or None stands where an axis is dynamic; a stored tensor has ints only."""

    @property
    def size(self) -> int:
        """How many elements it has, each dynamic axis counted as 1."""
        return prod(axis if isinstance(axis, int) else 1 for axis in self.axes)


@dataclass(frozen=True)
class Node:
    """One node of the graph."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: Mapping[str, int] = field(default_factory=dict)
    """Its integer attributes."""
    constants: tuple[Tensor, ...] = ()
    """Its tensor attributes, without values."""
    bodies: tuple["Graph", ...] = ()
    """The graphs of a Loop, Scan or If."""


@dataclass(frozen=True)
class Graph:
    """A graph and, at the top, what the file says about itself."""

    nodes: tuple[Node, ...]
    stored: Mapping[str, Tensor]
    """The initializers by name."""
    inputs: tuple[Tensor, ...]
    """The inputs that are not initializers."""
    outputs: tuple[str, ...]
    ir_version: int = 0
    opsets: Mapping[str, int] = field(default_factory=dict)
    """Operator-set domain to version; the empty domain is ONNX's own."""
    producer: str = ""

    def every_node(self) -> Iterator[Node]:
        """Return every node, those of inner graphs included."""
        for node in self.nodes:
            yield node
            for body in node.bodies:
                yield from body.every_node()

    def every_tensor(self) -> Iterator[Tensor]:
        """Return every stored tensor and constant, those of inner graphs included."""
        yield from self.stored.values()
        for node in self.nodes:
            yield from node.constants
            for body in node.bodies:
                yield from body.every_tensor()


def read_graph(content: bytes) -> Graph:
    """Read the graph of an ONNX file from its bytes; weights are measured, not copied.

    Raises:
        FileFormatError: the bytes are not an ONNX model.
    """
    graph: memoryview | None = None
    ir_version, producer, opsets = 0, "", {}
    for number, value in fields(memoryview(content)):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 2:
            producer = _text(value)
        elif number == 7:
            graph = _bytes(value)
        elif number == 8:
            domain, version = _opset(_bytes(value))
            opsets[domain] = version
    if graph is None:
        raise FileFormatError("the file holds no ONNX graph; name a .onnx file")
    top = _graph(graph)
    return Graph(top.nodes, top.stored, top.inputs, top.outputs, ir_version, opsets, producer)


def _graph(message: memoryview) -> Graph:
    nodes, stored, inputs, outputs = [], {}, [], []
    for number, value in fields(message):
        if number == 1:
            nodes.append(_node(_bytes(value)))
        elif number == 5:
            tensor = _tensor(_bytes(value))
            stored[tensor.name] = tensor
        elif number == 11:
            inputs.append(_value(_bytes(value)))
        elif number == 12:
            outputs.append(_value(_bytes(value)).name)
    fed = tuple(tensor for tensor in inputs if tensor.name not in stored)
    return Graph(tuple(nodes), stored, fed, tuple(outputs))


def _node(message: memoryview) -> Node:
    inputs, outputs, op, domain = [], [], "", ""
    integers, constants, bodies = {}, [], []
    for number, value in fields(message):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            op = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            attribute = dict(fields(_bytes(value)))
            kind = attribute.get(20)
            if kind == 2:
                integers[_text(attribute[1])] = signed(_integer(attribute.get(3, 0)))
            elif kind == 4:
                constants.append(_tensor(_bytes(attribute[5])))
            elif kind == 5:
                bodies.append(_graph(_bytes(attribute[6])))
    return Node(op, domain, tuple(inputs), tuple(outputs), integers, tuple(constants), tuple(bodies))


def _tensor(message: memoryview) -> Tensor:
    axes: list[int] = []
    name, dtype = "", 0
    for number, value in fields(message):
        if number == 1:
            axes += varints(value)
        elif number == 2:
            dtype = _integer(value)
        elif number == 8:
            name = _text(value)
    return Tensor(name, _DTYPES.get(dtype, f"type {dtype}"), tuple(axes))


def _value(message: memoryview) -> Tensor:
    name, dtype, axes = "", 0, []
    for number, value in fields(message):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, tensor in fields(_bytes(value)):
                if kind != 1:
                    continue
                for part, content in fields(_bytes(tensor)):
                    if part == 1:
                        dtype = _integer(content)
                    elif part == 2:
                        axes += [_axis(_bytes(axis)) for tag, axis in fields(_bytes(content)) if tag == 1]
    return Tensor(name, _DTYPES.get(dtype, f"type {dtype}"), tuple(axes))


def _axis(message: memoryview) -> int | str | None:
    for number, value in fields(message):
        if number == 1:
            return _integer(value)
        if number == 2:
            return _text(value) or None
    return None


def _opset(message: memoryview) -> tuple[str, int]:
    found = dict(fields(message))
    return _text(found.get(1, memoryview(b""))), _integer(found.get(2, 0))


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise FileFormatError("the file is not ONNX: a number stands where a message should")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise FileFormatError("the file is not ONNX: a message stands where a number should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8", "replace")
