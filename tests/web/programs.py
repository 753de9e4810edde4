"""Make the native programs that tests open in Node and in browsers: programs.py
FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx

from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.targets.native.program import ProgramWriter
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed

DATA = Path(__file__).parents[1] / "runtime" / "data"
PLAIN = ("lstm", "motions-int8", "gru", "late", "strided", "unbatched", "tokens")


def _hostile(manifest: dict) -> None:
    image = '<img src=x onerror="window.pwned=1">'
    manifest["task"]["labels"] = [
        f"{image}{label}" for label in manifest["task"]["labels"]
    ]


def _altered(change, name: str = "motions-int8") -> bytes:
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
    model = onnx.load(DATA / "lstm.onnx")
    (text,) = (prop.value for prop in model.metadata_props if prop.key == KEY)
    writer.manifest(json.dumps(json.loads(text) | {"task": None}))
    return writer.to_bytes()


def _wide() -> bytes:
    """Return a program of 1 input and 256 outputs, whose long chunks need gigabytes."""
    writer = ProgramWriter()
    x = writer.input("x", 1)
    y = writer.linear(x, np.ones((256, 1), "float32"))
    writer.output("logits", y, every_step=True)
    writer.golden({"x": np.ones((3, 1))}, {"logits": (np.ones((3, 256)), 0.5)})
    model = onnx.load(DATA / "lstm.onnx")
    (text,) = (prop.value for prop in model.metadata_props if prop.key == KEY)
    writer.manifest(json.dumps(json.loads(text) | {"task": None}))
    return writer.to_bytes()


def main(folder: Path) -> None:
    """Write every program."""
    for name in PLAIN:
        (folder / f"{name}.lep").write_bytes(to_native(DATA / f"{name}.onnx"))
    (folder / "hostile.lep").write_bytes(to_native(_altered(_hostile)))
    (folder / "wrong.lep").write_bytes(_wrong())
    (folder / "wide.lep").write_bytes(_wide())
    reset = _altered(lambda manifest: manifest.update(reset_every=7), "lstm")
    (folder / "reset.lep").write_bytes(to_native(reset))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
