"""Casts to other floats, and regions of autocast."""

import pytest
import torch
from torch import Tensor, nn

from lstm_edge_exporters import export
from lstm_edge_runtime.errors import UnsupportedError


class Cast(nn.Module):
    """A head in a region of autocast."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=self.enabled):
            left, right = self.head(self.lstm(x)[0]).chunk(2, -1)
        return left * right


class Computed(nn.Module):
    """A GRU behind a function of the input."""

    def __init__(self, compute) -> None:
        super().__init__()
        self.compute = compute
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y = self.compute(x)
        return y, self.gru(x)[0]


def test_a_region_without_autocast_is_a_part_of_the_graph():
    torch.manual_seed(0)
    artifact = export(Cast(enabled=False).eval(), torch.randn(2, 5, 3))
    assert [state.input for state in artifact.manifest.states] == ["h_0", "c_0"]


@pytest.mark.parametrize(
    ("dtype", "compute"),
    [
        (torch.bfloat16, Cast(enabled=True)),
        (torch.float64, lambda x: ((x.double() + 1e8) - 1e8).float()),
        (torch.float16, lambda x: x.half().float()),
        (torch.bfloat16, lambda x: x.to(torch.bfloat16).float()),
        (torch.float64, lambda x: x.type(torch.float64).cumsum(1).float()),
        (torch.float64, lambda x: x.softmax(-1, dtype=torch.float64).float()),
        (torch.float64, lambda x: (x * torch.ones(3, dtype=torch.float64)).float()),
        (torch.float64, lambda x: (x > 0).to(torch.float64).float()),
        (torch.float64, lambda x: total(x, torch.zeros(2, 3, dtype=torch.float64))),
        (torch.float16, lambda x: total(x, x.new_zeros(2, 3).half())),
    ],
)
def test_data_in_another_float_is_refused_with_its_line(dtype, compute):
    name = str(dtype).removeprefix("torch.")
    message = rf"forward computes in {name} \(test_autocast.py:\d+: "
    with pytest.raises(UnsupportedError, match=message):
        export(Computed(compute).eval(), torch.randn(2, 5, 3))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.float(),
        lambda x: x.to(x.dtype) * torch.tensor(0.5, dtype=torch.float64),
        lambda x: x * torch.ones(3, dtype=torch.float64).float(),
        lambda x: x.type_as(x).to(torch.float32),
    ],
)
def test_float32_stays_float32(compute):
    artifact = export(Computed(compute).eval(), torch.randn(2, 5, 3))
    assert artifact.manifest.streamable


def total(x, sums):
    outs = []
    for t in range(x.size(1)):
        sums = sums + x[:, t]
        outs.append(sums)
    return torch.stack(outs, 1)
