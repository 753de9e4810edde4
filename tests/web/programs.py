"""Make the native programs that tests open in Node and in browsers: programs.py
FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx

from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.targets.native.program import ProgramWriter
from lstm_edge_runtime.manifest import KEY, Manifest, Signal, TensorSpec
from lstm_edge_runtime.ort import sealed

DATA = Path(__file__).parents[1] / "runtime" / "data"
PLAIN = ("lstm", "motions-int8", "gru", "late", "strided", "unbatched", "tokens")


def _hostile(manifest: dict) -> None:
    image = '<img src=x onerror="window.pwned=1">'
    manifest["task"]["labels"] = [
        f"{image}{label}" for label in manifest["task"]["labels"]
    ]


def _window(manifest: dict) -> None:
    manifest["reset_every"] = 5


def _altered(name: str, change) -> bytes:
    """Return a file with another manifest."""
    model = onnx.load(DATA / f"{name}.onnx")
    (entry,) = (prop for prop in model.metadata_props if prop.key == KEY)
    manifest = json.loads(entry.value)
    change(manifest)
    entry.value = json.dumps(manifest)
    return sealed(model.SerializeToString())


def _wrong() -> bytes:
    """Return a program whose golden case fails."""
    writer = ProgramWriter()
    x = writer.input("x", 2)
    writer.output("y", writer.linear(x, np.eye(2, dtype="float32")), every_step=True)
    writer.golden({"x": np.ones((3, 2))}, {"y": (np.full((3, 2), 2.0), 0.5)})
    described = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 2)),),
        outputs=(TensorSpec("y", "float32", ("N", "L", 2)),),
    )
    writer.manifest(described.to_json())
    return writer.to_bytes()


def _sparse(shape: tuple[int, int], *, int8: bool) -> bytes:
    """Return a linear layer of which one block in five is not zero, with its golden
    case."""
    rng = np.random.default_rng(0)
    rows, columns = shape
    mask = np.kron(rng.random((64 // rows, 160 // columns)) < 0.2, np.ones(shape))
    weights = rng.integers(-100, 100, (64, 160)) * mask
    scale = np.float32(0.01)
    writer = ProgramWriter()
    x = writer.input("x", 160)
    if int8:
        y = writer.linear(x, weights, scales=np.full(64, scale))
    else:
        y = writer.linear(x, np.sqrt(np.abs(weights)) * np.sign(weights) * scale)
    assert len(writer.constants) == (4 if int8 else 3)  # one lists the blocks
    writer.output("y", y, every_step=True)
    given = rng.integers(0, 256, (3, 160)).astype("float32")  # exact levels of int8
    given[:, 0] = 255
    exact = weights if int8 else np.sqrt(np.abs(weights)) * np.sign(weights)
    expected = given @ (exact.T * float(scale))
    writer.golden({"x": given}, {"y": (expected, 1e-3)})
    described = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 160)),),
        outputs=(TensorSpec("y", "float32", ("N", "L", 64)),),
    )
    writer.manifest(described.to_json())
    return writer.to_bytes()


def _wide() -> bytes:
    """Return a program with an output of 4,096 values per step."""
    writer = ProgramWriter()
    x = writer.input("x", 1)
    weights = np.ones((4096, 1), "float32")
    writer.output("y", writer.linear(x, weights), every_step=True)
    described = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 1)),),
        outputs=(TensorSpec("y", "float32", ("N", "L", 4096)),),
    )
    writer.manifest(described.to_json())
    return writer.to_bytes()


def _sound(rate: float, full_scale: float, unit: int = 1) -> bytes:
    """Return a program that doubles each sample, in units."""
    writer = ProgramWriter(unit)
    x = writer.input("x", unit)
    twice = np.full((1, 1), 2.0, "float32")
    writer.output("y", writer.linear(x, twice), every_step=True, frames=unit)
    described = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 1)),),
        outputs=(TensorSpec("y", "float32", ("N", "L", 1)),),
        signal=Signal(features=("sample",), sampling_rate=rate, full_scale=full_scale),
        unit=unit,
    )
    writer.manifest(described.to_json())
    return writer.to_bytes()


def main(folder: Path) -> None:
    """Write every program."""
    for name in PLAIN:
        (folder / f"{name}.lep").write_bytes(to_native(DATA / f"{name}.onnx"))
    hostile = _altered("motions-int8", _hostile)
    (folder / "hostile.lep").write_bytes(to_native(hostile))
    for name in ("lstm", "tokens"):
        windowed = to_native(_altered(name, _window))
        (folder / f"{name}-window.lep").write_bytes(windowed)
    (folder / "wrong.lep").write_bytes(_wrong())
    (folder / "sparse.lep").write_bytes(_sparse((16, 1), int8=False))
    (folder / "sparse-int8.lep").write_bytes(_sparse((8, 4), int8=True))
    (folder / "wide.lep").write_bytes(_wide())
    (folder / "sound.lep").write_bytes(_sound(8000.0, 1.0))
    (folder / "sound-in-units.lep").write_bytes(_sound(8000.0, 1.0, 100))
    (folder / "sound-int16.lep").write_bytes(_sound(8000.0, 32768.0))
    (folder / "slow.lep").write_bytes(_sound(10.0, 1.0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
