"""The protobuf wire format, as much of it as an ONNX file needs.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterable, Iterator

from .errors import FileFormatError

__all__ = ["bytes_field", "fields", "signed", "varints"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_TRUNCATED = "it is truncated, or not an ONNX file; export or copy it again"


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Return each field's number and its value: an int for a varint, the bytes for all else.

    Raises:
        FileFormatError: the bytes end inside a field or hold an unknown wire type.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            raise FileFormatError(_TRUNCATED)
        if number == 0 or position + size > len(message):
            raise FileFormatError(_TRUNCATED)
        yield number, message[position : position + size]
        position += size


def varints(value: int | memoryview) -> list[int]:
    """Return a repeated integer's elements, from one occurrence, packed or not."""
    if isinstance(value, int):
        return [signed(value)]
    found, position = [], 0
    while position < len(value):
        element, position = _varint(value, position)
        found.append(signed(element))
    return found


def signed(value: int) -> int:
    """Return a varint as the int64 it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def bytes_field(number: int, parts: Iterable[bytes]) -> bytes:
    """Encode one length-delimited field whose value is ``parts`` joined."""
    body = b"".join(parts)
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(body)) + body


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise FileFormatError(_TRUNCATED)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
