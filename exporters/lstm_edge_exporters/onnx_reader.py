"""An ONNX file as named tuples: nodes, attributes, stored tensors, interface, metadata."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_edge_runtime.errors import FileFormatError, first_line
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.reading import read_content


class Tensor(NamedTuple):
    """A stored tensor: an initializer, or the value of an attribute."""

    name: str
    dtype: str
    """numpy's name, or ml_dtypes': ``float32``, ``int8``, ``bfloat16``, ``uint4``."""
    shape: tuple[int, ...]
    proto: onnx.TensorProto

    def array(self) -> Array:
        """Return the values; integers below 8 bits come as int8 or uint8, bfloat16 as float32.

        Raises:
            FileFormatError: the stored bytes do not fill the shape, or are in another file.
        """
        try:
            array = np.asarray(numpy_helper.to_array(self.proto))
        except Exception as error:  # damaged bytes make numpy and protobuf raise several kinds
            raise FileFormatError(f"tensor {self.name!r}: {first_line(error)}; export it again") from error
        if array.dtype.isbuiltin != 1:  # one of ml_dtypes
            name = array.dtype.name
            array = array.astype("float32" if "float" in name else "uint8" if name[0] == "u" else "int8")
        return array


class ValueInfo(NamedTuple):
    """An input or output of a graph."""

    name: str
    dtype: str
    """As ``Tensor.dtype``; empty for what is not a tensor."""
    axes: tuple[int | str | None, ...]
    """An int where an axis is fixed, its name where it is dynamic, None where it has none."""


class Node(NamedTuple):
    """One node."""

    op_type: str
    domain: str
    """Empty for ONNX's own operators."""
    inputs: tuple[str, ...]
    """Names of values; empty for an optional one that is left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """int, float, str (bytes where it is not UTF-8), ``Tensor``, ``Graph``, or a tuple of one of these."""
    name: str


class Graph(NamedTuple):
    """A graph: the file's own, or the body of a node."""

    nodes: tuple[Node, ...]
    initializers: Mapping[str, Tensor]
    has_sparse: bool
    """Whether it stores sparse tensors."""
    inputs: tuple[ValueInfo, ...]
    """Those that are not initializers."""
    outputs: tuple[ValueInfo, ...]


class OnnxFile(NamedTuple):
    """An ONNX file: its graph and what it says about itself."""

    graph: Graph
    functions: Mapping[tuple[str, str], tuple[Node, ...]]
    """Operators that the file defines itself, by domain and name."""
    ir_version: int
    opsets: Mapping[str, int]
    """Operator-set domain to version; the empty domain is ONNX's own."""
    metadata: Mapping[str, str]

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 where the file names none."""
        return max(self.opsets.get(domain, 0) for domain in ("", "ai.onnx"))

    def every_node(self) -> Iterator[Node]:
        """Return every node, those of inner graphs and of functions included."""
        for nodes in (self.graph.nodes, *self.functions.values()):
            yield from _every_node(nodes)


def read_onnx(content: bytes) -> OnnxFile:
    """Read an ONNX file from its content; ``FileFormatError`` if it is truncated or foreign."""
    try:
        return from_proto(onnx.load_from_string(content))
    except Exception as error:  # protobuf's DecodeError is no ValueError
        raise FileFormatError("it is truncated, or not an ONNX file; export or copy it again") from error


def read_model(source: str | os.PathLike[str] | bytes) -> tuple[bytes, OnnxFile]:
    """Return the content and the graph of an ONNX file.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign.
    """
    name, content = read_content(source)
    try:
        return content, read_onnx(content)
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error


def from_proto(proto: onnx.ModelProto) -> OnnxFile:
    """Return what a message of protobuf holds."""
    return OnnxFile(
        _graph(proto.graph),
        {(each.domain, each.name): _nodes(each.node) for each in proto.functions},
        proto.ir_version,
        {each.domain: each.version for each in proto.opset_import},
        {each.key: each.value for each in proto.metadata_props},
    )


def _graph(graph: onnx.GraphProto) -> Graph:
    stored = {each.name: _tensor(each) for each in graph.initializer}
    sparse = {each.values.name for each in graph.sparse_initializer}
    inputs = (each for each in graph.input if each.name not in stored and each.name not in sparse)
    return Graph(_nodes(graph.node), stored, bool(sparse), _value_infos(inputs), _value_infos(graph.output))


def _nodes(nodes: Iterable[onnx.NodeProto]) -> tuple[Node, ...]:
    return tuple(
        Node(
            node.op_type,
            "" if node.domain == "ai.onnx" else node.domain,
            tuple(node.input),
            tuple(node.output),
            {each.name: _attribute(each) for each in node.attribute if not each.ref_attr_name},
            node.name,
        )
        for node in nodes
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(map(_plain, value))
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if isinstance(value, onnx.GraphProto):
        return _graph(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return Tensor(tensor.name, _dtype(tensor.data_type), tuple(tensor.dims), tensor)


def _dtype(number: int) -> str:
    """Return the name of an element type, empty for none."""
    known = number in onnx.TensorProto.DataType.values() and number != onnx.TensorProto.UNDEFINED
    if number == onnx.TensorProto.STRING:
        return "string"
    return str(onnx.helper.tensor_dtype_to_np_dtype(number).name) if known else ""


def _value_infos(values: Iterable[onnx.ValueInfoProto]) -> tuple[ValueInfo, ...]:
    return tuple(
        ValueInfo(each.name, _dtype(each.type.tensor_type.elem_type), _axes(each.type.tensor_type))
        for each in values
    )


def _axes(kind: onnx.TypeProto.Tensor) -> tuple[int | str | None, ...]:
    return tuple(
        each.dim_value if each.HasField("dim_value") else each.dim_param or None for each in kind.shape.dim
    )


def _every_node(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for value in node.attributes.values():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, Graph):
                    yield from _every_node(each.nodes)
