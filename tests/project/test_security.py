"""The promises of SECURITY.md, one test each."""

import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import set_external_data
from safetensors.torch import save_file

from lstm_edge import LSTM1, load
from lstm_edge.checkpoint import with_scales
from lstm_edge.data.read import read_data
from lstm_edge_runtime import LstmEdgeError, State
from lstm_edge_runtime import load as load_model
from lstm_edge_runtime.errors import FileFormatError, UnsupportedError

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "runtime" / "data" / "lstm.onnx"
PROMISES = {
    "Nothing is unpickled": "test_nothing_is_unpickled",
    "`package.module:factory` imports": "test_only_a_named_factory_is_run",
    "A damaged": "test_a_damaged_file_is_one_error",
    "A file never makes": "test_weights_outside_of_a_file_are_refused",
    "An `.onnx` file of lstm-edge": "test_a_changed_file_is_refused_by_its_digest",
    "Commands only write": "test_files_of_others_remain",
    "Nothing connects": "test_telemetry_is_off_before_onnxruntime_is_imported",
    "Texts from a file": "test_texts_of_a_file_are_escaped_on_a_terminal",
}


def test_each_promise_has_a_test():
    text = (ROOT / "SECURITY.md").read_text()
    promises = re.findall(r"^- (.*)$", text, re.MULTILINE)
    for promise, (start, test) in zip(promises, PROMISES.items(), strict=True):
        assert promise.startswith(start)
        assert test in globals()


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"lstm.weight_ih_l0": Evil()}, "a.pt")
    Path("b.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    evil = np.array([Evil()], dtype=object)
    np.savez("c.npz", x=evil, identity=evil, x_mean=evil, allow_pickle=True)
    np.save("d.npy", evil, allow_pickle=True)
    readers = [
        (load, "a.pt"),
        (load, "b.ckpt"),
        (read_data, "c.npz"),
        (read_data, "d.npy"),
        (State.load, "c.npz"),
        (lambda path: with_scales(LSTM1(1, 1, 4, 1, 1), path), "c.npz"),
    ]
    for read, name in readers:
        with pytest.raises(FileFormatError):
            read(Path(name))
    assert not Path("pwned").exists()


def test_only_a_named_factory_is_run(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("numpy_evil", "sitecustomize", "lstm"):
        Path(f"{name}.py").write_text("open('pwned', 'w')\n")
    shutil.copy(MODEL, "m.onnx")
    np.savez("d.npz", x=np.zeros((2, 6, 3), np.float32))
    assert invoke("predict", "m.onnx", "d.npz")[0] == 0
    assert invoke("selftest", "m.onnx")[0] == 0
    assert not Path("pwned").exists()


def damage(content, rng):
    """Return the content with flipped bits, cut, or with bytes of its own repeated."""
    changed = bytearray(content)
    for position in rng.integers(0, len(changed), 4):
        changed[position] ^= 1 << int(rng.integers(8))
    return bytes(changed[: rng.integers(1, len(changed) + 1)])


def test_a_damaged_file_is_one_error(tmp_path):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.array(["a", "b"] * 2))
    rows = "".join(f"{a},{b},walk\n" for a, b in rng.normal(size=(9, 2)))
    (tmp_path / "x.csv").write_text(f"a,b,label\n{rows}")
    pytest.importorskip("pandas").read_csv(tmp_path / "x.csv").to_parquet(
        tmp_path / "x.parquet"
    )
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    (tmp_path / "x.wav").write_bytes(
        b"RIFF\0\0\0\0WAVE" + form + b"data" + struct.pack("<I", 40) + bytes(40)
    )
    torch.manual_seed(0)
    save_file(LSTM1(2, 3, 4, 1, 6).state_dict(), tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [2.0] * 3}))
    load_model(MODEL).stream().state.save(tmp_path / "state.npz")

    def read_optional(path):
        return read_data(path, targets="optional")

    readers = {
        tmp_path / "x.npz": read_optional,
        tmp_path / "x.csv": read_optional,
        tmp_path / "x.parquet": read_optional,
        tmp_path / "x.wav": read_optional,
        tmp_path / "x.safetensors": load,
        tmp_path / "x.json": lambda path: with_scales(LSTM1(1, 3, 4, 1, 1), path),
        tmp_path / "state.npz": State.load,
        MODEL: load_model,
        MODEL.with_suffix(".lep"): load_model,
    }
    for path, read in readers.items():
        content = path.read_bytes()
        read(path)
        target = tmp_path / f"damaged{path.suffix}"
        refused = 0
        for _ in range(40):
            target.write_bytes(damage(content, rng))
            try:
                read(target)
            except LstmEdgeError as error:
                assert "\n" not in str(error)  # noqa: PT017
                refused += 1
        assert refused, path.name


def test_weights_outside_of_a_file_are_refused(tmp_path):
    model = onnx.load(MODEL)
    tensor = model.graph.initializer[0]
    tensor.raw_data = onnx.numpy_helper.to_array(tensor).tobytes()
    set_external_data(tensor, location="../secret")
    tensor.ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((UnsupportedError, FileFormatError)):
        load_model(tmp_path / "m.onnx")


def test_a_changed_file_is_refused_by_its_digest(tmp_path):
    content = bytearray(MODEL.read_bytes())
    position = content.index(b"LSTM")
    content[position : position + 4] = b"LSTN"
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(FileFormatError, match="edited after it was exported"):
        load_model(tmp_path / "m.onnx")


def test_files_of_others_remain(invoke, tmp_path):
    """``test_quiet.py`` traces all system calls of all commands."""
    folder = tmp_path / "home"
    folder.mkdir()
    names = ("metrics.json", "report.html", "thesis.txt")
    for name in names:
        (folder / name).write_text("precious")
    x = np.random.default_rng(0).normal(size=(8, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.array(["a", "b"] * 4))
    code, _, err = invoke("train", tmp_path / "d.npz", "-o", folder, "--overwrite")
    assert (code, "not of a training" in err) == (2, True)
    assert [(folder / name).read_text() for name in names] == ["precious"] * 3
    assert len(list(folder.iterdir())) == 3


def test_telemetry_is_off_before_onnxruntime_is_imported():
    """``test_quiet.py`` traces that no command connects."""
    program = """
import os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
from lstm_edge_runtime import load
load(sys.argv[1])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, MODEL],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "1\n"


def test_texts_of_a_file_are_escaped_on_a_terminal(invoke, tmp_path):
    (tmp_path / "d.csv").write_text("\x1b[2J,label\n1,a\n")
    code, out, err = invoke("predict", MODEL, tmp_path / "d.csv")
    assert code == 2
    assert "\x1b" not in out + err
