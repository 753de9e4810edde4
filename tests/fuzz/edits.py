"""One edit at a time: a value of a manifest, a golden array, a name; cheap enough for millions."""

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from inspect import isfunction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx

from lstm_edge_runtime import LstmEdgeError, Model, State, Stream, StreamBatch
from lstm_edge_runtime.json_reader import decode_array, encode_array
from lstm_edge_runtime.manifest import KEY

_GONE = object()
_VALUES: tuple[Any, ...] = (
    _GONE, None, True, False, -1, 0, 1, 2, 3, 8, 2**31, 2**32 + 3, -(2**32) + 3, 2**63, 0.5, -1e308, "", "N",
    "L", "x", "lengths", "h_0", "logits", "2*N", "N+1", "L//2", "L/2", "L/3", "999999999*L", "L/999999999",
    "7*L/2", 6, 1 << 20, 2**31 - 2, "float16", "float64", "bool", "int8", "int32",
    "int64", "uint8", "\x1b[2J", "../../x", [], {}, ["N"], ["N", "L"], ["L", "N"], ["N", "N"], [1, "N", "N"],
    [None], ["rest"], "native", "fp32",
)  # fmt: skip
_DTYPES = ("int8", "uint8", "bool", "int32", "int64", "float16", "float32", "float64")
_NAMES = (
    "../../../x", "/tmp/x", "a/b", "..", ".", "", " ", "\x1b[2J", "a\nb", "a\0b", '"', '" }] x [{ "',
    "*/ x /*",
    "é" * 100, "x" * 3000, "${HOME}", "%s%n", "</script>", "int", "\u202egnp", "h_0", "-o", "CON",
)  # fmt: skip
_HEADER, _CONSTANT = struct.Struct("<8sIIQ10I"), struct.Struct("<Q4I")


def edit_manifest(rng: Random, path: Path, field: str = "") -> bytes:
    """Return a model or native program with one value of its manifest, or one golden array, changed.

    Args:
        rng: draws.
        path: the file.
        field: what to change something of; empty for the whole manifest.
    """
    raw, places, arrays = _parts(path)
    if field:
        places, arrays = ([each for each in some if each[0] == field] for some in (places, arrays))
    if arrays and rng.random() < 0.4:
        place = rng.choice(arrays)
        changed = encode_array(_edit_array(rng, decode_array(_at(raw, place))))
    else:
        place = rng.choice(places)
        changed = _edit_value(rng, _at(raw, place))
    if changed is _GONE:
        return _with_text(path, json.dumps(_put(raw, place, changed)))
    before, after = _around(path, place)
    return _with_text(path, before + json.dumps(changed) + after)


def rename(rng: Random, path: Path) -> bytes:
    """Return a model with a hostile name of an input, output or state, in its graph and its manifest."""
    model, new = onnx.ModelProto(), rng.choice(_NAMES)
    model.CopyFrom(_proto(path))
    old = rng.choice([value.name for value in (*model.graph.input, *model.graph.output)])
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    text = json.dumps(_parts(path)[0])
    return _with_manifest(model, text.replace(json.dumps(old), json.dumps(new)))


def use(rng: Random, model: Model) -> None:
    """Make three calls of those that there are, in any order; a refused one does not end them."""
    sizes = [axis for spec in model.inputs for axis in spec.axes if isinstance(axis, int)]
    if np.prod(sizes, dtype=float) < 1e5:
        user = _User(model, rng)
        for call in rng.choices(_CALLS, k=3):
            with contextlib.suppress(LstmEdgeError):
                call(user)


class _User:
    """A model with a stream and a batch, which the first call that needs one opens."""

    def __init__(self, model: Model, rng: Random) -> None:
        self.model, self.rng = model, rng

    @cached_property
    def stream(self) -> Stream:
        return self.model.stream()

    @cached_property
    def batch(self) -> tuple[StreamBatch, list[int]]:
        batch = self.model.streams(3)
        return batch, [batch.add(), batch.add(), batch.add()]

    def selftest(self) -> None:
        self.model.selftest()

    def run(self) -> None:
        self.model.run(_samples(self.model, 2, 3), lengths=self.rng.choice((None, [3, 2], [1, 4])))

    def predict(self) -> None:
        self.model.predict(_samples(self.model, 2, 3))

    def step(self) -> None:
        self.stream.step(_samples(self.model, None, None))

    def process(self) -> None:
        self.stream.process(_samples(self.model, None, self.rng.choice((1, 4, 31))))

    def restore(self) -> None:
        self.stream.restore(self.stream.state)

    def restore_cut(self) -> None:
        cut = {name: array[..., :1] for name, array in self.stream.state.items()}
        self.stream.restore(State(cut, self.stream.state.identity))

    def reset(self) -> None:
        self.stream.reset()

    def step_batch(self) -> None:
        batch, some = self._some()
        batch.step(_samples(self.model, len(some), None, in_front=True), some)

    def process_batch(self) -> None:
        batch, some = self._some()
        lengths = self.rng.choice((None, [1 + each for each in range(len(some))]))
        batch.process(_samples(self.model, len(some), 4, in_front=True), some, lengths)

    def restore_row(self) -> None:
        batch, ids = self.batch
        batch.restore(ids[0], batch.state(ids[1]))

    def reset_row(self) -> None:
        batch, ids = self.batch
        batch.reset(ids[0])

    def replace_row(self) -> None:
        batch, ids = self.batch
        batch.remove(ids[0])
        ids[0] = batch.add()

    def _some(self) -> tuple[StreamBatch, list[int]]:
        batch, ids = self.batch
        return batch, self.rng.choice((ids[:2], ids, ids[2:0:-1]))


_CALLS = [call for name, call in vars(_User).items() if isfunction(call) and not name.startswith("_")]


def _samples(model: Model, rows: int | None, steps: int | None, *, in_front: bool = False) -> Any:
    """Return zeros for each data input; ``rows`` or ``steps`` of None leave that axis out.

    The batch axis stands where the file has it, or in front, as a batch of streams takes it.
    """
    interface, feeds = model.manifest, {}
    for spec in interface.data_inputs:
        sizes = {interface.sequence: steps, interface.batch: rows}
        axes = sorted(spec.axes, key=lambda axis: axis != interface.batch) if in_front else spec.axes
        shape = [axis if isinstance(axis, int) else sizes.get(axis, 2) for axis in axes]
        feeds[spec.name] = np.zeros([size for size in shape if size is not None], spec.dtype)
    return feeds if len(feeds) > 1 else next(iter(feeds.values()), {})


def _edit_value(rng: Random, value: Any) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.3:
        return rng.choice((value[:-1], value + value[:1], value[::-1], value * 40))
    return rng.choice(_VALUES)


def _edit_array(rng: Random, array: Any) -> Any:
    with np.errstate(all="ignore"):
        match rng.randrange(6):
            case 0:
                return array.astype(rng.choice(_DTYPES))
            case 1:
                number = rng.choice((-1, 0, 1, 7, 10**6, 2**31 - 1, -(2**31), float("inf"), float("nan")))
                return np.full_like(array.astype("f8"), number).astype(array.dtype)
            case 2:
                return (
                    np.concatenate([array, array], rng.randrange(array.ndim)) if array.ndim else array[None]
                )
            case 3:
                return array.take(range(rng.randrange(2)), rng.randrange(array.ndim)) if array.ndim else array
            case 4:
                return rng.choice((array.ravel(), array.ravel()[:1].reshape(()), array.T.copy(), array[None]))
            case _:
                edited = array.copy()
                if edited.size:
                    edited.flat[rng.randrange(edited.size)] = rng.choice((-3, 0, 100))
                return edited


@cache
def _parts(path: Path) -> tuple[Any, Sequence[tuple[Any, ...]], Sequence[tuple[Any, ...]]]:
    """Return a file's manifest as JSON, the places of its values, and those of its golden arrays."""
    raw = json.loads(_text(path))
    places = [place for place in _walk(raw) if place]
    arrays = [place for place in places if "golden" in place and isinstance(_at(raw, place), dict)]
    return raw, places, [place for place in arrays if set(_at(raw, place)) == {"data", "dtype", "shape"}]


@cache
def _around(path: Path, place: tuple[Any, ...]) -> tuple[str, str]:
    """Return a file's manifest before and behind a value."""
    before, after = json.dumps(_put(_parts(path)[0], place, "\0")).split(json.dumps("\0"))
    return before, after


def _walk(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if place[:1] in (("provenance",), ("equivalence",)):
        return
    for key in value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ():
        yield from _walk(value[key], (*place, key))


def _at(raw: Any, place: Sequence[Any]) -> Any:
    for key in place:
        raw = raw[key]
    return raw


def _put(raw: Any, place: Sequence[Any], value: Any) -> Any:
    """Return a copy of ``raw`` with another value at ``place``; what is beside the way there is shared."""
    copied, key = raw.copy(), place[0]
    if len(place) > 1:
        copied[key] = _put(raw[key], place[1:], value)
    elif value is _GONE:
        del copied[key]
    else:
        copied[key] = value
    return copied


@cache
def _proto(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def _text(path: Path) -> str | bytes:
    if path.suffix == ".onnx":
        return next(entry.value for entry in _proto(path).metadata_props if entry.key == KEY)
    content = path.read_bytes()
    offset, rows, columns, *_ = _CONSTANT.unpack_from(content, _place(content))
    return content[offset : offset + rows * columns]


def _place(program: bytes) -> int:
    """Return where a native program's table says what its manifest is."""
    return _HEADER.size + _HEADER.unpack_from(program)[10] * _CONSTANT.size


def _with_text(path: Path, text: str) -> bytes:
    if path.suffix == ".onnx":
        model = onnx.ModelProto()
        model.CopyFrom(_proto(path))
        return _with_manifest(model, text)
    content = bytearray(_content(path))
    _CONSTANT.pack_into(content, _place(content), len(content), 1, len(text), 5, 0)
    content += text.encode()
    struct.pack_into("<Q", content, 16, len(content))
    struct.pack_into("<I", content, 12, zlib.crc32(content[16:]))
    return bytes(content)


def _with_manifest(model: onnx.ModelProto, text: str) -> bytes:
    next(entry for entry in model.metadata_props if entry.key == KEY).value = text
    return model.SerializeToString()


@cache
def _content(path: Path) -> bytes:
    """Return a native program, filled up so that a manifest may stand behind it."""
    content = path.read_bytes()
    return content + bytes(-len(content) % 8)
