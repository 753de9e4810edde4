"""Seeded damage to files: by bytes, and by the structure of protobuf, JSON, zip, tables and tensors.

Every function takes a ``random.Random`` and gives the damaged content, the same for the same generator.
"""

import contextlib
import copy
import io
import json
import struct
import warnings
import zipfile
from random import Random
from typing import Any

import numpy as np

TEXTS = (
    b"", b"\0", b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b]0;title\x07\x1b[2J", b"\xe2\x80\xaegnp.exe",
    b"../../etc/passwd", b"/etc/passwd", b"*/_ORT_MEM_ADDR_/*", b"line\nline\r\n", b"A" * 1500, b"h_0",
    b"N", b"nan", b"1e999", b"%s%n", b"{}", b"\xef\xbb\xbfx", "\u2028\x9b31m".encode(),
)  # fmt: skip
"""What names, labels and notes may be."""
_POWERS = tuple(2**bits + one for bits in (31, 32, 63, 64) for one in (-1, 0, 3))
NUMBERS = 0, 1, -1, 2, 127, 128, 255, 65535, *_POWERS, -(2**31), -(2**63), 2**53 + 1
VALUES: tuple[Any, ...] = (
    None, True, False, *NUMBERS, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), "",
    "\ud800", "\0", "\x1b[31mred", "é" * 3, "x" * 2000, "line\nline", [], {}, [[]], [None], {"": None},
    ["a", "a"], [1, "N", None],
    "N", "L", "2*N", "L//2", "h_0", ["L", "N"], 8, "float16", [2**40, 2**40], "1",
    "float32", "object", "int8", "V8", "nan", [-1], [0],
)  # fmt: skip


def damage(rng: Random, content: bytes) -> bytes:
    """Change some bytes, or move, insert or cut some."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 1, 2, 4, 8, 64, 1000))
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 1] = rng.choice((b"\0", b"\x7f", b"\x80", b"\xff", b"\x01"))
            case 2:
                data[at:at] = rng.randbytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                del data[at:]
            case 5:
                data[at:at] = data[at : at + size]
            case 6:
                other = rng.randrange(len(data) + 1)
                data[at : at + size] = data[other : other + size]
            case 7:
                width = rng.choice((4, 8))
                data[at : at + width] = (rng.choice(NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, "little")
            case 8:
                text = rng.choice(TEXTS)
                data[at : at + rng.choice((0, len(text)))] = text
    return bytes(data)


# --- protobuf


def damage_protobuf(rng: Random, content: bytes) -> bytes:
    """Drop, repeat, replace or exchange fields of a message at any depth; lengths stay right."""
    message = _parse(content, 0)
    if message is None:
        return damage(rng, content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        fields = list(_fields(message))
        if not fields:
            break
        parent, place = rng.choice(fields)
        _damage_field(rng, parent, place, fields)
    return _serialize(message)


def _damage_field(rng: Random, parent: list[Any], place: int, fields: list[Any]) -> None:
    number, kind, value = parent[place]
    match rng.randrange(8):
        case 0:
            del parent[place]
        case 1:
            parent.insert(place, parent[place])
        case 2:
            parent[place] = (rng.choice((number + 1, 1, 2, 3, 5, 7, 15, 22, 23, 100)), kind, value)
        case 3:
            other, at = rng.choice(fields)
            if at < len(other):
                parent[place] = (number, *copy.deepcopy(other[at][1:]))
        case 4:
            parent[place] = (number, 0, rng.choice(NUMBERS) & (1 << 64) - 1)
        case 5:
            parent[place] = (number, 2, rng.choice(TEXTS))
        case 6 if kind == 2 and isinstance(value, bytes):
            parent[place] = (number, 2, damage(rng, value))
        case _:
            if kind == 0:
                parent[place] = (number, 0, rng.choice(NUMBERS) & (1 << 64) - 1)
            elif kind == 2 and isinstance(value, list):
                rng.shuffle(value)
            else:
                parent[place] = (number, kind, value[: len(value) // 2] if kind == 2 else value)


def _parse(data: bytes, depth: int) -> list[Any] | None:
    """Return ``[(field, wire type, value)]``, messages in it parsed too, or None where it is no message."""
    fields: list[Any] = []
    at = 0
    try:
        while at < len(data):
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if not 0 < number < 600:
                return None
            if kind == 0:
                value, at = _varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, at = data[at : at + size], at + size
            elif kind == 2:
                size, at = _varint(data, at)
                raw, at = data[at : at + size], at + size
                inner = _parse(raw, depth + 1) if len(raw) >= 2 and depth < 12 and not raw.isalnum() else None
                value = raw if inner is None else inner
            else:
                return None
            if at > len(data):
                return None
            fields.append((number, kind, value))
    except IndexError:
        return None
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError


def _fields(message: list[Any]) -> Any:
    for place, (_, _, value) in enumerate(message):
        yield message, place
        if isinstance(value, list):
            yield from _fields(value)


def _encode(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _serialize(message: list[Any]) -> bytes:
    parts = []
    for number, kind, value in message:
        parts.append(_encode(number << 3 | kind))
        if kind == 0:
            parts.append(_encode(value))
        elif kind == 2:
            raw = _serialize(value) if isinstance(value, list) else value
            parts += [_encode(len(raw)), raw]
        else:
            parts.append(value)
    return b"".join(parts)


# --- JSON


def damage_json(rng: Random, text: str | bytes) -> str:
    """Replace, drop, rename, move or nest values of a JSON document."""
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(("", "\x1b[2J", "\ud800", "name", "x" * 600, "__class__"))] = parent.pop(
                    key
                )
            case 2:
                other, at = rng.choice(places)
                with contextlib.suppress(LookupError):
                    parent[key] = json.loads(json.dumps(other[at]))
            case 3:
                deep: Any = parent[key]
                for _ in range(rng.choice((1, 2, 400))):
                    deep = [deep]
                parent[key] = deep
            case 4 if isinstance(parent[key], list):
                parent[key] = parent[key] * rng.choice((0, 2, 50))
            case 5 if isinstance(parent[key], str):
                parent[key] = damage(rng, parent[key].encode("utf-8", "surrogatepass")).decode(
                    "utf-8", "replace"
                )
            case 6 if isinstance(parent[key], int | float):
                parent[key] = rng.choice(
                    (*NUMBERS, 0.5, float("nan"), float("-inf"), 10**400, str(parent[key]))
                )
            case _:
                parent[key] = rng.choice(VALUES)
    found = json.dumps(document)
    return damage(rng, found.encode()).decode("utf-8", "surrogateescape") if rng.random() < 0.1 else found


def _places(document: Any) -> Any:
    keys = (
        document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    )
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


# --- zip files of arrays


def damage_npz(rng: Random, content: bytes) -> bytes:
    """Replace, drop, rename or damage members of an ``.npz``."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    for _ in range(rng.choice((1, 1, 2))):
        if not members:
            break
        name = rng.choice(sorted(members))
        match rng.randrange(7):
            case 0:
                del members[name]
            case 1:
                members[name] = npy(rng)
            case 2:
                members[name] = damage(rng, members[name])
            case 3:
                other = rng.choice(("x", "y.npy", "../x.npy", "a/b.npy", "\x1b[2J.npy", "lengths.npy"))
                members[other] = members.pop(name)
            case 4:
                members[rng.choice(("note", "caf\xe9.npy", "z.npy", "x", "steps.npy"))] = rng.choice(TEXTS)
            case 5:
                members[name] = members[rng.choice(sorted(members))]
            case 6:
                members[name] = damage_npy(rng, members[name])
    found = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(found, "w", kind) as file:
        for name, member in members.items():
            file.writestr(name, member)
    return damage(rng, found.getvalue()) if rng.random() < 0.1 else found.getvalue()


def npy(rng: Random) -> bytes:
    """Return an ``.npy`` of an array that nobody expects."""
    kinds: tuple[Any, ...] = (
        "b1", "i1", "u8", "i8", "f2", "f4", "f8", "c16", "U3", "S3", "M8[s]", "m8[ns]", "V5",
        [("a", "f4"), ("b", "i4")], ">f4",
    )  # fmt: skip
    shape = rng.choice(((), (0,), (3,), (2, 0), (4, 6), (4, 6, 3), (1, 4, 6, 3), (0, 6, 3), (4, 0, 3)))
    array = np.zeros(shape, np.dtype(rng.choice(kinds)))
    if array.dtype.kind == "f" and array.size:
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 6e4, 1e-40))
    if array.dtype.kind in "iu" and array.size:
        array.flat[0] = rng.choice((-1, 100, 127)) if array.dtype.kind == "i" else 200
    found = io.BytesIO()
    np.lib.format.write_array(
        found, array if rng.random() < 0.5 else np.asfortranarray(array), allow_pickle=True
    )
    return found.getvalue()


def damage_npy(rng: Random, content: bytes) -> bytes:
    """Rewrite the header: another shape, order or dtype, or text that is no header."""
    shapes = "(0,) (-1,) (4,6,3) () (2**40,) (1099511627776,2) 'x' None (1,)*9 (True,)"
    shape = rng.choice(shapes.split())
    dtype = rng.choice(
        ("'<f4'", "'|O'", "'<U1000000'", "'V0'", "[('a', '<f4')]", "None", "'x'", "'<f4' * 5", "'|S0'")
    )
    order = rng.choice(("False", "True", "1", "None"))
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    if rng.random() < 0.1:
        header = rng.choice(TEXTS)
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    length = struct.pack("<H", len(header) + 1) if version[0] == 1 else struct.pack("<I", len(header) + 1)
    return b"\x93NUMPY" + version + length + header + b"\n" + content[128:]


# --- tables


def damage_csv(rng: Random, content: bytes) -> bytes:
    """Change cells, columns, rows, the header or the encoding."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.randrange(len(rows))
        cells = rows[row] or [b""]
        column = rng.randrange(len(cells))
        match rng.randrange(10):
            case 0:
                strange = b'" inf -nan 1_000 1,5 0x10 12:61 2024-13-45 1e400'
                cells[column] = rng.choice((*TEXTS, *strange.split()))
            case 1:
                del cells[column]
            case 2:
                cells.insert(column, rng.choice(TEXTS))
            case 3:
                rows[0] = rng.choice(([], [b""], cells, [b"x"] * len(cells), [b"series", b"x"], [b"\xff"]))
            case 4:
                del rows[row]
                rows = rows or [[b""]]
            case 5:
                rows.insert(row, cells * rng.choice((1, 2, 300)))
            case 6:
                for each in rows:
                    if column < len(each):
                        del each[column]
            case 7:
                for each in rows[1:]:
                    if column < len(each):
                        each[column] = rng.choice(TEXTS)
            case 8:
                rng.shuffle(rows)
            case 9:
                rows = rows[: rng.randrange(3)]
                rows = rows or [[b""]]
    text = rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(
        rng.choice((b",", b",", b",", b";", b"\t")).join(row) for row in rows
    )
    if rng.random() < 0.1:
        text = rng.choice((b"\xef\xbb\xbf" + text, text.decode("latin-1").encode("utf-16"), b"\0" + text))
    return text


def parquet(rng: Random) -> bytes:
    """Return a table with columns of kinds that nobody expects."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "series": pa.array([0] * 6 + [1] * 6),
        "x1": pa.array(np.arange(12.0)),
        "x2": pa.array(np.arange(12.0, dtype=np.float32)),
        "x3": pa.array(np.ones(12)),
        "label": pa.array(["a"] * 6 + ["b"] * 6),
    }
    strange = (
        lambda: pa.array([None] * 12),
        lambda: pa.array([[1.0, 2.0]] * 12),
        lambda: pa.array([{"a": 1}] * 12),
        lambda: pa.array([b"\xff\xfe"] * 12),
        lambda: pa.array([1] * 11 + [None]),
        lambda: pa.array(["\x1b[2J"] * 12).dictionary_encode(),
        lambda: pa.array([10**18] * 12, pa.timestamp("ns", tz="UTC")),
        lambda: pa.array(range(12), pa.duration("s")),
        lambda: pa.array(range(12), pa.time64("us")),
        lambda: pa.array([True] * 12),
        lambda: pa.array([float("nan")] * 12),
        lambda: pa.array([2**63 + 5] * 12, pa.uint64()),
        lambda: pa.array(list(range(12)), pa.decimal128(30, 5)),
        lambda: pa.array(np.zeros(12, np.float16)),
        lambda: pa.array([2**40] * 12, pa.timestamp("s")),
    )
    for _ in range(rng.choice((1, 1, 2))):
        columns[rng.choice(("series", "x1", "x3", "label", "order", "", "\x1b[2J", "split"))] = rng.choice(
            strange
        )()
    found = io.BytesIO()
    pq.write_table(pa.table(columns).slice(0, rng.choice((0, 1, 12, 12))), found)
    return found.getvalue()


# --- checkpoints


def checkpoint(rng: Random, content: bytes) -> bytes:
    """Return a ``torch.save`` of the tensors in ``content``, some of them of a kind that nobody expects."""
    import torch

    saved: Any = torch.load(io.BytesIO(content), weights_only=True)
    holders = [(saved, key) for key in saved]
    for value in saved.values():
        if isinstance(value, dict):
            holders += [(value, key) for key in value]
            holders += [(deep, key) for deep in value.values() if isinstance(deep, dict) for key in deep]
    holder, key = rng.choice(holders)
    tensor = holder[key] if isinstance(holder[key], torch.Tensor) else torch.ones(4, 3)
    strange = (
        lambda: tensor.to_sparse(),
        lambda: torch.eye(4).to_sparse_csr(),
        lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8),
        lambda: tensor.to(torch.complex64).conj(),
        lambda: tensor.double(),
        lambda: tensor.to(torch.bool),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.to(torch.bfloat16),
        lambda: tensor.reshape(-1),
        lambda: tensor[:0],
        lambda: tensor.reshape(-1)[0],
        lambda: tensor.reshape(1, *tensor.shape).expand(3, *tensor.shape),
        lambda: tensor * float("nan"),
        lambda: torch.nn.Parameter(tensor.float()),
        lambda: torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2)]),
        lambda: rng.choice(VALUES),
        lambda: {"nested": tensor},
        lambda: torch.Size([1, 2]),
        lambda: torch.float16,
        lambda: torch.device("cpu"),
    )
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1:
            holder[rng.choice(("", "\x1b[2J", "\ud800", 5, None, ("a",), "lstm.weight_ih_l1", "extra"))] = (
                holder.pop(key)
            )
        case 2:
            saved = rng.choice(
                ([tensor], tensor, {"state_dict": saved}, {"model": saved, "epoch": 3}, {}, "text", 5)
            )
        case _:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of kinds in beta
                holder[key] = rng.choice(strange)()
    found = io.BytesIO()
    try:
        torch.save(saved, found, _use_new_zipfile_serialization=rng.random() < 0.8)
    except Exception:  # noqa: BLE001  not everything can be saved
        return damage(rng, content)
    return found.getvalue()


def damage_safetensors(rng: Random, content: bytes) -> bytes:
    """Damage the JSON header and keep its length right, or not."""
    size = struct.unpack("<Q", content[:8])[0]
    header = damage_json(rng, content[8 : 8 + size]).encode("utf-8", "surrogateescape")
    stated = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS) & (1 << 64) - 1
    return struct.pack("<Q", stated) + header + content[8 + size :]


def damage_zip(rng: Random, content: bytes) -> bytes:
    """Damage, drop or repeat members of any zip file, with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = rng.choice(sorted(members))
    match rng.randrange(4):
        case 0:
            del members[name]
        case 1:
            members[name] = members[rng.choice(sorted(members))]
        case _:
            members[name] = damage(rng, members[name])
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as file:
        for each, member in members.items():
            file.writestr(each, member)
    return found.getvalue()
