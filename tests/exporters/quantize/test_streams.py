"""Files whose outputs lag, or that give a frame for several steps, are quantized like
any other."""

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export, validate
from lstm_edge_exporters.quantize import QuantizeConfig, quantize
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import against_file
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import Task


class Late(nn.Module):
    """Classify, with a delay of two frames."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, padding=2)
        self.head = nn.Linear(32, 3)
        self.gru = nn.GRU(8, 32, batch_first=True)

    def forward(self, x):
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.gru(y)[0])


class Strided(nn.Module):
    """A frame every 4 samples, with a delay of one; outputs frames, and a result of the
    last frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 6, 4, padding=1)
        self.head = nn.Linear(32, 3)
        self.last = nn.Linear(32, 2)
        self.lstm = nn.LSTM(8, 32, batch_first=True)

    def forward(self, x):
        y = self.lstm(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]
        return self.head(y), self.last(y[:, -1])


WAYS = {
    "native": (
        Late,
        QuantizeConfig(target="arm"),
        Task("classification", "output", ("a", "b", "c")),
    ),
    "int8": (Strided, QuantizeConfig(target="x86-vnni"), None),
    "fp16": (Strided, QuantizeConfig("fp16"), None),
    "int8 GRU": (Late, QuantizeConfig(), None),
}


@pytest.fixture(scope="module", params=WAYS)
def pair(request, tmp_path_factory):
    """Return a float file that streams, and the quantized file."""
    kind, config, task = WAYS[request.param]
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    artifact = export(
        kind().eval(), torch.randn(2, 40, 3), ExportConfig(task=task, stream=True)
    )
    artifact.save(folder / "float.onnx")
    quantize(folder / "float.onnx", config).save(folder / "smaller.onnx")
    return folder / "float.onnx", folder / "smaller.onnx"


def test_a_quantized_stream_is_near_the_float_files(pair):
    parent, path = pair
    before = load(parent)
    after = load(path)
    assert path.stat().st_size < 0.75 * parent.stat().st_size
    assert after.selftest().ok
    x = np.random.default_rng(3).standard_normal((90, 3)).astype(np.float32)
    expected, got = (model.stream().process({"x": x}) for model in (before, after))
    for name, reference in (
        expected.items() if isinstance(expected, dict) else [("", expected)]
    ):
        actual = got[name] if name else got
        assert actual.shape == reference.shape
        assert 0 < np.abs(actual - reference).max() < 0.05
    assert {
        state.output for state in after.manifest.states
    } == after.manifest.equivalence["drift"].keys()
    held = after.stream()
    held.process(np.zeros((after.manifest.delay_steps, 3), np.float32))
    assert all(
        np.abs(array).max() < 0.02
        for name, array in held.state.items()
        if name in ("h_0", "c_0")
    )
    file = open_file(path)
    report = validate(file, against_file(parent, file), ValidateConfig(quick=True))
    assert report.ok, report.verdict
