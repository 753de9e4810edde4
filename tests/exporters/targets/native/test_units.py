"""Programs of several steps per call, of channels in front of time, and of one step."""

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.native import installed

pytestmark = pytest.mark.skipif(not installed(), reason="lstm-edge-native is missing")


class ChannelsFirst(nn.Module):
    """Two strided convolutions over time, channels in front of time; a unit of four
    steps gives one frame of the last and two of the first."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(3, 5, 4, stride=2)
        self.second = nn.Conv1d(5, 4, 3, stride=2)

    def forward(self, x):
        y = torch.relu(self.first(nn.functional.pad(x, (2, 0))))
        return self.second(nn.functional.pad(y, (2, 0))), y


class OneStep(nn.Module):
    """One step of a cell per call: no axis is time."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x, h):
        h = self.cell(x, h)
        return 2 * h, h


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of both networks, as ``.onnx`` and ``.lep``, by class."""
    folder = tmp_path_factory.mktemp("units")
    torch.manual_seed(0)
    stream = ExportConfig(
        inputs={"x": ("N", 3, "L")}, outputs=("last", "first"), stream=True
    )
    made = {
        ChannelsFirst: export(ChannelsFirst().eval(), torch.randn(2, 3, 24), stream),
        OneStep: export(
            OneStep().eval(),
            (torch.randn(2, 3), torch.zeros(2, 5)),
            ExportConfig(
                inputs={"x": ("N", 3), "h": ("N", 5)},
                outputs=("output", "h_n"),
                states={"h": "h_n"},
            ),
        ),
    }
    for kind, artifact in made.items():
        path = folder / f"{kind.__name__}.onnx"
        artifact.save(path)
        path.with_suffix(".lep").write_bytes(to_native(path))
    return {kind: folder / kind.__name__ for kind in made}


@pytest.mark.parametrize("steps", [4, 12])
def test_channels_in_front_of_time_are_in_order_in_a_unit(files, steps):
    path = files[ChannelsFirst]
    x = np.random.default_rng(steps).normal(size=(3, 3, steps)).astype("float32")
    with load(path.with_suffix(".onnx")) as onnx, load(path.with_suffix(".lep")) as lep:
        assert lep.manifest.unit == 4
        expected = onnx.run(x)[0]
        got = lep.run(x)[0]
        assert got["last"].shape == (3, 4, steps // 4)
        assert got["first"].shape == (3, 5, steps // 2)
        streamed = lep.stream().process(x[0])
        one_source = onnx.stream().process(x[0])
        for name in ("last", "first"):
            np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
            np.testing.assert_allclose(streamed[name], one_source[name], atol=1e-5)


def test_a_file_of_one_step_makes_one_step_per_call(files):
    path = files[OneStep]
    samples = np.random.default_rng(1).normal(size=(6, 3)).astype("float32")
    with load(path.with_suffix(".onnx")) as onnx, load(path.with_suffix(".lep")) as lep:
        streams = onnx.stream(), lep.stream()
        batch = lep.streams(2)
        ids = [batch.add(), batch.add()]
        for sample in samples:
            expected, got = (stream.step(sample) for stream in streams)
            np.testing.assert_allclose(got, expected, atol=1e-6)
            rows = batch.step(np.stack([sample, -sample]), ids)
            np.testing.assert_allclose(rows[0], expected, atol=1e-6)
        x = np.stack([samples[0], -samples[0]])
        expected = onnx.run(x)[0]["output"]
        np.testing.assert_allclose(lep.run(x)[0]["output"], expected, atol=1e-6)
