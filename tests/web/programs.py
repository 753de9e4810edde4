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
PLAIN = ("lstm", "motions-int8", "gru", "late", "strided", "unbatched")


def _hostile(manifest: dict) -> None:
    image = '<img src=x onerror="window.pwned=1">'
    manifest["task"]["labels"] = [
        f"{image}{label}" for label in manifest["task"]["labels"]
    ]


def _altered(change) -> bytes:
    """Return motions-int8.onnx with another manifest."""
    model = onnx.load(DATA / "motions-int8.onnx")
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
    writer.manifest(
        next(prop.value for prop in model.metadata_props if prop.key == KEY)
    )
    return writer.to_bytes()


def main(folder: Path) -> None:
    """Write every program."""
    for name in PLAIN:
        (folder / f"{name}.lep").write_bytes(to_native(DATA / f"{name}.onnx"))
    (folder / "hostile.lep").write_bytes(to_native(_altered(_hostile)))
    (folder / "wrong.lep").write_bytes(_wrong())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
