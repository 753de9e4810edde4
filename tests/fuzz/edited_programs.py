"""Native programs with edited manifests, without ``onnx``."""

import struct
import zlib
from collections.abc import Callable


def edit_lep(content: bytes, edit: Callable[[bytes], str]) -> bytes:
    """Return a program with an edited manifest, which is put behind all constants."""
    data = bytearray(content)
    (number,) = struct.unpack_from("<I", data, 48)
    record = 64 + 24 * number
    offset, rows, columns, kind, _ = struct.unpack_from("<QIIII", data, record)
    text = edit(bytes(data[offset : offset + rows * columns]).rstrip(b"\0")).encode()
    data += bytes(-len(data) % 8)
    struct.pack_into("<QIIII", data, record, len(data), 1, len(text), kind, 0)
    data += text
    data += bytes(-len(data) % 8)
    struct.pack_into("<Q", data, 16, len(data))
    struct.pack_into("<I", data, 12, zlib.crc32(data[16:]))
    return bytes(data)
