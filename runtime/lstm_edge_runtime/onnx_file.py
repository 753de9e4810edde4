"""The metadata of an ``.onnx`` file, and whether the rest of it is as it was written.

onnxruntime trusts what it reads, and some damaged files end the process in it; so the digest comes first.
"""

import hashlib
from collections.abc import Iterator, Mapping

from .errors import FileFormatError, UnsupportedError

DIGEST = "lstm_edge_sha256"
"""The metadata property with the sha256 of all fields of the file but its metadata."""
_METADATA = 14
"""The number of ModelProto's field metadata_props."""
_EXTERNAL = b"\n\x08location\x12"
"""How a tensor begins to say in which other file its values are."""


def read_onnx_file(content: bytes) -> tuple[Mapping[str, str], str]:
    """Return the metadata of a file, and the sha256 in hex of all else in it.

    Raises:
        FileFormatError: truncated, foreign, or not as it was written.
        UnsupportedError: its weights are in another file.
    """
    properties, digest = {}, hashlib.sha256()
    try:
        for number, value, record in _fields(memoryview(content)):
            if number == _METADATA:
                entry = {key: bytes(text).decode() for key, text, _ in _fields(value)}
                properties[entry.get(1, "")] = entry.get(2, "")
            else:
                digest.update(record)
    except (IndexError, ValueError) as error:
        raise FileFormatError("truncated, or not an ONNX file; export or copy it again") from error
    if properties.get(DIGEST, digest.hexdigest()) != digest.hexdigest():
        raise FileFormatError("damaged, or edited after it was exported; export or copy it again")
    if _EXTERNAL in content:
        raise UnsupportedError("its weights are in another file, but an artifact is one; lift it again")
    return properties, digest.hexdigest()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield the number, the value and the whole bytes of each field of a protobuf message."""
    start = 0
    while start < len(message):
        key, place = _varint(message, start)
        size, end = _varint(message, place)
        if key & 7 == 2:
            place, end = end, end + size
        if key & 7 not in (0, 2) or key < 8 or end > len(message):
            raise ValueError(key)
        yield key >> 3, message[place:end], message[start:end]
        start = end


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at ``place`` and the place behind it."""
    value = shift = 0
    while shift < 70:
        byte = message[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError(place)
