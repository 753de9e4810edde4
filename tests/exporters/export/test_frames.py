"""Functions of one frame that PyTorch or its translation writes over all frames: they
stream, step by step, also as programs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import UnsupportedError

X = torch.linspace(-1, 1, 2 * 9 * 6).reshape(2, 9, 6).sin()


class Computed(nn.Module):
    """A function of the frames of a GRU."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute
        self.gru = nn.GRU(6, 6, batch_first=True)
        self.norm = nn.GroupNorm(2, 6)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.compute(self, self.gru(x)[0])


def deviations(_, y):
    return (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True) + 1e-5)


def group_norm(self, y):
    return self.norm(y.reshape(-1, 6)).reshape(y.shape)


def cumulative_norm(_, y):
    """Normalization by all frames so far, as in Conv-TasNet."""
    sums, squares = y.sum(-1).cumsum(1), y.pow(2).sum(-1).cumsum(1)
    count = torch.arange(6, 6 * (y.size(1) + 1), 6, dtype=y.dtype).view(1, -1)
    mean = sums / count
    deviation = (squares / count - mean**2 + 1e-3).sqrt()
    return (y - mean.unsqueeze(-1)) / deviation.unsqueeze(-1)


def subbands(_, y):
    """Each of 6 features next to its neighbors, as in GTCRN."""
    windows = F.unfold(y.unsqueeze(1), (1, 3), padding=(0, 1), stride=(1, 2))
    return windows.reshape(y.size(0), 3, y.size(1), 3).sum(1)


def triple(_, y):
    return torch.einsum("bld,bln,bld->bldn", y, y[..., :2], y).flatten(2)


def written(_, y):
    return torch.zeros_like(y).scatter(-1, y.argmax(-1, keepdim=True), y[..., :1])


FUNCTIONS = [deviations, group_norm, cumulative_norm, subbands, triple, written]


@pytest.mark.parametrize("compute", FUNCTIONS)
def test_a_function_of_a_frame_streams_and_is_a_program(compute):
    torch.manual_seed(0)
    module = Computed(compute).eval()
    artifact = export(module, X)
    want = module(X[:1])[0].detach().numpy()
    for content in (artifact.model, to_native(artifact.model)):
        stream = load(content).stream()
        got = np.stack([stream.step(sample) for sample in X[0].numpy()])
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_the_largest_features_written_back_stream():
    def sparse(_, y):
        values, places = y.topk(2, -1)
        return torch.full_like(y, -torch.inf).scatter(-1, places, values).softmax(-1)

    torch.manual_seed(0)
    assert export(Computed(sparse).eval(), X).manifest.streamable


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        mask = self.mask(x)
        h, outs = x.new_zeros(x.size(0), 6), []
        for t in range(x.size(1)):
            h = torch.where(mask[:, t, None], 0.5 * h + x[:, t], h)
            outs.append(h)
        return torch.stack(outs, 1)


def test_a_mask_of_all_steps_is_refused_with_a_count_as_advice():
    def even(x):
        return (torch.arange(x.size(1)) % 2 == 0).expand(x.size(0), -1)

    unstreamable = export(Masked(even).eval(), X).manifest.unstreamable
    assert "restarts with every call; count the steps in the loop, n = n + 1" in (
        unstreamable
    )


class EveryOther(nn.Module):
    def forward(self, x):
        h, n = x.new_zeros(x.size(0), 6), torch.zeros(x.size(0), 1)
        outs = []
        for t in range(x.size(1)):
            h = self.step(x[:, t], h, n, t)
            n = n + 1
            outs.append(h)
        return torch.stack(outs, 1)


def test_the_count_that_a_refusal_advises_streams():
    class Refused(EveryOther):
        def step(self, x, h, n, t):
            return 0.5 * h + x if t % 2 == 0 else h

    class Advised(EveryOther):
        def step(self, x, h, n, t):
            return torch.where(n % 2 == 0, 0.5 * h + x, h)

    with pytest.raises(UnsupportedError, match=r"torch.where\(n % 2 == 0, a, b\)"):
        export(Refused().eval(), X)
    artifact = export(Advised().eval(), X)
    assert artifact.manifest.streamable
    assert to_native(artifact.model)


def test_a_loop_divides_by_the_number_of_steps():
    class Shares(nn.Module):
        def forward(self, x):
            v = x.new_zeros(x.size(0), 6)
            for t in range(x.size(1)):
                v = torch.tanh(v + x[:, t]) / x.size(1)
            return v

    config = ExportConfig(inputs={"x": ("N", "L", 6)})
    artifact = export(Shares().eval(), X, config)
    got = load(artifact.model).run(X.numpy())[0]
    np.testing.assert_allclose(got["output"], Shares()(X).numpy(), rtol=1e-5)
