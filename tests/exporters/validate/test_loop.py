"""A file whose states are paired with each other's outputs gives the right results in one call only."""

import onnx
import pytest
import torch
from torch import nn

from lstm_edge_exporters import export
from lstm_edge_exporters.numerics.cases import closed_loop
from lstm_edge_exporters.numerics.compare import Function
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.numerics.reference import Signature, TorchReference
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.manifest import Manifest


class Cell(nn.Module):
    """h and c have one shape, and c is returned first."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(3 + 4, 16)

    def forward(self, x, h, c):
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return {"y": 2 * h, "c": c, "h": h}


@pytest.fixture(scope="module")
def cell():
    torch.manual_seed(0)
    return Cell().eval()


@pytest.fixture(scope="module")
def example():
    return torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)


def swapped(content):
    """Return a file that pairs h with c's output and c with h's, as export once did."""
    model = onnx.load_model_from_string(content)
    manifest = Manifest.from_json(model.metadata_props[0].value)
    h, c = manifest.states
    states = (h._replace(output=c.output), c._replace(output=h.output))
    model.metadata_props[0].value = manifest._replace(states=states).to_json()
    return model.SerializeToString()


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "swapped"])
def test_validate_finds_states_that_are_swapped(wrong, cell, example, tmp_path):
    path, content = tmp_path / "m.onnx", export(cell, example).model
    path.write_bytes(swapped(content) if wrong else content)
    file = open_file(path)
    report = validate(file, against_module(cell, file, example), ValidateConfig(quick=True))
    failed = {each.name for group in report.groups for each in group.checks if each.status == "failed"}
    assert ("called again and again from its own states" in failed) == wrong
    assert ("states" in failed) == wrong


def test_a_loop_finds_states_that_are_swapped(cell, example):
    graph = Graph64(onnx.load_model_from_string(export(cell, example).model))
    function = Function(graph, TorchReference(cell, Signature.of(cell, example), ("y", "c_n", "h_n")))
    feeds = {name: tensor.numpy() for name, tensor in zip("xhc", example, strict=True)}
    own = closed_loop({"h": "h_n", "c": "c_n"})
    assert function.compare(feeds, own).ok
    assert not any(
        each.ok for each in function.compare(feeds, closed_loop({"h": "c_n", "c": "h_n"}), own).records
    )


class Decays(nn.Module):
    """A gated sum in closed form, whose parts grow without end."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x):
        passed = torch.cumsum(torch.log(torch.sigmoid(self.gain * x + 2)), 1)
        return torch.exp(passed) * torch.cumsum(x * torch.exp(-passed), 1)


def test_a_stream_that_leaves_the_range_of_float32_is_noted(tmp_path):
    x = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    export(Decays(), x).save(tmp_path / "decays.onnx")
    file = open_file(tmp_path / "decays.onnx")
    report = validate(file, against_module(Decays(), file, x), ValidateConfig(quick=True))
    assert report.ok
    (note,) = [note for note in report.notes if "float32" in note]
    assert note.startswith("float32 overflows at Exp 'node_exp_1' in 1000 steps in chunks of ")
    assert "reset_every" in note
