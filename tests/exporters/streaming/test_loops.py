"""A loop over time between convolutions streams as a recurrent layer does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.streaming.rewrite import NotStreamableError
from lstm_edge_runtime import load

pytestmark = pytest.mark.system


class Between(nn.Module):
    """A cell of its own behind a convolution, in front of another one."""

    def __init__(self, pads):
        super().__init__()
        self.pads = pads
        self.conv = nn.Conv1d(3, 4, 3)
        self.enter = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.last = nn.Conv1d(4, 2, 2)

    def forward(self, x):
        y = self.conv(F.pad(x.transpose(1, 2), self.pads)).transpose(1, 2)
        h = torch.zeros(x.shape[0], 4)
        results = []
        for t in range(y.shape[1]):
            h = torch.tanh(self.enter(y[:, t]) + self.again(h))
            results.append(h)
        z = torch.stack(results, 1).transpose(1, 2)
        return self.last(F.pad(z, (1, 0))).transpose(1, 2)


def test_a_step_gives_the_frame_of_the_full_sequence():
    torch.manual_seed(0)
    module = Between((2, 0)).eval()
    artifact = export(module, torch.randn(2, 9, 3))
    assert artifact.manifest.unstreamable == ""
    names = [state.input for state in artifact.manifest.states]
    assert names == ["h_0", "past_0", "past_1"]
    x = torch.randn(20, 3)
    with torch.no_grad():
        want = module(x[None])[0].numpy()
    stream = load(artifact.model).stream()
    got = [stream.step(sample) for sample in x.numpy()]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_a_loop_behind_a_convolution_that_looks_ahead_is_refused():
    torch.manual_seed(0)
    module = Between((1, 1)).eval()
    example = torch.randn(2, 9, 3)
    assert "lags; pad in front" in export(module, example).manifest.unstreamable
    with pytest.raises(NotStreamableError, match="lags; pad in front"):
        export(module, example, ExportConfig(stream=True))
