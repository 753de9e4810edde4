"""``lstm-edge export``: runs and factories become files with the names and axes of the
command line."""

import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from lstm_edge.checkpoint import Run, save
from lstm_edge.lstm1 import LSTM1
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import AxisRange

NETS = """
import random
import time
import numpy as np
import torch
from torch import nn

class Ahead(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.rnn = nn.Conv1d(3, 4, 3, padding=1), nn.GRU(4, 5, batch_first=True)
        self.register_buffer("mean", torch.ones(3))

    def forward(self, x):
        y = self.conv(((x - self.mean) / (self.mean + 1)).transpose(1, 2))
        return self.rnn(y.transpose(1, 2))[0]

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.rnn = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(6, 4)
    def forward(self, tokens, lengths=None):
        return self.head(self.rnn(self.words(tokens))[0])

class Slow(Tagger):
    def forward(self, tokens):
        open("started", "w").close()
        time.sleep(60)

class Talks(Tagger):
    def forward(self, tokens):
        print("tokens", tokens.shape)
        return super().forward(tokens)

class Packs(Tagger):
    def forward(self, tokens, token_lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.words(tokens), token_lengths, batch_first=True)
        return self.head(self.rnn(packed)[1][-1])

class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 6, batch_first=True)
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])

def narrow():
    return nn.LSTM(5, 6, batch_first=True).bfloat16()

class OneOfFloat64(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.rnn = nn.LSTM(5, 6, batch_first=True)
    def forward(self, input):
        return self.rnn(input)[0] * self.gain.float()

class Drawn(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Parameter(torch.tensor(rows, dtype=torch.float32))
    def forward(self, x):
        return self.rnn(x)[0] @ self.head

def of_numpy():
    return Drawn(np.random.normal(size=(4, 2)))

def of_random():
    return Drawn([[random.gauss(0, 1)] for _ in range(4)])

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4 + 6, 6)
    def forward(self, x, h):
        h = torch.tanh(self.hidden(torch.cat([x, h], 1)))
        return torch.relu(h), h
"""
TOKENS = ("--input", "tokens=N,L:int64", "-o", "t.onnx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "export_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "export_nets", raising=False)
    return tmp_path


@pytest.mark.system
def test_a_run_becomes_a_file_with_tables_and_the_next_commands(folder, invoke):
    torch.manual_seed(0)
    save(Run(LSTM1(4, 6, 8, 1, 20)), folder / "run")
    code, out, err = invoke(
        "export", "run", "-o", "har.onnx", "-o", "har.lep", "--lengths"
    )
    assert code == 0
    for words in (
        "h_0",
        "N, L, 6",
        "LSTM 1",
        "equal to PyTorch: at 7 sizes in float64 to",
        "lstm-edge inspect har.onnx",
    ):
        assert words in out
    assert load(folder / "har.lep").selftest().ok
    manifest = load(folder / "har.onnx").manifest
    assert (manifest.lengths, len(manifest.provenance["checkpoint_sha256"])) == (
        "lengths",
        64,
    )
    lines = err.splitlines()
    assert (lines[0], lines[-1]) == ("tracing the module", "recording golden cases")
    assert 4 < len(lines) <= 20


def test_a_factory_with_weights_becomes_a_file_and_json(folder, invoke):
    import export_nets

    torch.manual_seed(0)
    module = export_nets.Tagger().eval()
    save_file(module.state_dict(), folder / "w.safetensors")
    code, out, err = invoke(
        "export", "export_nets:Tagger", "--weights", "w.safetensors", *TOKENS, "--json"
    )
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["inputs"] == [
        {"name": "tokens", "dtype": "int64", "axes": ["N", "L"]}
    ]
    assert [state["input"] for state in document["states"]] == ["h_0"]
    assert document["files"] == {"t.onnx": (folder / "t.onnx").stat().st_size}
    tokens = torch.randint(0, 40, (2, 9))
    got, _ = load(folder / "t.onnx").run(tokens.numpy())
    assert torch.allclose(torch.from_numpy(got["output"]), module(tokens), atol=1e-5)


@pytest.mark.parametrize("factory", ["of_numpy", "of_random"])
def test_a_factory_that_draws_its_weights_gives_the_same_in_every_call(
    folder, invoke, factory
):
    source = f"export_nets:{factory}"
    assert invoke("export", source, "--input", "x=N,L,3", "-o", "d.onnx")[0] == 0
    assert invoke("validate", "d.onnx", "--against", source, "--quick")[0] == 0


def test_an_ambiguous_state_is_named(folder, invoke):
    options = (
        "export",
        "export_nets:Gate",
        "--input",
        "x=N,4",
        "--input",
        "h=N,6",
        "-o",
        "m.onnx",
    )
    assert invoke(*options, "--state", "h=output_1")[0] == 0
    (state,) = load(folder / "m.onnx").manifest.states
    assert (state.input, state.output) == ("h", "output_1")
    code, _, err = invoke(*options, "--state", "h=y")
    assert (code, "the outputs output, output_1" in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        (["--labels", "rest,walk"], ("classification", "output", ("rest", "walk"), ())),
        (
            ["--units", "m,s", "--labels", "far,long"],
            ("regression", "output", ("far", "long"), ("m", "s")),
        ),
    ],
)
def test_a_factorys_file_says_what_the_command_line_says_of_it(
    folder, invoke, options, task
):
    signal = ("--features", "ax, ay,az", "--rate", "50Hz", "--window", "20")
    words = (
        "export",
        "export_nets:Counter",
        "--input",
        "x=N,L,3",
        "-o",
        "t.onnx",
        *signal,
        *options,
    )
    assert invoke(*words)[0] == 0
    manifest = load(folder / "t.onnx").manifest
    assert manifest.task == task
    assert manifest.signal[:3] == (("ax", "ay", "az"), 50.0, 20)


@pytest.mark.system
def test_a_killed_export_leaves_no_file_and_keeps_the_old_one(folder):
    (folder / "old.onnx").write_bytes(b"old")
    command = [
        sys.executable,
        "-c",
        "from lstm_edge.cli import main; main()",
        "export",
        "export_nets:Slow",
    ]
    process = subprocess.Popen([*command, *TOKENS[:3], "old.onnx"], cwd=folder)
    while not (folder / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list(folder.glob(".*"))
    assert (folder / "old.onnx").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("source", "inputs", "lengths"),
    [
        ("Talks", ["tokens=N,L:int64"], None),  # its output does not get into the JSON
        ("narrow", ["input=N,L,5"], None),  # bfloat16
        ("OneOfFloat64", ["input=N,L,5"], None),
        (
            "Packs",
            ["token_lengths=N:int64", "tokens=N,L:int64"],
            "token_lengths",
        ),  # in falling order
        ("Counter", ["x=N,L:80,3"], None),
    ],
)
def test_examples_fit_the_module(folder, invoke, source, inputs, lengths):
    options = [word for text in inputs for word in ("--input", text)]
    code, out, err = invoke(
        "export", f"export_nets:{source}", *options, "-o", "t.onnx", "--json"
    )
    assert code == 0, err
    assert [*json.loads(out)["files"]] == ["t.onnx"]
    assert load(folder / "t.onnx").manifest.lengths == lengths


@pytest.mark.parametrize(
    ("limits", "text", "sizes"),
    [
        (AxisRange(16), "16..", {1: 16, 16: 16, 999: 999}),
        (AxisRange(16, 4096, 4), "16..4096:4", {1: 16, 17: 20, 18: 20, 5000: 4096}),
        (AxisRange(3, 10, 4), "3..10:4", {1: 4, 9: 8, 8: 8}),
        (AxisRange(1, 200), "1..200", {1: 1, 201: 200}),
    ],
)
def test_a_range_gives_its_text_and_the_nearest_size(limits, text, sizes):
    assert str(limits) == text
    assert {size: limits.nearest(size) for size in sizes} == sizes


def test_a_stream_is_written_in_both_forms_and_validates(folder, invoke):
    source = ("export_nets:Ahead", "--input", "x=N,L,3")
    code, out, _ = invoke(
        "export", *source, "--stream", "-o", "s.onnx", "-o", "s.lep", "--json"
    )
    assert (code, json.loads(out)["streams"]) == (
        0,
        "one frame per step, 1 frame delay",
    )
    assert load(folder / "s.lep").selftest().ok
    assert (
        invoke("validate", "s.onnx", "--against", "export_nets:Ahead", "--quick")[0]
        == 0
    )
