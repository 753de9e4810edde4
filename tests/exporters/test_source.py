"""A user's own module from its name, weights and declared inputs: in Python, and what is
wrong in the same line as on the command line."""

import sys

import numpy as np
import pytest
import torch

from lstm_edge_exporters import export, validate
from lstm_edge_exporters.source import load_module, load_source
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_runtime.errors import LstmEdgeError

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, tokens):
        return self.gru(self.words(tokens))[0]

number = 3
"""
TOKENS = {"tokens": "N,L:9:int64"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    torch.manual_seed(1)
    (tmp_path / "source_nets.py").write_text(NETS)
    (tmp_path / "source_syntax.py").write_text("def build(:\n")
    (tmp_path / "source_raises.py").write_text(
        "\nraise RuntimeError('trains\\nhere')\n"
    )
    torch.save({"gru.weight_ih_l0": torch.zeros(12, 5)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("source_")]:
        del sys.modules[name]


def test_a_module_is_loaded_exported_and_validated(folder):
    module = load_module("source_nets:Net").module
    weights = {name: value + 1 for name, value in module.state_dict().items()}
    torch.save(weights, folder / "net.pt")
    source = load_source("source_nets:Net", TOKENS, "net.pt")
    assert not source.module.training
    assert torch.equal(source.module.words.weight, module.words.weight + 1)
    tokens = source.example["tokens"]
    assert (tokens.shape, tokens.dtype) == ((3, 9), torch.int64)
    assert 0 <= tokens.min() < tokens.max() < 5
    assert source.config.inputs == {"tokens": ("N", "L")}
    assert (
        source.config.checkpoint_sha256
        == load_module("source_nets:Net", folder / "net.pt").sha256
    )
    export(source.module, source.example, source.config).save("net.onnx")
    quick = ValidateConfig(quick=True)
    assert validate("net.onnx", source.module, quick).ok
    assert not validate("net.onnx", module, quick).ok


def test_weights_that_a_factory_draws_are_the_same_in_every_call():
    first, second = (load_module("source_nets:Net").module for _ in range(2))
    np.testing.assert_array_equal(
        first.words.weight.detach(), second.words.weight.detach()
    )


WRONG = [
    ("source_nets:net", {}, None, "source_nets has no 'net'; did you mean 'Net'?"),
    ("source_nets:number", {}, None, "returned int, expected a torch.nn.Module"),
    (
        "source_nets",
        {},
        None,
        "name the function or class in it that gives the network",
    ),
    ("source_nets.py:Net", {}, None, "without .py; use source_nets:Net"),
    ("source_none:Net", {}, None, "No module named 'source_none'"),
    ("source_syntax:build", {}, None, "(source_syntax.py, line 1)"),
    ("source_raises:build", {}, None, "raised RuntimeError: trains here; expected"),
    ("source_nets:Net", {}, "other.pt", "other.pt does not fit source_nets:Net"),
    ("source_nets:Net", {}, "text.pt", "text.pt is not a checkpoint"),
    ("source_nets:Net", {}, "none.pt", "none.pt does not exist"),
    ("source_nets:Net", {"tokens": "N,0"}, None, "--input tokens=N,0: axis '0' is nei"),
    ("source_nets:Net", {"tokens": "N,L:x"}, None, "tokens=N,L:x: 'L:x' is not an axi"),
    ("source_nets:Net", {"x": "N,L"}, None, "such as --input tokens=N,L (N:int64 for"),
    (
        "source_nets:Net",
        {"tokens": "N,L,3"},
        None,
        "Net.forward fails on tokens [3, 64",
    ),
]


@pytest.mark.parametrize(("source", "inputs", "weights", "message"), WRONG)
def test_what_is_wrong_is_one_line_the_same_from_python_and_the_command_line(
    source, inputs, weights, message, invoke
):
    inputs = inputs or TOKENS
    with pytest.raises(LstmEdgeError) as refusal:
        load_source(source, inputs, weights)
    line = str(refusal.value)
    assert message in line
    assert "\n" not in line
    words = [f"--input={name}={text}" for name, text in inputs.items()]
    words += ["--weights", weights] if weights else []
    code, out, err = invoke("export", source, *words, "-o", "a.onnx")
    assert (code, out, err) == (2, "", f"error: {line}\n")


def test_a_name_that_is_no_factory_and_inputs_that_are_missing_are_refused():
    with pytest.raises(LstmEdgeError, match=r"^nothing is not package"):
        load_module("nothing")
    with pytest.raises(LstmEdgeError, match="source_nets:Net: describe each input"):
        load_source("source_nets:Net", {})
