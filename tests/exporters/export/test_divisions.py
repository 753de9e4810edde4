"""Divisions that round, and remainders, equal PyTorch's in float32, number by number."""

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import UnsupportedError

LEAST = -(2**63)


class Computed(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.compute = compute
        self.gru = nn.GRU(1, 2, batch_first=True)

    def forward(self, x, k):
        return self.compute(x, k), self.gru(x)[0]


def compared(compute, x, k=None):
    """Return PyTorch's result and that of the file."""
    torch.manual_seed(0)
    module = Computed(compute).eval()
    x = torch.as_tensor(x, dtype=torch.float32).reshape(1, -1, 1)
    k = torch.full_like(x, 3, dtype=torch.int64) if k is None else k
    config = ExportConfig(inputs={"x": ("N", "L", 1), "k": ("N", "L", k.shape[-1])})
    example = x[:, :5], torch.ones_like(k[:, :5])
    artifact = export(module, example, config)
    feeds = {"x": x.numpy(), "k": k.numpy()}
    outputs = load(artifact.model).run(feeds)[0]
    return artifact, feeds, next(iter(outputs.values()))


STEPS = [*(np.arange(-400, 400) / 20), 1e6, -1e6, 3e7, -0.0]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, _: x // 0.1,
        lambda x, _: x % 0.1,
        lambda x, _: x % -0.3,
        lambda x, _: x // -0.3,
        lambda x, _: 1.5 % (x + 0.05),
        lambda x, _: torch.fmod(x, 0.1),
        lambda x, _: torch.div(x, 0.1, rounding_mode="floor"),
        lambda x, _: torch.div(x, 0.1, rounding_mode="trunc"),
        lambda x, _: x // (x - 3),
        lambda x, _: x.remainder(torch.full_like(x, 0.7)),
        lambda x, _: x % 1.0 + x // 0.25,
    ],
)
def test_floats(compute):
    _, feeds, got = compared(compute, STEPS)
    x = torch.from_numpy(feeds["x"])
    want = compute(x, None).numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "compute",
    [
        lambda _, k: torch.div(k, 10, rounding_mode="floor"),
        lambda _, k: torch.div(k, 10, rounding_mode="trunc"),
        lambda _, k: torch.div(k, -7, rounding_mode="floor"),
        lambda _, k: k // 7 + k % -7,
        lambda _, k: torch.div(k, k - 3, rounding_mode="floor"),
        lambda _, k: torch.fmod(k, -7),
        lambda _, k: 100 % (k + 50),
        lambda _, k: k // -1 + k % -1,
    ],
)
def test_whole_numbers_are_divided_as_such(compute):
    k = torch.tensor([*range(-20, 3), 2**24 + 1, 999_999_999, -(2**62) - 1, 2**62 + 1])
    k = k.reshape(1, -1, 1)

    def small(_, k):
        return (compute(None, k) % 1009).float()

    artifact, feeds, got = compared(small, np.zeros(k.numel()), k)
    want = small(None, k).numpy()
    np.testing.assert_array_equal(got, want)
    native = load(to_native(artifact.model)).run(feeds)[0]
    np.testing.assert_array_equal(next(iter(native.values())), want)


@pytest.mark.parametrize("pair", [(0, 5), (-1, LEAST)])
def test_divisions_that_end_a_process_do_not(pair):
    def compute(_, k):
        a, b = k[..., 1:], k[..., :1]
        floor = torch.div(a, b, rounding_mode="floor")
        truncated = torch.div(a, b, rounding_mode="trunc")
        return ((floor + truncated + a % b + a.fmod(b)) % 9).float()

    k = torch.tensor(pair).reshape(1, 1, 2)
    artifact, feeds, got = compared(compute, [0.0], k)
    assert got.shape == (1, 1, 1)
    assert load(to_native(artifact.model)).run(feeds)


def test_an_exact_remainder_has_no_program():
    artifact, _, _ = compared(lambda x, _: x % 0.1, STEPS)
    with pytest.raises(UnsupportedError, match=r"write x - y \* torch.floor\(x / y\)"):
        to_native(artifact.model)
