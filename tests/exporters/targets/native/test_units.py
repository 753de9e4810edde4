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


class Extremes(nn.Module):
    """Largest and least numbers over one axis and over two, and their places."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 7, batch_first=True)

    def forward(self, x):
        y = self.rnn(x)[0]
        pairs = y[..., :6].reshape(*y.shape[:2], 3, 2)
        numbers = [
            y - y.amax(-1, keepdim=True),
            pairs.amin(-1),
            pairs.amax((-2, -1)).unsqueeze(-1),
            y.argmin(-1, keepdim=True) * 1.0,
            y.argmax(-1).unsqueeze(-1) * 1.0,
        ]
        return torch.cat(numbers, -1)


def steps_and_results(module, x):
    """The steps of a module's program for one row ``x (L, 3)``, and its results."""
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    stream = load(
        to_native(export(module, torch.randn(2, 5, 3), config).model)
    ).stream()
    steps = [stream.step(sample) for sample in x.numpy()]
    return steps, module(x[None])[0].detach().numpy()


def test_a_program_has_the_largest_and_least_numbers_and_their_places():
    torch.manual_seed(6)
    x = torch.randn(9, 3)
    x[7, 1] = float("nan")
    got, want = steps_and_results(Extremes().eval(), x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


class Logic(Extremes):
    """Combinations of flags: computed ones, and one with a fixed mask."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.arange(7) % 2 == 0)

    def forward(self, x):
        y = self.rnn(x)[0]
        high = y > 0
        wide = y.abs() > y.abs().mean(-1, keepdim=True)
        flags = [high & wide, high | wide, high ^ wide, high & self.mask]
        chosen = torch.where(high, wide, ~self.mask)
        return torch.cat([flag.float() for flag in [*flags, chosen]], -1)


def test_a_program_combines_flags():
    torch.manual_seed(6)
    got, want = steps_and_results(Logic().eval(), torch.randn(9, 3))
    np.testing.assert_array_equal(got, want)
