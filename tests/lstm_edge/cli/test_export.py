"""``lstm-edge export``, through real processes where that matters."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lstm_edge.checkpoint import Run, save
from lstm_edge.cli import main
from lstm_edge.lstm1 import LSTM1
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import install_command

NETS = """
import os, time
import torch
from torch import nn

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.rnn = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(6, 4)
    def forward(self, tokens, lengths=None):
        output, last = self.rnn(self.words(tokens))
        return self.head(output)

class Slow(Tagger):
    def forward(self, tokens):
        open("started", "w").close()
        time.sleep(60)

def build():
    return Tagger()

def broken():
    raise KeyError("weights")

def two_lines():
    raise RuntimeError("one line\\nand another")

def leaves():
    raise SystemExit(5)

class Talks(Tagger):
    def forward(self, tokens):
        print("tokens", tokens.shape)
        return super().forward(tokens)

class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 6, batch_first=True)
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])

def narrow():
    return nn.LSTM(5, 6, batch_first=True).bfloat16()

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 16)
        self.rnn = nn.GRU(4, 6, batch_first=True)
    def forward(self, x):
        return self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 6)
    def forward(self, x, h):
        for step in range(x.size(1)):
            h = self.cell(x[:, step], h)
        return h * 2, h

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4 + 6, 6)
    def forward(self, x, h):
        h = torch.tanh(self.hidden(torch.cat([x, h], 1)))
        return torch.relu(h), h

number = 3
"""


def run(folder, *words, **options):
    command = [sys.executable, "-c", "from lstm_edge.cli import main; main()", "export", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **options)


def unexpected(stderr):
    """The lines of standard error that do not say how far it is."""
    told = ("tracing the module", "verifying ", "feeding chunks", "recording golden cases")
    return [line for line in stderr.splitlines() if not line.startswith(told)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """What ``run`` does, in this process, which has imported torch already."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "nets", raising=False)

    def called(*words):
        monkeypatch.delitem(sys.modules, "nets", raising=False)
        monkeypatch.setattr(sys, "argv", ["lstm-edge", "export", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(words, ended.value.code or 0, *capsys.readouterr())

    return called


@pytest.mark.system
def test_a_run_becomes_a_file_with_a_table_and_the_next_commands(folder):
    torch.manual_seed(0)
    save(Run(LSTM1(4, 6, 8, 1, 20)), folder / "run")
    done = run(folder, "run", "-o", "har.onnx", "--lengths")
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    for words in (
        "h_0",
        "N, L, 6",
        "lengths",
        "LSTM 1",
        "equal to PyTorch: in float64 to",
        "lstm-edge inspect har.onnx",
    ):
        assert words in done.stdout
    model = load(folder / "har.onnx")
    assert model.manifest.lengths == "lengths"
    lines = done.stderr.splitlines()
    assert (lines[0], lines[-1]) == ("tracing the module", "recording golden cases")
    assert 4 < len(lines) <= 20
    assert len(model.manifest.provenance["checkpoint_sha256"]) == 64


def test_a_factory_with_weights_becomes_a_file_and_json(folder, call):
    import nets

    torch.manual_seed(0)
    module = nets.Tagger().eval()
    save_file(module.state_dict(), folder / "tagger.safetensors")
    words = [
        "nets:build",
        "--weights",
        "tagger.safetensors",
        "--input",
        "tokens=N,L:int64",
        "-o",
        "t.onnx",
        "--json",
    ]
    done = call(*words)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["inputs"] == [{"name": "tokens", "dtype": "int64", "axes": ["N", "L"]}]
    assert [state["input"] for state in document["states"]] == ["h_0"]
    assert document["nodes"]["GRU"] == 1
    assert document["files"] == {"t.onnx": (folder / "t.onnx").stat().st_size}
    tokens = torch.randint(0, 40, (2, 9))
    got, _ = load(folder / "t.onnx").run(tokens.numpy())
    assert torch.allclose(torch.from_numpy(got["output"]), module(tokens), atol=1e-5)


@pytest.mark.system
def test_a_range_is_found_or_given_and_one_step_is_the_way_out_of_a_loop(folder, call):
    output = ("-o", "m.onnx")
    done = call("nets:Wide", "--input", "x=N,L,4", *output)
    assert (done.returncode, "ranges L: least 16" in done.stdout) == (0, True)
    done = call("nets:Wide", "--input", "x=N,L:20..400:20,4", "--json", *output)
    ranges = {"L": {"least": 20, "most": 400, "multiple": 20}}
    assert (done.returncode, json.loads(done.stdout)["ranges"]) == (0, ranges)
    options = ("--input", "x=N,L,4", "--input", "h=N,6")
    done = call("nets:Steps", *options, *output)
    assert done.returncode == 2
    assert "export one step a call: --step" in done.stderr
    assert call("nets:Steps", *options, "--step", *output).returncode == 0
    assert load(folder / "m.onnx").stream().step([0.1, 0.2, 0.3, 0.4]).shape == (6,)


def test_a_state_that_nothing_tells_is_named(folder, call):
    options = ("nets:Gate", "--input", "x=N,4", "--input", "h=N,6", "-o", "m.onnx")
    done = call(*options, "--state", "h=output_1")
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    (state,) = load(folder / "m.onnx").manifest.states
    assert (state.input, state.output) == ("h", "output_1")
    done = call(*options, "--state", "h=y")
    assert done.returncode == 2
    assert "the outputs output, output_1" in done.stderr


COUNTER = ("nets:Counter", "--input", "x=N,L,3", "-o", "t.onnx")


def test_a_factorys_file_says_what_the_command_line_says_of_it(folder, call):
    (folder / "labels.txt").write_text("rest\nwalk, fast\n")
    words = ["--labels", "labels.txt", "--features", "ax, ay,az", "--rate", "50Hz", "--window", "20"]
    done = call(*COUNTER, *words, "--output-names", "logits")
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    manifest = load(folder / "t.onnx").manifest
    assert manifest.task == ("classification", "logits", ("rest", "walk, fast"), ())
    assert manifest.signal[:3] == (("ax", "ay", "az"), 50.0, 20)


def test_units_make_a_regression_of_the_first_output(folder, call):
    done = call(*COUNTER, "--units", "m,s", "--labels", "far,long")
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    assert load(folder / "t.onnx").manifest.task == ("regression", "output", ("far", "long"), ("m", "s"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


TOKENS = ("--input", "tokens=N,L:int64", "-o", "t.onnx")
WRONG = [
    (("nets:build", *TOKENS[:2], "-o", "no/t.onnx"), "create it first"),
    (("nets:build", "-o", "t.onnx"), "describe each input"),
    (("nets:broken", *TOKENS), "KeyError"),
    (("nets:number", *TOKENS), "nets:number"),
    (("nets:missing", *TOKENS), "missing"),
    (("nowhere:build", *TOKENS), "nowhere"),
    (
        ("nets:build", "--input", "words=N,L:int64", "-o", "t.onnx"),
        "takes tokens, lengths, not words; use --input tokens=N,L",
    ),
    (("nets:build", "--input", "tokens", "-o", "t.onnx"), "expected --input x=N,L,8"),
    (("nets:build", "--input", "tokens=N,0", "-o", "t.onnx"), "neither a positive number"),
    (("nets:build", "--input", "tokens=N:int99", "-o", "t.onnx"), "expected one of float32"),
    (("nets:build", "--input", "tokens=N:object", "-o", "t.onnx"), "got dtype 'object'"),
    (("nets:build", "--input", "tokens=N:int64:9..0", "-o", "t.onnx"), "got values '9..0'"),
    (("nets:build", "--input", "tokens=N:int8:0..200", "-o", "t.onnx"), "integers that int8 does not hold"),
    (("nets:build", "--input", "tokens=N:float32:0..1", "-o", "t.onnx"), "a range for integers that float32"),
    (("nets:build", "--input", "tokens=N,99999999999999999999", "-o", "t.onnx"), "create an example"),
    (("nets:build", "--input", "tokens=N,L", *TOKENS), "tokens is given twice"),
    (("nets:build", "--input", "tokens=N,L:8..4", "-o", "t.onnx"), "expected LEAST..[MOST][:MULTIPLE]"),
    (("nets:build", "--input", "tokens=N,L:9..11:8", "-o", "t.onnx"), "expected LEAST..[MOST][:MULTIPLE]"),
    (("nets:build", "--input", "tokens=N,4*L:8..", "-o", "t.onnx"), "nor a valid name"),
    (("nets:build", "--input", "tokens=N:int64,L", "-o", "t.onnx"), "put the dtype last"),
    (("nets:build", "--input", "tokens=N,L-1", "-o", "t.onnx"), "neither a positive number"),
    (("nets:Wide", "--input", "x=N,L:8..,4", "-o", "t.onnx"), "16.. is what forward takes"),
    (("nets:two_lines", *TOKENS), "RuntimeError: one line and another"),
    (("nets:leaves", *TOKENS), "SystemExit: 5"),
    (("nets.py:build", *TOKENS), "without .py"),
    (("nets:build", "--input", "tokens=N:int64:9", "-o", "t.onnx"), "LOW..HIGH"),
    (
        ("nets:build", "--input", "tokens=N,L", "-o", "t.onnx"),
        "Tagger.forward fails on tokens [3, 64]: RuntimeError: Expected tensor for argument",
    ),
    (("nets:build", "--weights", "other.safetensors", *TOKENS), "a is not in the module; "),
    (("nothing", "-o", "t.onnx"), "nothing"),
    (("nothing", "-o", "t.pt"), "use -o t.onnx"),
    (("t.onnx", "-o", "u.onnx"), "t.onnx is already exported"),
    (("nothing", "--weights", "x.pt", "-o", "t.onnx"), "not a package.module:factory"),
    (("nothing", "--rate", "50", "-o", "t.onnx"), "nothing does not exist"),
    ((*COUNTER, "--labels", "a,b,c"), "got 3 labels, expected 2"),
    ((*COUNTER, "--features", "a,b"), "got 2 names of features, expected 3"),
    ((*COUNTER, "--labels", "classes.txt"), "no labels at classes.txt"),
    ((*COUNTER, "--labels", "a,a"), "listed twice"),
    ((*COUNTER, "--units", "m,s", "--task", "classification"), "--units requires a regression"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message.replace(" ", "-") for _, message in WRONG])
def test_wrong_usage_is_one_line_and_exit_code_2_and_no_file(folder, call, words, message):
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
    done = call(*words)
    assert done.returncode == 2
    (error,) = unexpected(done.stderr)
    assert message in error
    assert error.startswith("error: ")
    assert not list(folder.glob("*.onnx"))


def test_weights_that_would_run_code_are_refused_in_a_real_process_too(folder):
    (folder / "evil.pt").write_bytes(pickle.dumps(Evil()))
    done = run(folder, "nets:build", "--weights", "evil.pt", *TOKENS)
    assert done.returncode == 2
    assert "run code" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob("*.onnx"))
    assert not (folder / "ran").exists()


@pytest.mark.system
def test_a_killed_export_leaves_no_file_and_keeps_the_old_one(folder):
    (folder / "old.onnx").write_bytes(b"old")
    for name in ("old.onnx", "new.onnx"):
        command = [sys.executable, "-c", "from lstm_edge.cli import main; main()", "export", "nets:Slow"]
        process = subprocess.Popen([*command, "--input", "tokens=N,L:int64", "-o", name], cwd=folder)
        _wait_for(folder / "started")
        process.kill()
        assert process.wait() != 0
        (folder / "started").unlink()
    assert sorted(path.name for path in folder.glob("*.onnx*")) == ["old.onnx"]
    assert not list(folder.glob(".*"))
    assert (folder / "old.onnx").read_bytes() == b"old"


WRITES_SLOWLY = """
import sys, time
from pathlib import Path
write = Path.write_bytes
def slowly(self, content):
    write(self, content[: len(content) // 2])
    open("started", "w").close()
    time.sleep(60)
Path.write_bytes = slowly
from lstm_edge.cli import main
from lstm_edge_runtime.errors import install_command
main()
"""


@pytest.mark.system
def test_an_export_killed_while_it_writes_keeps_the_old_file(folder):
    (folder / "old.onnx").write_bytes(b"old")
    words = ["export", "nets:build", "--input", "tokens=N,L:int64", "-o", "old.onnx"]
    process = subprocess.Popen([sys.executable, "-c", WRITES_SLOWLY, *words], cwd=folder)
    _wait_for(folder / "started")
    process.kill()
    process.wait()
    assert (folder / "old.onnx").read_bytes() == b"old"


def test_without_torch_the_error_names_the_extra(folder, monkeypatch):
    monkeypatch.chdir(folder)
    script = "import sys; sys.modules['torch'] = None\nfrom lstm_edge.cli import main; main()"
    command = [sys.executable, "-c", script, "export", "run", "-o", "m.onnx"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert install_command("export") in done.stderr


def _wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


@pytest.mark.system
def test_what_a_module_prints_does_not_reach_the_json(folder):
    done = run(folder, "nets:Talks", *TOKENS, "--json")
    assert done.returncode == 0
    assert list(json.loads(done.stdout)["files"]) == ["t.onnx"]
    assert "tokens" in done.stderr


def test_floats_without_a_dtype_are_the_modules_own(folder, call):
    done = call("nets:narrow", "--input", "input=N,L,5", "-o", "t.onnx")
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    assert load(folder / "t.onnx").inputs[0].dtype == "float32"


def test_lengths_of_any_name_are_drawn_as_lengths(folder, call):
    source = (folder / "nets.py").read_text()
    packs = """
class Packs(Tagger):
    def forward(self, tokens, token_lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.words(tokens), token_lengths, batch_first=True)
        return self.head(self.rnn(packed)[1][-1])
"""
    (folder / "nets.py").write_text(source + packs)
    without = call("nets:Packs", *TOKENS)
    assert (without.returncode, "such as --input token_lengths=N:int64" in without.stderr) == (2, True)
    words = ["--input", "tokens=N,L:int64", "--input", "token_lengths=N", "-o", "t.onnx"]
    done = call("nets:Packs", *words)
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    model = load(folder / "t.onnx")
    assert model.manifest.lengths == "token_lengths"
    assert model.inputs[1].dtype == "int64"
