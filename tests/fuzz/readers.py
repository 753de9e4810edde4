"""What is fuzzed: for each reader, how an undamaged file is damaged and what then reads it."""

import contextlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
import onnx

from lstm_edge_runtime import LstmEdgeError, Model, State, load
from lstm_edge_runtime.manifest import KEY, Manifest
from lstm_edge_runtime.native.library import installed

DATA = Path(__file__).parents[1] / "runtime" / "data"
_HEADER, _CONSTANT = struct.Struct("<8sIIQ10I"), struct.Struct("<Q4I")
_NAMES = (
    "../../../x", "/tmp/x", "..", "", "\x1b[2J", "a\nb", "a\0b", '" }] x [{ "', "*/ x /*", "é" * 100,
    "x" * 3000, "${HOME}", "%s%n", "</script>", "\u202egnp", "h_0", "-o", "CON",
)  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """A command line for the harness to run, with what comes on standard input."""

    arguments: tuple[str, ...]
    stdin: bytes = b""


Read = Callable[[Random, Path, Path], "Verb | None"]
"""Takes the generator, the corpus and an empty folder; reads a damaged file, or gives a verb to be run."""


def _put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return path


def _pick(rng: Random, folder: Path, ending: str) -> Path:
    return rng.choice(_files(folder, ending))


@cache
def _files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.glob(f"*{ending}"))


# --- models


def _run(path: Path, **options: Any) -> None:
    """Load a file and use it in every way that reads it further."""
    with load(path, device="cpu", threads=1, **options) as model:
        if model.manifest.golden is not None and options.get("engine") != "native":
            model.selftest()
        own = model.manifest
        sizes = [[axis for axis in spec.axes if isinstance(axis, int)] for spec in model.inputs]
        if any(np.prod(shape, dtype=float) > 1e5 for shape in sizes):
            return
        stream = model.stream(reset_every="never")
        calls: tuple[Callable[[], Any], ...] = (
            lambda: model.run(_samples(own, 2, 3), lengths=[3, 2]),
            lambda: model.predict(_samples(own, 2, 3)),
            lambda: stream.step(_samples(own, None, None)),
            lambda: stream.process(_samples(own, None, 31)),
            lambda: stream.restore(stream.state),
            lambda: _use_batch(model),
        )
        for call in calls:  # a refused one does not end them
            with contextlib.suppress(LstmEdgeError):
                call()


def _use_batch(model: Model) -> None:
    batch = model.streams(2, reset_every="never")
    ids = [batch.add(), batch.add()]
    batch.process(_samples(model.manifest, 2, 4, in_front=True), ids, [4, 1])
    batch.step(_samples(model.manifest, 2, None, in_front=True), ids)
    batch.restore(ids[0], batch.state(ids[1]))


def _samples(own: Manifest, rows: int | None, steps: int | None, *, in_front: bool = False) -> Any:
    """Return zeros for each data input; None leaves an axis out, ``in_front`` puts rows first."""
    feeds, sizes = {}, {own.sequence: steps, own.batch: rows}
    for spec in own.data_inputs:
        axes = sorted(spec.axes, key=lambda axis: axis != own.batch) if in_front else spec.axes
        shape = [axis if isinstance(axis, int) else sizes.get(axis, 2) for axis in axes]
        feeds[spec.name] = np.zeros([size for size in shape if size is not None], spec.dtype)
    return feeds if len(feeds) > 1 else next(iter(feeds.values()), {})


def _use_model(rng: Random, corpus: Path, folder: Path, path: Path) -> Verb | None:
    """Read a damaged model in one of the ways that there are."""
    way = rng.randrange(100)
    if way < 55:
        _run(path)
        return None
    name, out = str(path), str(folder / "out")
    verbs: tuple[tuple[int, Verb], ...] = (
        (1300, Verb(("inspect", name, *rng.choice(((), ("--json",)))))),
        (800, Verb(("selftest", name))),
        (800, Verb(("predict", name, str(corpus / rng.choice(("data.npz", "data.csv")))))),
        (800, Verb(("stream", name), (corpus / "lines.txt").read_bytes())),
        (400, Verb(("convert", name, "-o", out + ".lep"))),
        (200, Verb(("convert", name, "--to", "web", "-o", out))),
        (10, Verb(("lift", name, "-o", out + ".onnx"))),
        (3, Verb(("validate", name, "--quick", "--steps", "50"))),
        (3, Verb(("quantize", name, "-o", out + ".onnx", "--precision", rng.choice(("int8", "fp16"))))),
        (3, Verb(("convert", name, "--to", "c", "-o", out))),
    )
    return rng.choices([verb for _, verb in verbs], [weight for weight, _ in verbs])[0]


def onnx_bytes(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    source = _pick(rng, corpus / "onnx", ".onnx")
    return _use_model(rng, corpus, folder, _put(folder, "m.onnx", mutate.damage(rng, source.read_bytes())))


def onnx_structure(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    source = _pick(rng, corpus / "onnx", ".onnx")
    damaged = mutate.damage_protobuf(rng, source.read_bytes())
    return _use_model(rng, corpus, folder, _put(folder, "m.onnx", damaged))


def manifest(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    model = onnx.load(_pick(rng, corpus / "onnx", ".onnx"))
    entry = next(each for each in model.metadata_props if each.key == KEY)
    text = mutate.damage_json(rng, entry.value)
    entry.value = text.encode("utf-8", "replace").decode()
    return _use_model(rng, corpus, folder, _put(folder, "m.onnx", model.SerializeToString()))


def names(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """A name that a path, a terminal or another language would obey, in graph and manifest."""
    model, new = onnx.load(rng.choice((DATA / "lstm.onnx", DATA / "gru.onnx"))), rng.choice(_NAMES)
    values = (*model.graph.input, *model.graph.output)
    old = rng.choice([value.name for value in values])
    for names in [*(node.input for node in model.graph.node), *(node.output for node in model.graph.node)]:
        names[:] = [new if name == old else name for name in names]
    for value in values:
        value.name = new if value.name == old else value.name
    entry = next(each for each in model.metadata_props if each.key == KEY)
    entry.value = entry.value.replace(json.dumps(old), json.dumps(new))
    return _use_model(rng, corpus, folder, _put(folder, "m.onnx", model.SerializeToString()))


def program(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = _pick(rng, corpus / "lep", ".lep").read_bytes()
    damaged = bytearray(mutate.damage(rng, content))
    if rng.random() < 0.8 and len(damaged) > 64:  # a right checksum, so that what lies behind it is read
        damaged[:8] = content[:8]
        damaged[16:24] = rng.choice((struct.pack("<Q", len(damaged)), bytes(damaged[16:24])))
        damaged[12:16] = struct.pack("<I", zlib.crc32(bytes(damaged[16:])))
    return _use_program(rng, _put(folder, "m.lep", bytes(damaged)))


def program_manifest(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """A native program with another manifest, which a constant behind all others holds."""
    content = bytearray(_pick(rng, corpus / "lep", ".lep").read_bytes())
    place = _HEADER.size + _HEADER.unpack_from(content)[10] * _CONSTANT.size
    offset, rows, columns, *_ = _CONSTANT.unpack_from(content, place)
    text = mutate.damage_json(rng, bytes(content[offset : offset + rows * columns])).encode(
        "utf-8", "replace"
    )
    content += bytes(-len(content) % 8)
    _CONSTANT.pack_into(content, place, len(content), 1, len(text), 5, 0)
    content += text
    struct.pack_into("<Q", content, 16, len(content))
    struct.pack_into("<I", content, 12, zlib.crc32(content[16:]))
    return _use_program(rng, _put(folder, "m.lep", bytes(content)))


def _use_program(rng: Random, path: Path) -> Verb | None:
    if rng.random() < 0.7:
        return _run(path)
    return Verb((rng.choice(("inspect", "selftest")), str(path)))


# --- data


def _use_data(rng: Random, corpus: Path, path: Path) -> Verb | None:
    from lstm_edge.data.config import DataConfig
    from lstm_edge.data.read import read_data
    from lstm_edge.training.train import read_split

    way = rng.randrange(200)
    if way < 80:
        read_data(path, targets=rng.choice(("required", "optional", "ignored")))
    elif way < 145:
        options = rng.choice((
            {}, {"window": 3, "stride": 1}, {"label": "label"}, {"targets": ("ax",)}, {"group": "series"},
            {"forecast": ("ax",), "window": 3}, {"missing": "interpolate"}, {"missing": "drop-row"},
            {"folds": 2}, {"order": "order"}, {"features": ("ax", "az")},
        ))  # fmt: skip
        read_split(path, DataConfig(**options), seed=0)
    elif way < 199:
        return Verb(
            ("predict", str(corpus / "onnx" / "lstm.onnx"), str(path), *rng.choice(((), ("--json",))))
        )
    else:
        command = ("train", str(path), "-o", str(path.parent / "run"), "--epochs", "1", "--hidden-size", "2")
        return Verb((*command, "--batch-size", "2"))
    return None


def npz(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.npz").read_bytes()
    damaged = rng.choice((mutate.damage, mutate.damage_npz, mutate.damage_npz))(rng, content)
    return _use_data(rng, corpus, _put(folder, "d.npz", damaged))


def npy(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.npy").read_bytes()
    damaged = rng.choice((mutate.damage(rng, content), mutate.damage_npy(rng, content), mutate.npy(rng)))
    return _use_data(rng, corpus, _put(folder, "d.npy", damaged))


def table(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.csv").read_bytes()
    damaged = rng.choice((mutate.damage, mutate.damage_csv, mutate.damage_csv))(rng, content)
    if rng.random() < 0.1:
        _put(folder, "d/b/two.csv", content)
        _put(folder, rng.choice(("d/a/one.csv", "d/\x1b[2J/one.csv", "d/one.csv")), damaged)
        return _use_data(rng, corpus, folder / "d")
    return _use_data(rng, corpus, _put(folder, "d.csv", damaged))


def parquet(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = mutate.parquet(rng)
    if rng.random() < 0.4:
        content = mutate.damage(rng, content)
    return _use_data(rng, corpus, _put(folder, "d.parquet", content))


def lines(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "lines.txt").read_bytes()
    damaged = rng.choice((mutate.damage, mutate.damage_csv))(rng, content)
    form = rng.choice(((), (), ("--json",), ("--strict",)))
    return Verb(("stream", str(corpus / "onnx" / "lstm.onnx"), *form), damaged)


# --- golden vectors, states, settings


def state(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "state.npz").read_bytes()
    path = _put(
        folder, "s.npz", rng.choice((mutate.damage, mutate.damage_npz, mutate.damage_npz))(rng, content)
    )
    if rng.random() < 0.3:
        return Verb(("stream", str(DATA / "lstm.onnx"), "--state", str(path)), b"1,2,3\n")
    with load(DATA / "lstm.onnx") as model:
        model.stream(reset_every="never").restore(State.load(path))
    return None


# --- runs and checkpoints


def weights(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """A checkpoint without its run."""
    import io

    import torch
    from safetensors.torch import load as read

    from lstm_edge.checkpoint import load as load_run

    content = (corpus / "run" / "model.safetensors").read_bytes()
    if rng.random() < 0.3:
        damaged = rng.choice((mutate.damage, mutate.damage_safetensors))(rng, content)
        path = _put(folder, "w.safetensors", damaged)
    else:
        saved = io.BytesIO()
        torch.save(read(content), saved)
        change = rng.choice((mutate.damage, mutate.checkpoint, mutate.checkpoint, mutate.damage_zip))
        path = _put(folder, rng.choice(("w.pt", "w.pth")), change(rng, saved.getvalue()))
    if rng.random() < 0.002:
        return Verb(("export", str(path), "-o", str(folder / "m.onnx")))
    load_run(path)
    return None


def run_folder(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    from lstm_edge.checkpoint import deployable
    from lstm_edge.checkpoint import load as load_run

    copy = folder / "run"
    shutil.copytree(corpus / "run", copy)
    path = copy / "model.safetensors"
    change = rng.choice((mutate.damage, mutate.damage_safetensors, mutate.damage_safetensors))
    _put(copy, path.name, change(rng, path.read_bytes()))
    if rng.random() < 0.002:
        return Verb(("export", str(copy), "-o", str(folder / "m.onnx")))
    deployable(load_run(copy))
    return None


def resume(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    from lstm_edge.training.train import read_configs

    copy = folder / "run"
    shutil.copytree(corpus / "run", copy)
    path = copy / "resume.safetensors"
    path.write_bytes(rng.choice((mutate.damage, mutate.damage_safetensors))(rng, path.read_bytes()))
    if rng.random() < 0.7:
        read_configs(copy)
        return None
    return Verb(("train", str(corpus / "data.npz"), "-o", str(copy), "--resume", "--epochs", "3"))


def score_output(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """Go on from an output of ``score`` that is damaged."""
    before = folder / "before"
    shutil.copytree(corpus / "scores", before)
    path = before / "_plan.json"
    if rng.random() < 0.2:
        path = rng.choice(sorted((before / "_states").iterdir()))
        path.write_bytes(mutate.damage(rng, path.read_bytes()))
    else:
        _put(before, "_plan.json", mutate.damage_json(rng, path.read_text()))
    days = folder / "days"
    shutil.copytree(corpus / "days", days)
    shutil.copy(corpus / "next.parquet", days / "1.parquet")
    return Verb(
        ("score", str(days), "-m", str(DATA / "lstm.onnx"), "-o", str(folder / "out"), "--workers", "1",
         "--since", str(before), *rng.choice(((), ("--events",))), *rng.choice(((), ("--skip-bad",))))
    )  # fmt: skip


# --- command lines


_OPTIONS = (
    "--threads", "--device", "--json", "--state",
    "--strict", "--golden", "--series", "--order", "--label", "--features", "--group", "--encoding",
    "--missing", "-o", "--output", "--to", "--chunk", "--name", "--help", "--window", "--rate",
    "--units", "--compare", "--html", "--seconds",
)  # fmt: skip
_WORDS = (
    "", "0", "-1", "1", "2147483648", "99999999999999999999", "nan", "inf", "1e999", "auto", "\x1b[2J",
    "a\nb", "x,y", ",", "cpu", "cuda", "native", "float32", "..", "/", "/dev/null", "/dev/full",
    "nothing.onnx", "[", "(", "(a)", "\udce9", "x" * 3000, "--", "é",
)  # fmt: skip


def command_line(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """Verbs with options and names that do not fit."""
    verb = rng.choice(
        ("inspect", "selftest", "predict", "stream", "convert", "report", "train", "export", "lift", "bench",
         "validate", "quantize", "doctor", "inspekt", "")
    )  # fmt: skip
    words = (
        []
        if rng.random() < 0.3
        else [str(rng.choice((DATA / "lstm.onnx", corpus / "data.csv", corpus / "run", "none.onnx")))]
    )
    for _ in range(rng.randrange(1, 4)):
        words.insert(rng.randrange(len(words) + 1), rng.choice(_OPTIONS))
        if rng.random() < 0.7:
            words.append(rng.choice(_WORDS))
    if verb in ("bench", "train", "export", "lift", "validate", "quantize", "doctor"):
        words.append("--unknown")  # what is right of these would take long
    return Verb((verb, *words), b"1,2,3\n")


READERS: dict[str, Read] = {
    "onnx, bytes": onnx_bytes,
    "onnx, structure": onnx_structure,
    "manifest": manifest,
    "names": names,
    "npz": npz,
    "npy": npy,
    "csv": table,
    "parquet": parquet,
    "lines": lines,
    "state": state,
    "checkpoint": weights,
    "run folder": run_folder,
    "resume file": resume,
    "score output": score_output,
    "command line": command_line,
} | ({"program": program, "manifest of a program": program_manifest} if installed() else {})
