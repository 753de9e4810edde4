"""The fuzzed readers: how each one's file is damaged and read."""

import contextlib
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
import onnx
from edited_programs import edit_lep

from lstm_edge_runtime import LstmEdgeError, Model, State, load
from lstm_edge_runtime.manifest import KEY, Manifest
from lstm_edge_runtime.native import installed
from lstm_edge_runtime.ort import sealed

DATA = Path(__file__).parents[1] / "runtime" / "data"


@dataclass(frozen=True)
class Verb:
    """A command line for the harness to run, and its standard input."""

    arguments: tuple[str, ...]
    stdin: bytes = b""


Read = Callable[[Random, Path, Path], "Verb | None"]
"""Takes the generator, the corpus and an empty folder; reads a damaged file, or gives a
verb to be run."""


def _put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        content
        if isinstance(content, bytes)
        else content.encode("utf-8", "surrogateescape")
    )
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
        manifest = model.manifest
        sizes = [
            [axis for axis in spec.axes if isinstance(axis, int)]
            for spec in model.inputs
        ]
        if any(np.prod(shape, dtype=float) > 1e5 for shape in sizes):
            return
        stream = model.stream(reset_every="never")
        calls: tuple[Callable[[], Any], ...] = (
            lambda: model.run(_samples(manifest, 2, 3), lengths=[3, 2]),
            lambda: model.predict(_samples(manifest, 2, 3)),
            lambda: stream.step(_samples(manifest, None, None)),
            lambda: stream.process(_samples(manifest, None, 31)),
            lambda: stream.restore(stream.state),
            lambda: _use_batch(model),
        )
        for call in calls:  # go on after a refused call
            with contextlib.suppress(LstmEdgeError):
                call()


def _use_batch(model: Model) -> None:
    batch = model.streams(2, reset_every="never")
    ids = [batch.add(), batch.add()]
    batch.process(_samples(model.manifest, 2, 4, in_front=True), ids)
    batch.step(_samples(model.manifest, 2, None, in_front=True), ids)
    batch.restore(ids[0], batch.state(ids[1]))


def _samples(
    manifest: Manifest, rows: int | None, steps: int | None, *, in_front: bool = False
) -> Any:
    """Return zeros for each data input; None leaves an axis out, ``in_front`` puts rows
    first."""
    feeds = {}
    sizes = {manifest.sequence: steps, manifest.batch: rows}
    for spec in manifest.data_inputs:
        axes = (
            sorted(spec.axes, key=lambda axis: axis != manifest.batch)
            if in_front
            else spec.axes
        )
        shape = [axis if isinstance(axis, int) else sizes.get(axis, 2) for axis in axes]
        feeds[spec.name] = np.zeros(
            [size for size in shape if size is not None], spec.dtype
        )
    return feeds if len(feeds) > 1 else next(iter(feeds.values()), {})


def _use_model(rng: Random, corpus: Path, folder: Path, path: Path) -> Verb | None:
    """Read a damaged model in one of several ways."""
    way = rng.randrange(100)
    if way < 55:
        _run(path)
        return None
    name = str(path)
    out = str(folder / "out")
    verbs: tuple[tuple[int, Verb], ...] = (
        (1300, Verb(("inspect", name, *rng.choice(((), ("--json",)))))),
        (800, Verb(("selftest", name))),
        (
            800,
            Verb(("predict", name, str(corpus / rng.choice(("data.npz", "data.csv"))))),
        ),
        (800, Verb(("stream", name), (corpus / "lines.txt").read_bytes())),
        (400, Verb(("convert", name, "-o", out + ".lep"))),
        (200, Verb(("convert", name, "--to", "web", "-o", out))),
        (10, Verb(("lift", name, "-o", out + ".onnx"))),
        (3, Verb(("validate", name, "--quick"))),
        (
            3,
            Verb(
                (
                    "quantize",
                    name,
                    "-o",
                    out + ".onnx",
                    "--precision",
                    rng.choice(("int8", "fp16")),
                )
            ),
        ),
        (3, Verb(("convert", name, "--to", "c", "-o", out))),
    )
    return rng.choices([verb for _, verb in verbs], [weight for weight, _ in verbs])[0]


def onnx_bytes(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    source = _pick(rng, corpus / "onnx", ".onnx")
    return _use_model(
        rng,
        corpus,
        folder,
        _put(folder, "m.onnx", mutate.damage(rng, source.read_bytes())),
    )


def onnx_structure(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    source = _pick(rng, corpus / "onnx", ".onnx")
    damaged = mutate.damage_protobuf(rng, source.read_bytes())
    return _use_model(rng, corpus, folder, _put(folder, "m.onnx", damaged))


def manifest_edit(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """One edit of a manifest, in a file that is whole otherwise."""
    if installed() and rng.random() < 0.5:
        return manifest_of_program(rng, corpus, folder)
    model = onnx.load(_pick(rng, corpus / "onnx", ".onnx"))
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    with contextlib.suppress(UnicodeEncodeError):  # surrogates fit in no protobuf
        entry.value = mutate.damage_json_once(rng, entry.value)
    damaged = sealed(model.SerializeToString())
    return _use_model(rng, corpus, folder, _put(folder, "m.onnx", damaged))


def manifest_of_program(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """One edit of a manifest in a program."""
    content = _pick(rng, corpus / "lep", ".lep").read_bytes()
    edit = partial(mutate.damage_json_once, rng)
    return _use_program(rng, _put(folder, "m.lep", edit_lep(content, edit)))


def foreign(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """A file without a manifest, to be lifted."""
    from lstm_edge_exporters.lift import lift

    content = _pick(rng, corpus / "foreign", ".onnx").read_bytes()
    change = rng.choice((mutate.damage, mutate.damage_protobuf, mutate.damage_protobuf))
    lift(_put(folder, "m.onnx", change(rng, content)))
    return None


def program(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = _pick(rng, corpus / "lep", ".lep").read_bytes()
    damaged = bytearray(mutate.damage(rng, content))
    if (
        rng.random() < 0.8 and len(damaged) > 64
    ):  # a right checksum, so that the rest is read
        damaged[:8] = content[:8]
        damaged[16:24] = rng.choice(
            (struct.pack("<Q", len(damaged)), bytes(damaged[16:24]))
        )
        damaged[12:16] = struct.pack("<I", zlib.crc32(bytes(damaged[16:])))
    return _use_program(rng, _put(folder, "m.lep", bytes(damaged)))


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
            {"forecast": ("ax",), "window": 3}, {"missing": "interpolate"},
            {"folds": 2}, {"order": "order"}, {"features": ("ax", "az")},
        ))  # fmt: skip
        read_split(path, DataConfig(**options), seed=0)
    else:
        form = rng.choice(((), ("--json",)))
        return Verb(("predict", str(corpus / "onnx" / "lstm.onnx"), str(path), *form))
    return None


def npz(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.npz").read_bytes()
    damaged = rng.choice((mutate.damage, mutate.damage_npz, mutate.damage_npz))(
        rng, content
    )
    return _use_data(rng, corpus, _put(folder, "d.npz", damaged))


def table(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.csv").read_bytes()
    damaged = rng.choice((mutate.damage, mutate.damage_csv, mutate.damage_csv))(
        rng, content
    )
    if rng.random() < 0.1:
        _put(folder, "d/b/two.csv", content)
        _put(
            folder,
            rng.choice(("d/a/one.csv", "d/\x1b[2J/one.csv", "d/one.csv")),
            damaged,
        )
        return _use_data(rng, corpus, folder / "d")
    return _use_data(rng, corpus, _put(folder, "d.csv", damaged))


def parquet(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.parquet").read_bytes()
    path = _put(folder, "d.parquet", mutate.damage(rng, content))
    return _use_data(rng, corpus, path)


def wav(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "data.wav").read_bytes()
    path = _put(folder, "d.wav", mutate.damage(rng, content))
    return _use_data(rng, corpus, path)


def scored(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """The description, the states or the results of an earlier run of score."""
    copy = shutil.copytree(corpus / "scored", folder / "scored")
    path = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    content = path.read_bytes()
    is_json = path.suffix == ".json"
    damaged = (
        mutate.damage_json(rng, content).encode("utf-8", "surrogateescape")
        if is_json and rng.random() < 0.7
        else mutate.damage(rng, content)
    )
    path.write_bytes(damaged)
    model = "--model", str(corpus / "onnx" / "lstm.onnx")
    return Verb(("score", str(corpus / "nights"), *model, "-o", str(copy)))


def lines(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "lines.txt").read_bytes()
    damaged = rng.choice((mutate.damage, mutate.damage_csv))(rng, content)
    form = rng.choice(((), (), ("--json",), ("--window", "3")))
    return Verb(("stream", str(corpus / "onnx" / "lstm.onnx"), *form), damaged)


# --- golden vectors, states, settings


def state(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    content = (corpus / "state.bin").read_bytes()
    path = _put(
        folder,
        "s.state",
        mutate.damage_saved(rng, content),
    )
    if rng.random() < 0.3:
        return Verb(
            ("stream", str(DATA / "lstm.onnx"), "--state", str(path)), b"1,2,3\n"
        )
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
        change = rng.choice(
            (mutate.damage, mutate.checkpoint, mutate.checkpoint, mutate.damage_npz)
        )
        path = _put(
            folder, rng.choice(("w.pt", "w.pth")), change(rng, saved.getvalue())
        )
    load_run(path)
    return None


def scale(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """The scales of a training."""
    from lstm_edge import LSTM1
    from lstm_edge.checkpoint import with_scales

    source = corpus / rng.choice(("scale.json", "scale.npz"))
    content = source.read_bytes()
    if source.suffix == ".npz":
        change = rng.choice((mutate.damage, mutate.damage_npz, mutate.damage_npz))
    else:
        change = rng.choice((mutate.damage, mutate.damage_json, mutate.damage_json))
    path = _put(folder, source.name, change(rng, content))
    with_scales(LSTM1(2, 3, 4, 1, 6), path)
    return None


def run_folder(rng: Random, corpus: Path, folder: Path) -> Verb | None:
    """A run whose weights, or whose state to resume from, are damaged."""
    from lstm_edge.checkpoint import deployable
    from lstm_edge.checkpoint import load as load_run
    from lstm_edge.training.training import read_state

    copy = shutil.copytree(corpus / "run", folder / "run")
    path = copy / rng.choice(("model.safetensors", "resume.safetensors"))
    change = rng.choice(
        (mutate.damage, mutate.damage_safetensors, mutate.damage_safetensors)
    )
    path.write_bytes(change(rng, path.read_bytes()))
    if rng.random() < 0.1:
        return Verb(
            (
                "train",
                str(corpus / "data.npz"),
                "-o",
                str(copy),
                "--resume",
                "--epochs",
                "3",
            )
        )
    read_state(copy)
    deployable(load_run(copy))
    return None


READERS: dict[str, Read] = {
    "onnx, bytes": onnx_bytes,
    "onnx, structure": onnx_structure,
    "manifest": manifest_edit,
    "foreign": foreign,
    "parquet": parquet,
    "wav": wav,
    "scored": scored,
    "scale": scale,
    "npz": npz,
    "csv": table,
    "lines": lines,
    "state": state,
    "checkpoint": weights,
    "run folder": run_folder,
} | ({"program": program} if installed() else {})
LEP_READERS = program, manifest_of_program
"""Readers whose files reach the C library."""
