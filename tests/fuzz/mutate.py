"""Seeded damage to files: by bytes, and by the structure of protobuf, JSON, zip, tables
and tensors.

Every function takes a ``random.Random`` and gives the damaged content, the same for the
same generator.
"""

import contextlib
import copy
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import onnx

TEXTS = (
    b"", b"\0", b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b]0;title\x07\x1b[2J", b"\xe2\x80\xaegnp.exe",
    b"../../etc/passwd", b"/etc/passwd", b"*/_ORT_MEM_ADDR_/*", b"line\nline\r\n", b"A" * 1500, b"h_0",
    b"N", b"nan", b"1e999", b"%s%n", b"{}", b"\xef\xbb\xbfx", "\u2028\x9b31m".encode(),
)  # fmt: skip
"""Values of names, labels and notes."""
_POWERS = tuple(2**bits + offset for bits in (31, 32, 63, 64) for offset in (-1, 0, 3))
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
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 1] = rng.choice(
                    (b"\0", b"\x7f", b"\x80", b"\xff", b"\x01")
                )
            case 2:
                data[at:at] = rng.choice((rng.randbytes(size), data[at : at + size]))
            case 3:
                del data[at : rng.choice((at + size, len(data)))]
            case 4:
                source = rng.randrange(len(data) + 1)
                data[at : at + size] = data[source : source + size]
            case 5:
                width = rng.choice((4, 8))
                data[at : at + width] = (
                    rng.choice(NUMBERS) & (1 << 8 * width) - 1
                ).to_bytes(width, "little")
            case _:
                text = rng.choice(TEXTS)
                data[at : at + rng.choice((0, len(text)))] = text
    return bytes(data)


def damage_saved(rng: Random, content: bytes) -> bytes:
    """Damage a saved state; most often its checksum is made right again."""
    damaged = damage(rng, content)
    if rng.random() < 0.8 and len(damaged) > 12:
        front = b"LSTMSAVE" + struct.pack("<I", zlib.crc32(damaged[12:]))
        damaged = front + damaged[12:]
    return damaged


# --- protobuf


def damage_protobuf(rng: Random, content: bytes) -> bytes:
    """Drop, repeat, replace or exchange fields of an ONNX message at any depth; lengths
    stay right."""
    message = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, field, value = rng.choice([*_fields(message)])
        if rng.random() < 0.2:
            parent.ClearField(field)
        elif isinstance(value, int | float | str | bytes):
            with contextlib.suppress(
                TypeError, ValueError
            ):  # a value of another kind or range
                setattr(
                    parent,
                    field,
                    rng.choice(
                        (*NUMBERS, 0.5, *TEXTS, damage(rng, bytes(str(value), "utf-8")))
                    ),
                )
        elif hasattr(value, "CopyFrom"):
            value.CopyFrom(
                rng.choice(
                    [item for *_, item in _fields(message) if type(item) is type(value)]
                )
            )
        else:
            items = [*value]
            rng.shuffle(items)
            parent.ClearField(field)
            getattr(parent, field).extend(
                items[rng.randrange(2) :] + items[: rng.choice((0, 0, 1))]
            )
    return message.SerializeToString()


def _fields(message: Any) -> Iterator[tuple[Any, str, Any]]:
    for field, value in message.ListFields():
        yield message, field.name, value
        for inner in value if hasattr(value, "add") else [value]:
            if hasattr(inner, "ListFields"):
                yield from _fields(inner)


# --- JSON


def damage_json_once(rng: Random, text: str | bytes) -> str:
    """Make a single change of a value, and none of the text."""
    return _damage_values(rng, text, 1)


def damage_json(rng: Random, text: str | bytes) -> str:
    """Replace, drop, rename, move or nest values of a JSON document."""
    result = _damage_values(rng, text, rng.choice((1, 1, 1, 2, 3)))
    return (
        damage(rng, result.encode()).decode("utf-8", "surrogateescape")
        if rng.random() < 0.1
        else result
    )


def _damage_values(rng: Random, text: str | bytes, changes: int) -> str:
    document = json.loads(text)
    for _ in range(changes):
        entries = list(_entries(document))
        if not entries:
            break
        parent, key = rng.choice(entries)
        value = parent[key]
        match rng.randrange(7):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(("", "\x1b[2J", "\ud800", "name", "x" * 600))] = (
                    parent.pop(key)
                )
            case 2:
                source, at = rng.choice(entries)
                with contextlib.suppress(LookupError):
                    parent[key] = json.loads(json.dumps(source[at]))
            case 3:
                for _ in range(rng.choice((1, 2, 400))):
                    parent[key] = [parent[key]]
            case 4 if isinstance(value, list):
                parent[key] = value * rng.choice((0, 2, 50))
            case 5 if isinstance(value, str):
                damaged = damage(rng, value.encode("utf-8", "surrogatepass"))
                parent[key] = damaged.decode("utf-8", "replace")
            case _:
                # a copy: a later edit may change it
                parent[key] = copy.deepcopy(rng.choice((*VALUES, str(value))))
    return json.dumps(document)


def _entries(document: Any) -> Any:
    keys = (
        document
        if isinstance(document, dict)
        else range(len(document))
        if isinstance(document, list)
        else ()
    )
    for key in list(keys):
        yield document, key
        yield from _entries(document[key])


# --- zip files of arrays


def damage_npz(rng: Random, content: bytes) -> bytes:
    """Replace, drop, rename or damage members of a zip file; of an ``.npz`` also with
    other arrays."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(members))
        match rng.randrange(5):
            case 0 if len(members) > 1:
                del members[name]
            case 1:
                members[name] = npy(rng)
            case 2:
                members[
                    rng.choice(("x", "y.npy", "../x.npy", "\x1b[2J.npy", "lengths.npy"))
                ] = members.pop(name)
            case 3:
                members[name] = members[rng.choice(sorted(members))]
            case _:
                members[name] = damage(rng, members[name])
    buffer = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(buffer, "w", kind) as file:
        for name, member in members.items():
            file.writestr(name, member)
    return buffer.getvalue()


def npy(rng: Random) -> bytes:
    """Return an ``.npy`` of an unusual array."""
    kinds: tuple[Any, ...] = (
        "b1", "i1", "u8", "i8", "f2", "f4", "f8", "c16", "U3", "S3", "M8[s]", "V5", [("a", "f4")], ">f4",
    )  # fmt: skip
    shape = rng.choice(
        ((), (0,), (3,), (2, 0), (4, 6), (4, 6, 3), (1, 4, 6, 3), (4, 0, 3))
    )
    array = np.zeros(shape, np.dtype(rng.choice(kinds)))
    if array.dtype.kind in "fi" and array.size:
        array.flat[0] = rng.choice(
            (np.nan, np.inf, 6e4) if array.dtype.kind == "f" else (-1, 100)
        )
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


# --- tables


def damage_csv(rng: Random, content: bytes) -> bytes:
    """Change cells, columns, rows, the header or the encoding."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.randrange(len(rows))
        cells = rows[row] or [b""]
        column = rng.randrange(len(cells))
        match rng.randrange(8):
            case 0 | 1:
                strange = b'" inf -nan 1_000 1,5 0x10 12:61 2024-13-45 1e400'
                cells[column] = rng.choice((*TEXTS, *strange.split()))
            case 2:
                del cells[column]
            case 3:
                cells.insert(column, rng.choice(TEXTS))
            case 4:
                rows[0] = rng.choice(([], [b""], cells, [b"x"] * len(cells), [b"\xff"]))
            case 5:
                rows.insert(row, cells * rng.choice((1, 2, 300)))
            case 6:
                for fields in rows[1:]:
                    fields[column : column + 1] = rng.choice(([], [rng.choice(TEXTS)]))
            case 7:
                rows = rng.choice((rows[: rng.randrange(1, 3)], rows[::-1]))
    text = rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(
        rng.choice((b",", b",", b",", b";", b"\t")).join(row) for row in rows
    )
    if rng.random() < 0.1:
        text = rng.choice(
            (
                b"\xef\xbb\xbf" + text,
                text.decode("latin-1").encode("utf-16"),
                b"\0" + text,
            )
        )
    return text


# --- checkpoints


def checkpoint(rng: Random, content: bytes) -> bytes:
    """Return a ``torch.save`` of the tensors in ``content``, some of an unusual
    kind."""
    import torch

    saved: Any = torch.load(io.BytesIO(content), weights_only=True)
    key = rng.choice([*saved])
    tensor = saved[key]
    strange = (
        lambda: tensor.to_sparse(),
        lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8),
        lambda: tensor.to(torch.complex64).conj(),
        lambda: tensor.to(
            rng.choice((torch.bool, torch.float8_e4m3fn, torch.bfloat16, torch.float64))
        ),
        lambda: rng.choice((tensor.reshape(-1), tensor[:0], tensor.reshape(-1)[0])),
        lambda: tensor * float("nan"),
        lambda: torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2)]),
        lambda: rng.choice((*VALUES, torch.Size([1, 2]), torch.float16)),
        lambda: {"nested": tensor},
    )
    match rng.randrange(8):
        case 0:
            del saved[key]
        case 1:
            saved[
                rng.choice(
                    ("", "\x1b[2J", "\ud800", 5, None, ("a",), "lstm.weight_ih_l1")
                )
            ] = tensor
        case 2:
            saved = rng.choice(
                (
                    [tensor],
                    tensor,
                    {"state_dict": saved},
                    {"model": saved, "epoch": 3},
                    {},
                    5,
                )
            )
        case _:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of beta features
                saved[key] = rng.choice(strange)()
    buffer = io.BytesIO()
    try:
        torch.save(saved, buffer, _use_new_zipfile_serialization=rng.random() < 0.8)
    except Exception:  # noqa: BLE001  not everything can be saved
        return damage(rng, content)
    return buffer.getvalue()


def damage_safetensors(rng: Random, content: bytes) -> bytes:
    """Damage the JSON header; its length may become wrong."""
    size = struct.unpack("<Q", content[:8])[0]
    header = damage_json(rng, content[8 : 8 + size]).encode("utf-8", "surrogateescape")
    stated = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS) & (1 << 64) - 1
    return struct.pack("<Q", stated) + header + content[8 + size :]
