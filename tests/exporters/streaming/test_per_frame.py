"""Modules of usual operators behind a causal convolution stream by their ordinary
file."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load

pytestmark = pytest.mark.system


class Causal(nn.Module):
    """A causal convolution, then ``head`` of its frames ``y``."""

    def __init__(self, head):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)
        self.vector = nn.Parameter(torch.randn(2))
        self.head = head

    def forward(self, x):
        y = self.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        return self.head(self, x, y)


def with_vector(net, _, y):
    return torch.cat([y, net.vector.expand(y.shape[0], y.shape[1], 2)], -1)


def with_writes(_, __, y):
    y = y.clone()
    y[..., 1:3] = 2 * y[..., 1:3]
    y[..., -1] = 0.5
    y[:, :, 0] = y[:, :, 1] - y[:, :, 0]
    return y


def with_changed_parts(_, x, y):
    y = y.clone()
    y[..., 1:3] *= 2
    y[..., 0] += 1
    front = y[..., :2]
    front.add_(1)
    y[..., :3][..., 1:] = 0
    y[..., ::2] -= x[..., :1]
    y[..., [3, 1]] = y[..., :2].clone()
    y.select(-1, 1).copy_(x[..., 2])
    first, _ = y.chunk(2, -1)
    F.relu(first, inplace=True)
    return torch.cat([y, front], -1)


def with_filled_parts(_, x, y):
    filled = torch.zeros_like(y)
    filled[..., 0] = x[..., 1]
    return filled


HEADS = {
    "a part of zeros": with_filled_parts,
    "changed parts": with_changed_parts,
    "written features": with_writes,
    "a label per step": lambda _, __, y: y.argmax(-1),
    "a row of a table": lambda net, _, y: net.conv.weight[y.argmax(-1)].flatten(2),
    "largest values": lambda _, __, y: y.topk(2, -1).values,
    "soft maximum": lambda _, __, y: y.logsumexp(-1),
    "elementwise": lambda _, __, y: F.celu(y) + torch.sinh(y) * torch.atan(y),
    "selected features": lambda _, __, y: y.repeat(1, 1, 2)[..., [2, 0, 5]],
    "a vector in every frame": with_vector,
    "differences": lambda _, x, y: y[..., :3] + torch.diff(x, dim=1, prepend=x[:, :1]),
    "copies of the first frame": lambda net, x, _: net.conv(
        F.pad(x.transpose(1, 2), (2, 0), mode="replicate")
    ).transpose(1, 2),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_step_gives_the_frame_of_the_full_sequence(name):
    torch.manual_seed(0)
    module = Causal(HEADS[name]).eval()
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    artifact = export(module, torch.randn(2, 9, 3), config)
    assert artifact.manifest.unstreamable == ""
    x = torch.randn(20, 3)
    with torch.no_grad():
        want = module(x[None])[0].numpy()
    stream = load(artifact.model).stream()
    got = [stream.step(sample) for sample in x.numpy()]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    stream.reset()
    np.testing.assert_allclose(stream.process(x.numpy()), want, rtol=0, atol=1e-5)
