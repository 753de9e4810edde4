"""A network for the workflow example: seeded weights, so that nothing needs training or
downloading.
"""

import torch
from torch import Tensor, nn

__all__ = ["Recognizer", "build"]


class Recognizer(nn.Module):
    """Recognize one of four activities in six channels of motion."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 4) for x float32 (N, L, 6)."""
        _, h_n = self.gru(x)
        return self.head(h_n[-1])


def build() -> Recognizer:
    """Return the same network at every call, ready for export."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Recognizer().eval()
