"""What people type first, and the answer that helps: one table."""

import json
import struct

import numpy as np
import pytest
import torch

from lstm_edge import LSTM1, Run, save

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, series):
        return self.rnn(series)[0]

class Fixed(Net):
    def forward(self, x):
        h = torch.zeros(1, 7, 4)
        return self.rnn(x, (h, h))[0]

def build():
    return Net()

def fixed():
    return Fixed()

def trains():
    raise RuntimeError("oops")
"""


@pytest.fixture
def folder(tmp_path, har, monkeypatch):
    torch.manual_seed(0)
    save(Run(LSTM1(3, 3, 4, 1, 5)), tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{}")
    torch.save(LSTM1(3, 3, 4, 1, 5).state_dict(), tmp_path / "lstm1.pth")
    torch.save({"gru.weight_ih_l0": torch.zeros(12, 5)}, tmp_path / "gru.pth")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "mynet.py").write_text(MODULE)
    (tmp_path / "script.py").write_text("raise RuntimeError('trains here')\n")
    (tmp_path / "har.onnx").write_bytes(har.path.read_bytes())
    (tmp_path / "latin.csv").write_bytes("ax,ay,az,label\n1,2,3,\u00e9\n".encode("latin-1"))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train latin.csv -o r", "name its encoding, such as --encoding latin-1"),
        ("export gru.pth -o m.onnx", "mynet:build --weights gru.pth --input x=N,L,5 -o gru.onnx"),
        ("export lfs.pth -o m.onnx", "a git-lfs pointer, not the file itself; run: git lfs pull"),
        ("export mynet:Build --input x=N,L,3 -o m.onnx", "mynet has no 'Build'; did you mean 'build'?"),
        ("export mynet:build --input x=N,L,3 -o m.onnx", "takes series, not x; use --input series=N,L,3"),
        ("export mynet:build --input series=N,L -o m.onnx", "takes 3 features: --input series=N,L,3"),
        ("export mynet:fixed --input x=N,L,3 -o m.onnx", "mynet.py:16: return self.rnn(x, (h, h))[0]"),
        ("export script:LSTM1 --input x=N,L,3 -o m.onnx", "that trains only under if __name__ == '__main__'"),
        ("validate har.onnx --against run/metrics.json", "the run is the folder: run"),
        ("selftest lstm1.pth", "a PyTorch checkpoint, expected an .onnx file; run lstm-edge export"),
        ("convert lstm1.pth --to c -o m_c", "run lstm-edge export lstm1.pth -o lstm1.onnx"),
        ("stream har.onnx --state junk.npz", "junk.npz is not a saved state"),
        ("stream har.onnx --features ax", "--features names 1 columns, the model takes 3"),
    ],
)  # fmt: skip
def test_the_answer_says_what_to_do(folder, invoke, words, message):
    code, _, err = invoke(*words.split())
    assert code == 2
    assert message in err
    assert err.rstrip("\n").count("\n") == 0


def test_a_csv_with_more_columns_is_summarized_and_its_columns_can_be_chosen(folder, stream):
    rows = "time,a,b,c,d\n" + "1,2,3,4,5\n" * 100
    code, _, err = stream(rows, "har.onnx")
    assert (code, err.count("\n")) == (1, 7)
    assert "choose columns, such as --features b,c,d" in err
    assert "\n96 more of 101 lines were skipped\n" in err
    code, out, err = stream(rows, "har.onnx", "--features", "b,c,d")
    assert (code, out.count("\n"), err) == (0, 101, "")
    assert stream(rows.replace("b,c,d", "ax,ay,az"), "har.onnx")[1] == out


def test_wav_is_read_by_predict(make, tmp_path, invoke):
    made = make("one", features=1, feature_names=(), golden=False)
    kind = struct.pack("<HHIIHH", 1, 1, 50, 100, 2, 16)
    body = struct.pack("<6h", *range(6))
    chunks = b"fmt " + struct.pack("<I", 16) + kind + b"data" + struct.pack("<I", len(body)) + body
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    np.save(tmp_path / "x.npy", np.arange(6.0)[None, :, None])
    out = [invoke("predict", made.path, tmp_path / name, "--json") for name in ("x.wav", "x.npy")]
    assert out[0][0] == out[1][0] == 0
    assert json.loads(out[0][1])["probabilities"] == json.loads(out[1][1])["probabilities"]


def test_a_file_without_a_reference_says_that_it_was_only_replayed(folder, invoke):
    code, _, err = invoke("validate", "har.onnx")
    assert code == 0
    assert "golden cases replayed; not compared with a network" in err


def test_prose_wraps_at_spaces_on_a_terminal(monkeypatch, capsys):
    from lstm_edge.cli._output import echo_prose

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    echo_prose("error: " + "twelve-words " * 8)
    shown = capsys.readouterr().err.splitlines()
    assert max(map(len, shown)) <= 30
    assert {word for line in shown for word in line.split()} == {"error:", "twelve-words"}


def test_infinite_logits_are_null_in_json():
    from lstm_edge.cli._results import ResultLines
    from lstm_edge_runtime.manifest import Task

    lines = ResultLines(Task("classification", "logits", ("a", "b")), as_json=True)
    document = json.loads(
        lines.line(np.array([np.inf, np.inf])), parse_constant=lambda name: pytest.fail(name)
    )
    assert document["probabilities"] == {"a": None, "b": None}
