"""Sizes that grow with time: their rate, offset and period, whatever axes are called."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.sizes import TimeAxis
from lstm_edge_runtime import load


@pytest.mark.parametrize(
    ("frames", "rate", "offset", "period"),
    [
        (lambda steps: steps, 1, 0, 1),
        (lambda steps: 2 * steps + 3, 2, 3, 1),
        (lambda steps: (steps - 1) // 2 + 1, Fraction(1, 2), 0, 2),
        (lambda steps: (steps - 5) // 13, Fraction(1, 13), -1, 13),
        (lambda steps: 4 * (steps // 4), 1, 0, 4),
        (lambda steps: steps + -steps % 4, 1, 0, 4),
        (lambda steps: max(0, steps - 2), 1, -2, 1),
        (lambda steps: steps * steps, None, 0, 1),
        (lambda steps: steps.bit_length(), None, 0, 1),
    ],
)
def test_a_size_is_affine_at_multiples_of_its_period(frames, rate, offset, period):
    axis = TimeAxis.of(2, frames)
    assert axis == TimeAxis(2, rate, offset, period)


class Convolved(nn.Module):
    """A causal convolution in front of a layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        y = self.conv(F.pad(x.transpose(1, 2), (2, 0)))
        return self.lstm(y.transpose(1, 2))[0]


@pytest.mark.parametrize("names", [("N", "L"), ("s1", "s0"), ("Max", "floor")])
def test_an_export_streams_whatever_its_axes_are_called(names):
    config = ExportConfig(inputs={"x": (*names, 3)})
    manifest = export(Convolved().eval(), torch.randn(2, 9, 3), config).manifest
    assert (manifest.batch, manifest.sequence) == names
    assert [state.input for state in manifest.states] == ["h_0", "c_0", "past_0"]
    assert manifest.unstreamable == ""


class Padded(nn.Module):
    """Frames of four samples, the last one filled up with zeros."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 5, 4, stride=4)
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, -x.shape[1] % 4))
        return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


def test_padding_up_to_whole_frames_streams_frame_by_frame():
    module = Padded().eval()
    x = torch.randn(2, 9, 3)
    artifact = export(module, x)
    assert "takes 4 steps at a time" in artifact.manifest.unstreamable
    with torch.no_grad():
        np.testing.assert_allclose(
            load(artifact.model).run(x.numpy())[0]["output"], module(x), atol=1e-6
        )
        want = module(torch.cat([x[:1], x[:1, :3]], 1))[0]
    stream = load(export(module, x, ExportConfig(stream=True)).model).stream()
    samples = torch.cat([x[0], x[0, :3]]).numpy()
    got = [stream.step(sample) for sample in samples]
    frames = [frame for frame in got if frame is not None]
    np.testing.assert_allclose(frames, want, atol=1e-6)
