"""One small module and its artifact."""

import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime.manifest import Signal, Task


class Plain(nn.Module):
    """``forward(x, h_0, c_0) -> logits, h_n, c_n``."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, 2, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x, h_0, c_0):
        _, (h_n, c_n) = self.lstm(x, (h_0, c_0))
        return self.fc(h_n[-1]), h_n, c_n


@pytest.fixture(scope="session")
def plain():
    torch.manual_seed(0)
    return Plain().eval()


@pytest.fixture(scope="session")
def plain_example():
    return torch.randn(2, 4, 5), torch.zeros(2, 2, 6), torch.zeros(2, 2, 6)


@pytest.fixture(scope="session")
def plain_config():
    return ExportConfig(
        inputs={"x": ("N", "L", 5), "h_0": (2, "N", 6), "c_0": (2, "N", 6)},
        outputs=("logits", "h_n", "c_n"),
        task=Task("classification", "logits", labels=("a", "b", "c")),
        signal=Signal(("v", "w", "x", "y", "z"), 10.0, 4),
        checkpoint_sha256="ab" * 32,
    )


@pytest.fixture(scope="session")
def artifact(plain, plain_example, plain_config):
    return export(plain, plain_example, plain_config)
