"""Read ONNX files with numpy alone: nodes, attributes, stored tensors, metadata.

``read_onnx`` returns an ``OnnxFile``; nothing is copied, a tensor's values are views of the file's bytes. It
is safe on files from anywhere: whatever is damaged raises ``FileFormatError``, and external data is read from
the file's own folder only.

Sources: the field numbers are those of ``onnx.proto`` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto),
which its compatibility rules freeze; the wire format is
https://protobuf.dev/programming-guides/encoding/.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import FileFormatError, counted
from .manifest import Array

_Value = int | memoryview
_Fields = Mapping[int, list[_Value]]

_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz",
    21: "uint4", 22: "int4", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip
"""TensorProto.DataType to numpy's (or ml_dtypes') name."""
_PLAIN = {
    "float16", "float32", "float64", "complex64", "complex128",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
}  # fmt: skip
"""Dtypes whose stored bytes are numpy's own."""
_PACKED = {"uint4": 4, "int4": 4, "uint2": 2, "int2": 2}
"""Dtypes of less than a byte, with their bits; the first value is in a byte's lowest bits."""
_BITS = {"bfloat16": 16, "float4e2m1": 4, **_PACKED}
"""Bits of a value of the other dtypes that do not take a byte."""
_FLOAT_FIELDS = {
    "float32": (4, "<f4"),
    "complex64": (4, "<f4"),
    "float64": (10, "<f8"),
    "complex128": (10, "<f8"),
}
"""The field that stores a dtype's values as fixed-size floats, and their type in it."""
_VARINT_FIELDS = {"int64": 7, "uint32": 11, "uint64": 11}
"""The field that stores a dtype's values as varints; 5 for all others."""
_MEMORY = "*/_ORT_MEM_ADDR_/*"
"""A location that makes onnxruntime read an address of its own memory."""
_TRUNCATED = "it is truncated, or not an ONNX file; export or copy it again"


class External(NamedTuple):
    """Where a tensor's values are, if not in the ONNX file."""

    location: str
    """A path relative to the ONNX file's folder, as the file writes it."""
    offset: int
    length: int | None
    """Bytes from ``offset``; None for all to the end of the file."""
    folder: str | None
    """The ONNX file's folder; None where only its content was given."""

    def path(self) -> str:
        """Return the path of the file.

        Raises:
            FileFormatError: the folder is not known, the location leads out of it, or no such file.
        """
        where = f"its weights are in {self.location!r}"
        if self.folder is None:
            raise FileFormatError(f"{where}; load it by its path")
        folder = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(folder, self.location.replace("\0", "")))  # noqa: PTH118
        parts = self.location.replace("\\", "/").split("/")
        if (
            "\0" in self.location
            or ".." in parts
            or self.location.startswith(_MEMORY)
            or not path.startswith(os.path.join(folder, ""))  # noqa: PTH118
        ):
            raise FileFormatError(f"{where}, outside its folder; refused as unsafe")
        if not os.path.isfile(path):  # noqa: PTH113  pathlib's import is a tenth of the time to load
            raise FileFormatError(f"{where}, which does not exist; copy it to the same folder")
        return path

    def read(self) -> memoryview:
        """Return a memory map of the bytes; raises as ``path`` does, and where the file is too short."""
        path = self.path()
        size = os.path.getsize(path)  # noqa: PTH202
        length = size - self.offset if self.length is None else self.length
        if min(self.offset, length) < 0 or self.offset + length > size:
            raise FileFormatError(
                f"{self.location!r} has {size} bytes, expected {length} from {self.offset} on; copy it again"
            )
        if not length:
            return memoryview(b"")
        return np.memmap(path, np.uint8, "r")[self.offset : self.offset + length].data


class Tensor(NamedTuple):
    """A stored tensor: an initializer, or the value of an attribute."""

    name: str
    dtype: str
    """numpy's name, or ml_dtypes': ``float32``, ``int8``, ``bfloat16``, ``uint4``."""
    shape: tuple[int, ...]
    external: External | None
    """Where the values are, if not in the file itself."""
    fields: _Fields
    """The fields of the message by number, as they are stored."""

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def array(self) -> Array:
        """Return the values, of ``shape``.

        Where the values are stored as raw bytes, which is the rule, this is a read-only view of them that may
        be unaligned. Integers below 8 bits come as int8 or uint8, bfloat16 as float32.

        Raises:
            FileFormatError: the stored bytes do not fill the shape; a dtype that numpy can't hold; external
                data that is unsafe, missing or too short.
        """
        try:
            flat = self._flat()
            if flat.size != self.size or min(self.shape, default=0) < 0:
                raise FileFormatError(
                    f"tensor {self.name!r} has {flat.size} values, expected {self.dtype} {self.shape}; "
                    "export or copy it again"
                )
            return flat.reshape(self.shape)
        except (ValueError, OverflowError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                f"tensor {self.name!r} can't be read as {self.dtype} {self.shape}; export or copy it again"
            ) from error

    def check(self) -> None:
        """Raise ``FileFormatError`` if the file is too small for the values of the shape."""
        if self.dtype == "string" or self.external is not None:
            return
        if 9 in self.fields:
            bits = 8 * np.dtype(self.dtype).itemsize if self.dtype in _PLAIN else _BITS.get(self.dtype, 8)
            fits = len(_last(self.fields, 9)) == -(-self.size * bits // 8)
        else:  # two values of 4 bits, or four of 2, may share a byte
            stored = sum(
                1 if isinstance(each, int) else len(each) for field in self.fields.values() for each in field
            )
            fits = self.size <= 4 * stored
        if not fits or min(self.shape, default=0) < 0:
            raise FileFormatError(
                f"tensor {self.name!r} does not fill {self.dtype} {self.shape}; export or copy it again"
            )

    def _flat(self) -> Array:
        if self.dtype not in _PLAIN and self.dtype not in _PACKED and self.dtype not in ("bool", "bfloat16"):
            raise FileFormatError(f"tensor {self.name!r} has dtype {self.dtype}, expected plain numbers")
        if self.external is not None and self.fields.get(14, [0])[-1] == 1:
            return self._from_bytes(self.external.read())
        if 9 in self.fields:
            return self._from_bytes(_last(self.fields, 9))
        if self.dtype in _FLOAT_FIELDS:
            number, kind = _FLOAT_FIELDS[self.dtype]
            return _floats(self.fields, number, kind).view(self.dtype)
        values = [_varint_array(value) for value in self.fields.get(_VARINT_FIELDS.get(self.dtype, 5), [])]
        stored = np.concatenate(values) if values else np.zeros(0, np.uint64)
        if self.dtype in ("float16", "bfloat16"):
            return self._from_bytes(stored.astype("<u2").data.cast("B"))
        if self.dtype in _PACKED:
            return self._from_bytes(stored.astype(np.uint8).data)
        whole: Array = stored.view(np.int64)
        return whole.astype(self.dtype)

    def _from_bytes(self, data: memoryview) -> Array:
        values: Array
        if self.dtype in _PLAIN:
            values = np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<"))
        elif self.dtype == "bool":
            values = np.frombuffer(data, np.uint8) != 0
        elif self.dtype == "bfloat16":
            values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            bits = _PACKED[self.dtype]
            shifts = np.arange(0, 8, bits, dtype=np.uint8)
            values = (np.frombuffer(data, np.uint8)[:, None] >> shifts & (1 << bits) - 1).reshape(-1)
            if self.dtype.startswith("int"):
                values = (values << 8 - bits).view(np.int8) >> 8 - bits
            values = values[: max(self.size, 0)]
        return values


class SparseTensor(NamedTuple):
    """A stored tensor of which only the elements that are not zero are listed."""

    shape: tuple[int, ...]
    values: Tensor
    """``(nnz,)``; its name is the sparse tensor's."""
    indices: Tensor
    """int64 ``(nnz,)`` into the flattened tensor, or ``(nnz, rank)``."""

    def array(self) -> Array:
        """Return the dense tensor of ``shape``, a copy.

        Raises:
            FileFormatError: as ``Tensor.array``; or indices that do not fit the shape.
        """
        values, indices = self.values.array(), self.indices.array()
        try:
            dense = np.zeros(self.shape, values.dtype)
            flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), self.shape)
            if flat.size and (flat.min() < 0 or flat.max() >= dense.size):
                raise ValueError("indices out of range")  # noqa: TRY301  one message for all
            dense.reshape(-1)[flat] = values
        except (ValueError, TypeError, IndexError, MemoryError) as error:
            raise FileFormatError(
                f"sparse tensor {self.values.name!r} has indices {indices.dtype} {indices.shape} that do not "
                f"fit {self.shape}; export it again"
            ) from error
        return dense


Attribute = Any
"""An attribute's value: int, float, str (bytes where it is not UTF-8), ``Tensor``, ``SparseTensor`` or
``Graph``, or a tuple of one of these."""


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
    attributes: Mapping[str, Attribute]
    """By name; those that a function's body takes from its caller are left out."""
    name: str

    def graphs(self) -> "Iterator[Graph]":
        """Return the bodies of a Loop, Scan or If."""
        for value in self.attributes.values():
            yield from (each for each in _each(value) if isinstance(each, Graph))

    def tensors(self) -> Iterator[Tensor]:
        """Return the tensors among the attributes; of sparse ones the values and the indices."""
        for value in self.attributes.values():
            for each in _each(value):
                if isinstance(each, Tensor):
                    yield each
                elif isinstance(each, SparseTensor):
                    yield from (each.values, each.indices)


class Graph(NamedTuple):
    """A graph: the file's own, or the body of a node."""

    nodes: tuple[Node, ...]
    initializers: Mapping[str, Tensor]
    sparse_initializers: Mapping[str, SparseTensor]
    inputs: tuple[ValueInfo, ...]
    """Those that are not initializers."""
    outputs: tuple[ValueInfo, ...]
    described: tuple[memoryview, ...] = ()
    """Declared types and shapes of the values between nodes."""

    def axes(self) -> dict[str, tuple[int | str | None, ...]]:
        """Return the axes of every value that the file describes, by name."""
        between = (_value_info(_split(each)) for each in self.described)
        return {each.name: each.axes for each in (*between, *self.inputs, *self.outputs)}

    def every_node(self) -> Iterator[Node]:
        """Return every node, those of inner graphs included."""
        return _every_node(self.nodes)

    def every_tensor(self) -> Iterator[Tensor]:
        """Return every stored tensor, those of attributes and of inner graphs included."""
        yield from self.initializers.values()
        for sparse in self.sparse_initializers.values():
            yield from (sparse.values, sparse.indices)
        for node in self.nodes:
            yield from node.tensors()
            for graph in node.graphs():
                yield from graph.every_tensor()


class LocalFunction(NamedTuple):
    """An operator that the file defines itself."""

    domain: str
    name: str
    nodes: tuple[Node, ...]
    defaults: Mapping[str, Attribute]
    """The attributes that a caller may leave out."""


class OnnxFile(NamedTuple):
    """An ONNX file: its graph and what it says about itself."""

    graph: Graph
    functions: tuple[LocalFunction, ...]
    ir_version: int
    opsets: Mapping[str, int]
    """Operator-set domain to version; the empty domain is ONNX's own."""
    producer: str
    metadata: Mapping[str, str]

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 where the file names none."""
        return max(self.opsets.get(domain, 0) for domain in ("", "ai.onnx"))

    def every_node(self) -> Iterator[Node]:
        """Return every node, those of inner graphs and of functions included."""
        yield from self.graph.every_node()
        for function in self.functions:
            yield from _every_node(function.nodes)

    def every_tensor(self) -> Iterator[Tensor]:
        """Return every stored tensor, those of attributes, inner graphs and functions included."""
        yield from self.graph.every_tensor()
        for function in self.functions:
            defaults = Node("", "", (), (), function.defaults, "")
            yield from Graph((*function.nodes, defaults), {}, {}, (), ()).every_tensor()

    def external_paths(self) -> set[str]:
        """Return the paths of all files with external data, links resolved.

        Raises:
            FileFormatError: one is outside the ONNX file's own folder, or not there.
        """
        return {tensor.external.path() for tensor in self.every_tensor() if tensor.external is not None}

    def check(self) -> None:
        """Look for what onnxruntime must not be given, as it would end the process or fill its memory.

        Raises:
            FileFormatError: a tensor that does not fill its shape, or a Split that has not as many outputs as
                it says.
        """
        for tensor in self.every_tensor():
            tensor.check()
        for node in self.every_node():
            if node.op_type == "Split" and node.attributes.get("num_outputs") not in (
                None,
                len(node.outputs),
            ):
                raise FileFormatError(
                    f"node {node.name!r} (Split) has {counted(len(node.outputs), 'output')}, and "
                    f"num_outputs is {node.attributes['num_outputs']!r}; export it again"
                )


def read_onnx(content: bytes | memoryview, folder: str | os.PathLike[str] | None = None) -> OnnxFile:
    """Read an ONNX file from its content.

    Args:
        content: the bytes of the ``.onnx`` file, which tensors refer to.
        folder: where the file is, for external data; None where that is not known.

    Raises:
        FileFormatError: the bytes are not a whole ONNX model.
    """
    try:
        return _model(_split(memoryview(content)), None if folder is None else os.fspath(folder))
    except RecursionError as error:
        raise FileFormatError(_TRUNCATED) from error


def add_outputs(content: bytes, names: Iterable[str]) -> bytes:
    """Return an ONNX file whose graph has further outputs.

    Protobuf merges messages that follow each other: a file with one more ``graph`` field behind it is the
    same file with more outputs.

    Args:
        content: the bytes of the ``.onnx`` file.
        names: values of its graph.
    """
    outputs = [_encode(12, _encode(1, name.encode())) for name in names]
    return content + _encode(7, b"".join(outputs))


def add_metadata(content: bytes, key: str, value: str) -> bytes:
    """Return an ONNX file with an entry of its metadata set: of two with one key, readers take the last."""
    return content + _encode(14, _encode(1, key.encode()) + _encode(2, value.encode()))


def _model(fields: _Fields, folder: str | None) -> OnnxFile:
    if 7 not in fields:
        raise FileFormatError("it contains no ONNX graph; export or copy it again")
    return OnnxFile(
        graph=_graph(_message(fields, 7), folder),
        functions=tuple(_function(each, folder) for each in _messages(fields, 25)),
        ir_version=_integer(fields, 1),
        opsets={_text(each, 1): _integer(each, 2) for each in _messages(fields, 8)},
        producer=_text(fields, 2),
        metadata=_strings(fields, 14),
    )


def _graph(fields: _Fields, folder: str | None) -> Graph:
    initializers = [_tensor(each, folder) for each in _messages(fields, 5)]
    sparse = [_sparse(each, folder) for each in _messages(fields, 15)]
    stored = {tensor.name: tensor for tensor in initializers}
    if len(stored) < len(initializers):
        raise FileFormatError("it contains two tensors with the same name; export it again")
    inputs = map(_value_info, _messages(fields, 11))
    return Graph(
        inputs=tuple(each for each in inputs if each.name not in stored),
        nodes=tuple(_node(each, folder) for each in _messages(fields, 1)),
        initializers=stored,
        sparse_initializers={each.values.name: each for each in sparse},
        outputs=tuple(map(_value_info, _messages(fields, 12))),
        described=tuple(_bytes(value) for value in fields.get(13, [])),
    )


def _function(fields: _Fields, folder: str | None) -> LocalFunction:
    nodes = tuple(_node(each, folder) for each in _messages(fields, 7))
    return LocalFunction(_text(fields, 10), _text(fields, 1), nodes, _attributes(fields, 11, folder))


def _node(fields: _Fields, folder: str | None) -> Node:
    return Node(
        op_type=_text(fields, 4),
        domain=_text(fields, 7),
        inputs=tuple(_decode(_bytes(name)) for name in fields.get(1, [])),
        outputs=tuple(_decode(_bytes(name)) for name in fields.get(2, [])),
        attributes=_attributes(fields, 5, folder),
        name=_text(fields, 3),
    )


def _attributes(owner: _Fields, number: int, folder: str | None) -> dict[str, Attribute]:
    attributes = {}
    for fields in _messages(owner, number):
        name = _text(fields, 1)
        if name in attributes:
            raise FileFormatError(f"a node has two attributes {name!r}; export it again")
        if 21 not in fields or not fields.keys().isdisjoint(_READERS):
            attributes[name] = _attribute(fields, folder)
    return attributes


def _attribute(fields: _Fields, folder: str | None) -> Attribute:
    """Return the value whose kind is field 20; old files leave that out and have one value alone."""
    found = [number for number in fields if number in _READERS]
    number = _FIELDS_BY_KIND.get(_integer(fields, 20), found[0] if found else 0)
    if any(other != number for other in found if other in _NESTED):
        raise FileFormatError(f"attribute {_text(fields, 1)!r} has values of two types; export it again")
    return _READERS[number](fields, folder) if number in _READERS else None


def _tensor(fields: _Fields, folder: str | None) -> Tensor:
    kind = _integer(fields, 2)
    return Tensor(
        name=_text(fields, 8),
        dtype=_DTYPES.get(kind, f"type {kind}"),
        shape=_integers(fields, 1),
        external=_external(fields, folder) if 13 in fields else None,
        fields=fields,
    )


def _external(fields: _Fields, folder: str | None) -> External:
    entries = _strings(fields, 13)
    if len(entries) < len(fields[13]) or "location" not in entries:
        raise FileFormatError(
            f"tensor {_text(fields, 8)!r} does not name one file with its data; export it again"
        )
    try:
        length = int(entries["length"]) if "length" in entries else None
        return External(entries["location"], int(entries.get("offset", 0)), length, folder)
    except ValueError as error:
        raise FileFormatError(
            f"tensor {_text(fields, 8)!r} has data at {entries}, expected a whole offset and length"
        ) from error


def _sparse(fields: _Fields, folder: str | None) -> SparseTensor:
    values, indices = (_tensor(_message(fields, number), folder) for number in (1, 2))
    return SparseTensor(_integers(fields, 3), values, indices)


def _value_info(fields: _Fields) -> ValueInfo:
    tensor = _message(_message(fields, 2), 1)
    axes = tuple(
        _signed(_integer(axis, 1)) if 1 in axis else _text(axis, 2) or None
        for axis in _messages(_message(tensor, 2), 1)
    )
    kind = _integer(tensor, 1)
    return ValueInfo(_text(fields, 1), _DTYPES.get(kind, f"type {kind}") if kind else "", axes)


def _strings(fields: _Fields, number: int) -> dict[str, str]:
    return {_text(entry, 1): _text(entry, 2) for entry in _messages(fields, number)}


def _each(value: Attribute) -> Iterable[Any]:
    return value if type(value) is tuple else (value,)


def _every_node(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for graph in node.graphs():
            yield from graph.every_node()


_READERS: dict[int, Callable[[_Fields, str | None], Attribute]] = {
    2: lambda fields, _: float(floats[-1]) if (floats := _floats(fields, 2, "<f4")).size else 0.0,
    3: lambda fields, _: _signed(_integer(fields, 3)),
    4: lambda fields, _: _text_or_bytes(_last(fields, 4)),
    5: lambda fields, folder: _tensor(_message(fields, 5), folder),
    6: lambda fields, folder: _graph(_message(fields, 6), folder),
    7: lambda fields, _: tuple(_floats(fields, 7, "<f4").tolist()),
    8: lambda fields, _: _integers(fields, 8),
    9: lambda fields, _: tuple(_text_or_bytes(_bytes(value)) for value in fields.get(9, [])),
    10: lambda fields, folder: tuple(_tensor(each, folder) for each in _messages(fields, 10)),
    11: lambda fields, folder: tuple(_graph(each, folder) for each in _messages(fields, 11)),
    22: lambda fields, folder: _sparse(_message(fields, 22), folder),
    23: lambda fields, folder: tuple(_sparse(each, folder) for each in _messages(fields, 23)),
}
"""Readers of an attribute's value by its field, in the order of AttributeProto.AttributeType."""
_FIELDS_BY_KIND = dict(enumerate(_READERS, 1))
_NESTED = (5, 6, 10, 11, 22, 23)
"""Fields of values with tensors."""


# the wire format


def _split(message: memoryview) -> _Fields:
    """Return a message's fields by number: an int for a varint, the bytes for all else.

    Raises:
        FileFormatError: the bytes end inside a field or have an unknown wire type.
    """
    fields: dict[int, list[_Value]] = {}
    position, end = 0, len(message)
    value: _Value
    while position < end:
        key = message[position]
        if key < 0x80:
            position += 1
        else:
            key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
        else:
            if kind == 2:
                size, position = _varint(message, position)
            elif kind == 5:
                size = 4
            elif kind == 1:
                size = 8
            else:
                raise FileFormatError(_TRUNCATED)
            if position + size > end:
                raise FileFormatError(_TRUNCATED)
            value = message[position : position + size]
            position += size
        if number == 0:
            raise FileFormatError(_TRUNCATED)
        if number in fields:
            fields[number].append(value)
        else:
            fields[number] = [value]
    return fields


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, position
            shift += 7
            if shift > 63:
                raise FileFormatError(_TRUNCATED)
    except IndexError:
        raise FileFormatError(_TRUNCATED) from None


def _varint_array(value: _Value) -> npt.NDArray[np.uint64]:
    """Return a repeated integer's elements, from one occurrence, packed or not."""
    if isinstance(value, int):
        return np.array([value], np.uint64)
    data = np.frombuffer(value, np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if not data.size:
        return np.zeros(0, np.uint64)
    if not ends.size or ends[-1] != data.size - 1:
        raise FileFormatError(_TRUNCATED)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise FileFormatError(_TRUNCATED)
    places = np.arange(data.size) - np.repeat(starts, lengths)
    shifted = (data & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.bitwise_or.reduceat(shifted, starts)


def _encode(number: int, content: bytes) -> bytes:
    """Return one length-delimited field."""
    encoded, size = bytearray([number << 3 | 2]), len(content)
    while size >= 0x80:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(encoded) + bytes([size]) + content


def _joined(fields: _Fields, number: int) -> memoryview:
    """Return a field's bytes; several occurrences are joined."""
    parts = [_bytes(value) for value in fields.get(number, [])]
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _message(fields: _Fields, number: int) -> _Fields:
    """Return a field's own fields; several occurrences are merged, as protobuf does."""
    return _split(_joined(fields, number))


def _messages(fields: _Fields, number: int) -> Iterator[_Fields]:
    """Return the fields of each occurrence of a field."""
    return (_split(_bytes(value)) for value in fields.get(number, []))


def _last(fields: _Fields, number: int) -> memoryview:
    return _bytes(fields[number][-1]) if number in fields else memoryview(b"")


def _integer(fields: _Fields, number: int) -> int:
    """Return a field's last value, 0 where it is left out."""
    value = fields[number][-1] if number in fields else 0
    if not isinstance(value, int):
        raise FileFormatError("it is not ONNX: got a message, expected a number; export it again")
    return value


def _floats(fields: _Fields, number: int, dtype: str) -> Array:
    data = _joined(fields, number)
    if len(data) % np.dtype(dtype).itemsize:
        raise FileFormatError(_TRUNCATED)
    return np.frombuffer(data, dtype)


def _integers(fields: _Fields, number: int) -> tuple[int, ...]:
    values = fields.get(number, [])
    if all(isinstance(value, int) for value in values):
        return tuple(map(_signed, values))  # type: ignore[arg-type]
    return tuple(np.concatenate([*map(_varint_array, values)]).view(np.int64).tolist())


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(fields: _Fields, number: int) -> str:
    return _decode(_last(fields, number))


def _decode(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"it contains {bytes(value)[:40]!r}, expected UTF-8 text; export it again"
        ) from error


def _text_or_bytes(value: memoryview) -> str | bytes:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        return bytes(value)


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise FileFormatError("it is not ONNX: got a number, expected a message; export it again")
    return value
