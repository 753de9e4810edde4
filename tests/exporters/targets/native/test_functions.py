"""Functions of the features of a step in programs, also of NaN and infinity."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.native import installed

pytestmark = pytest.mark.skipif(not installed(), reason="lstm-edge-native is missing")


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


def program(module):
    """The program of a module of ``x (N, L, 3)``."""
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    return load(to_native(export(module, torch.randn(2, 5, 3), config).model))


def steps_and_results(module, x):
    """The steps of a module's program for one row ``x (L, 3)``, and its results."""
    stream = program(module).stream()
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


class Each(Extremes):
    """A function of the features of each step, and a state."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return {"each": self.function(x), "y": self.rnn(x)[0]}


FUNCTIONS = {
    "celu": lambda x: F.celu(x, 0.7),
    "mish": F.mish,
    "sign": torch.sign,
    "fraction": lambda x: torch.frac(3 * x),
    "finite": torch.nan_to_num,
    "not a number": lambda x: x.isnan().float(),
    "infinite": lambda x: x.isinf().float(),
    "sum of sizes": lambda x: x.norm(p=1, dim=-1, keepdim=True),
    "product": lambda x: x.prod(-1, keepdim=True),
    "features in another order": lambda x: x[..., [2, -3, 2]],
    "log of sum": lambda x: x.logsumexp(-1, keepdim=True),
    "log of sum over two axes": lambda x: (
        x[..., None].expand(*x.shape, 2).logsumexp((-2, -1))
    ),
}
LARGE = float("inf")
ODD_STEPS = [[-LARGE] * 3, [0, LARGE, 1], [1, float("nan"), 2], [0, -LARGE, 90]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_has_the_function(name):
    torch.manual_seed(6)
    module = Each(FUNCTIONS[name]).eval()
    x = torch.cat([4 * torch.randn(9, 3), torch.tensor(ODD_STEPS), torch.randn(2, 3)])
    stream = program(module).stream()
    got = np.stack([stream.step(sample)["each"] for sample in x.numpy()])
    want = FUNCTIONS[name](x).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
