"""Regions of autocast."""

import pytest
import torch
from torch import Tensor, nn

from lstm_edge_exporters import export
from lstm_edge_runtime.errors import CheckFailedError


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


def test_a_region_without_autocast_is_a_part_of_the_graph():
    torch.manual_seed(0)
    artifact = export(Cast(enabled=False).eval(), torch.randn(2, 5, 3))
    assert [state.input for state in artifact.manifest.states] == ["h_0", "c_0"]


def test_a_module_that_computes_in_bfloat16_is_refused():
    torch.manual_seed(0)
    with pytest.raises(
        CheckFailedError, match="the module in float32, which the file can't follow"
    ):
        export(Cast(enabled=True).eval(), torch.randn(2, 5, 3))
