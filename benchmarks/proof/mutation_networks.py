"""The healthy networks that ``mutation.py`` spoils: recurrent layers, and what people put around them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.networks import Chain, Layers, gru, lstm, over_time
from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import ExportConfig
from lstm_edge_runtime.manifest import Signal, Task, Trained

__all__ = ["NETWORKS", "Made"]

Made = tuple[nn.Module, Any, ExportConfig]
_SHA = "0123456789abcdef" * 4


def _lstm1(*, hidden: int = 12, layers: int = 1, lengths: bool = False, **options: Any) -> Made:
    task = Task("classification", "logits", ("rest", "walk", "run", "fall"))
    signal = Signal(("ax", "ay", "az", "gx", "gy", "gz"), 50.0, 20)
    network = LSTM1(4, 6, hidden, layers, 20, **options).eval()
    network.set_scales((torch.linspace(-3, 3, 6), 10.0 ** torch.linspace(-2, 2, 6)))
    trained = Trained(carry=True, window=20, reset=0.5)
    run = Run(network, task=task, signal=signal, sha256=_SHA, trained=trained)
    return deployable(run, lengths=lengths)


def _weather() -> Made:
    """Two values of unlike units: pascal around 101,325, and radians around 0.02."""
    layer, head = gru(3, 10), nn.Linear(10, 2)
    with torch.no_grad():
        head.weight *= torch.tensor([[800.0], [0.02]])
        head.bias.copy_(torch.tensor([101325.0, 0.01]))
    task = Task("regression", "output", units=("Pa", "rad"))
    signal = Signal(("temperature", "humidity", "wind"), 1.0)
    return Chain(layer, head), torch.randn(3, 5, 3), ExportConfig(task=task, signal=signal)


def _detector() -> Made:
    """Probabilities of a few in a thousand."""
    layer, head = lstm(6, 16), nn.Linear(16, 3)
    with torch.no_grad():
        head.bias -= 6
    return Chain(layer, head, nn.Sigmoid()), torch.randn(3, 5, 6), ExportConfig()


class _Packed(nn.Module):
    """A packed bidirectional GRU and the two last states side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 8, bidirectional=True, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.out(torch.cat(tuple(self.rnn(packed)[1]), -1))


def _with_resets() -> Made:
    """A packed LSTM that gives the whole sequence; its states start elsewhere than at zero."""
    example = (
        torch.randn(3, 5, 4),
        torch.tensor([2, 5, 3]),
        (torch.zeros(1, 3, 9), torch.zeros(1, 3, 9)),
    )
    reset = {"state_0": np.linspace(-0.5, 0.5, 9, dtype=np.float32).reshape(1, 1, 9), "state_1": 0.25}
    layers = Layers(nn.LSTM(4, 9, batch_first=True), after=nn.LayerNorm(9))
    return layers.eval(), example, ExportConfig(reset=reset)


def _convolved() -> Made:
    """Convolutions with batch norm over time, then an LSTM; a call's first steps look back at padding."""
    norm = nn.BatchNorm1d(8)
    convolutions = over_time(nn.Conv1d(3, 8, 3, padding=1), norm, nn.ELU())
    net = Chain(convolutions, lstm(8, 10), nn.Linear(10, 3), nn.Softmax(-1))
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        norm.running_var.uniform_(0.05, 2)  # type: ignore[union-attr]
    return net, torch.randn(3, 9, 3), ExportConfig()


def _tagger() -> Made:
    """Tokens in, log probabilities out, states absent from ``forward``."""
    layers = nn.Embedding(24, 6, padding_idx=0), gru(6, 9, 2), nn.Linear(9, 5), nn.LogSoftmax(-1)
    return Chain(*layers), {"x": torch.randint(0, 24, (3, 5))}, ExportConfig()


class _Residual(nn.Module):
    """Layer norm, a residual connection and an RNN, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(7, eps=1e-3)
        self.rnn = nn.RNN(7, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(self.norm(x), h)
        return self.out(torch.nn.functional.gelu(x + y)), h


class _Seq2Seq(nn.Module):
    """A decoder that starts from the encoder's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(5, 8, batch_first=True)
        self.decoder = nn.LSTM(3, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.decoder(target, self.encoder(source)[1])[0])


_PLAIN = ExportConfig()
NETWORKS: dict[str, Callable[[], Made]] = {
    "LSTM1": _lstm1,
    "LSTM1, two layers, lengths": lambda: _lstm1(layers=2, lengths=True),
    "LSTM1, both directions": lambda: _lstm1(hidden=8, bidirectional=True),
    "LSTM1, projected": lambda: _lstm1(proj_size=5),
    "LSTM1, square head": lambda: _lstm1(hidden=128),
    "GRU, pascal and radians": _weather,
    "LSTM, rare events": _detector,
    "GRU tagger": _tagger,
    "packed GRU, both directions": lambda: (
        _Packed(),
        (torch.randn(3, 5, 5), torch.tensor([2, 5, 3])),
        _PLAIN,
    ),
    "packed LSTM, states that start elsewhere": _with_resets,
    "convolutions and LSTM": _convolved,
    "RNN, residual, time first": lambda: (_Residual(), (torch.randn(5, 3, 7), torch.zeros(1, 3, 7)), _PLAIN),
    "RNN-relu, two layers": lambda: (
        Chain(Layers(nn.RNN(4, 8, 2, "relu", batch_first=True)), nn.Linear(8, 2), nn.Tanh()),
        torch.randn(3, 5, 4),
        _PLAIN,
    ),
    "LSTM, unbatched": lambda: (
        Layers(nn.LSTM(6, 5)),
        torch.randn(7, 6),
        ExportConfig(inputs={"x": ("L", 6)}),
    ),
    "sequence to sequence": lambda: (_Seq2Seq(), (torch.randn(3, 5, 5), torch.randn(3, 7, 3)), _PLAIN),
}
"""Each makes a module, an example and a configuration; seed torch before."""
