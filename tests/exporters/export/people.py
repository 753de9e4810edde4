"""Modules written the way people write them, each with an example and what its file
must have."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters import ExportConfig

__all__ = ["PEOPLE", "Person"]


@dataclass(frozen=True)
class Person:
    """One module."""

    module: type[nn.Module]
    example: Any
    nodes: dict[str, int]
    """How many recurrent nodes of each kind."""
    states: tuple[str, ...] = ()
    """The state inputs."""
    unstreamable: str = ""
    """What the reason must mention; empty where chunks equal the whole."""
    notes: str = ""
    config: ExportConfig | None = None
    ranges: dict[str, str] = field(default_factory=dict)
    """The sizes of each axis that does not take all."""


class SentimentClassifier(nn.Module):
    """Embedding, packed bidirectional LSTM, the two last hidden states side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 12, padding_idx=0)
        self.lstm = nn.LSTM(
            12, 10, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5
        )
        self.fc = nn.Linear(20, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, text, text_lengths):
        embedded = self.dropout(self.embedding(text))
        packed = pack_padded_sequence(
            embedded, text_lengths.to("cpu"), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        hidden = self.dropout(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))
        return self.fc(hidden).squeeze(1)


class DecoderStep(nn.Module):
    """One step of an attention decoder, its hidden state an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.attn = nn.Linear(20 + 10, 10)
        self.v = nn.Linear(10, 1, bias=False)
        self.rnn = nn.GRU(20 + 8, 10)
        self.out = nn.Linear(10, 50)

    def forward(self, token, hidden, encoder_outputs):
        embedded = self.embedding(token.unsqueeze(0))
        query = hidden[-1].unsqueeze(0).expand(encoder_outputs.size(0), -1, -1)
        energy = torch.tanh(self.attn(torch.cat((query, encoder_outputs), dim=2)))
        attention = F.softmax(self.v(energy).squeeze(2), dim=0)
        context = (attention.unsqueeze(2) * encoder_outputs).sum(0, keepdim=True)
        output, hidden = self.rnn(torch.cat((embedded, context), dim=2), hidden)
        return {"logits": self.out(output.squeeze(0)), "hidden": hidden}


class WordLanguageModel(nn.Module):
    """PyTorch's own example: tied weights, hidden passed in and out as a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(60, 10)
        self.rnn = nn.LSTM(10, 10, 2, dropout=0.2)
        self.decoder = nn.Linear(10, 60)
        self.decoder.weight = self.encoder.weight

    def forward(self, input, hidden):  # noqa: A002
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(self.drop(output)).view(-1, 60)
        return F.log_softmax(decoded, dim=1), hidden


class BatchNormRNN(nn.Module):
    """DeepSpeech's block: batch norm over features between layers, on packed
    sequences."""

    def __init__(self, size: int, hidden: int, batch_norm: bool) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(size) if batch_norm else None
        self.rnn = nn.GRU(size, hidden, bidirectional=True, bias=True)
        self.hidden = hidden

    def flatten_parameters(self):
        self.rnn.flatten_parameters()

    def forward(self, x, output_lengths):
        if self.batch_norm is not None:
            t = x.size(0)
            n = x.size(1)
            x = self.batch_norm(x.view(t * n, -1)).view(t, n, -1)
        x = pack_padded_sequence(x, output_lengths)
        x, _ = self.rnn(x)
        x, _ = pad_packed_sequence(x)
        return x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)


class DeepSpeechLike(nn.Module):
    """Three of them, then a fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnns = nn.ModuleList(
            BatchNormRNN(9 if i == 0 else 8, 8, batch_norm=i > 0) for i in range(3)
        )
        self.fc = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6, bias=False))
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm1d):
                nn.init.normal_(norm.running_mean, std=0.1)
                nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x, lengths):
        for rnn in self.rnns:
            x = rnn(x, lengths)
        t, n, _ = x.size()
        return F.softmax(
            self.fc(x.reshape(t * n, -1)).reshape(t, n, -1).transpose(0, 1), dim=-1
        )


class ChunkedBLSTM(nn.Module):
    """A separation network's layer: overlapping frames of 20 steps where the input is
    longer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, bidirectional=True)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        batch, channels, total = x.shape
        width = 20
        stride = 10
        framed = total > width
        if framed:
            frames = math.ceil(total / stride)
            padded = F.pad(x, (0, (frames - 1) * stride + width - total))
            x = (
                padded.unfold(-1, width, stride)
                .permute(0, 2, 1, 3)
                .reshape(-1, channels, width)
            )
        x = self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        if framed:
            x = x.reshape(batch, -1, channels, width)[..., 5:-5].permute(0, 2, 1, 3)
            x = x.reshape(batch, channels, -1)[..., : total - 5]
        return x


class WaveDenoiser(nn.Module):
    """Waveform in, waveform out: strided convolutions around an LSTM, skips cut to
    fit."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.Conv1d(1, 4, 8, 4), nn.Conv1d(4, 6, 8, 4)])
        self.lstm = nn.LSTM(6, 6)
        self.decoder = nn.ModuleList(
            [nn.ConvTranspose1d(6, 4, 8, 4), nn.ConvTranspose1d(4, 1, 8, 4)]
        )

    def forward(self, mix):
        length = mix.shape[-1]
        x = mix / (1e-3 + mix.std(dim=-1, keepdim=True))
        skips = []
        for layer in self.encoder:
            x = F.relu(layer(x))
            skips.append(x)
        x = self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)
        for layer in self.decoder:
            x = layer(x + skips.pop(-1)[..., : x.shape[-1]])
        return F.pad(x, (0, length - x.shape[-1]))


def _floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _tokens(high: int, *shape: int) -> Tensor:
    tokens = torch.randint(0, high, shape, generator=torch.Generator().manual_seed(3))
    tokens.view(-1)[0] = 0
    tokens.view(-1)[-1] = high - 1
    return tokens


_PAIR = (_floats(2, 3, 10), _floats(2, 3, 10))

PEOPLE = [
    Person(
        SentimentClassifier,
        (_tokens(100, 3, 6), torch.tensor([6, 2, 4])),
        {"LSTM": 2},
        ("h_0", "c_0"),
        "reads time backwards",
    ),
    Person(
        DecoderStep,
        (_tokens(50, 3), _floats(1, 3, 10), _floats(6, 3, 20)),
        {"GRU": 1},
        ("hidden",),
    ),
    Person(
        WordLanguageModel,
        (_tokens(60, 6, 3), _PAIR),
        {"LSTM": 2},
        ("hidden_0", "hidden_1"),
        "rows and steps on one axis",
    ),
    Person(
        DeepSpeechLike,
        (_floats(6, 3, 9), torch.tensor([6, 4, 2])),
        {"GRU": 3},
        ("rnns.0.rnn.h_0", "rnns.1.rnn.h_0", "rnns.2.rnn.h_0"),
        "reads time backwards",
    ),
    Person(
        ChunkedBLSTM,
        _floats(3, 4, 50),
        {"LSTM": 1},
        (),
        "takes 20 steps per call",
        notes="no states are carried",
        config=ExportConfig(inputs={"x": ("N", 4, "T")}),
        ranges={"T": "21.."},
    ),
    Person(
        ChunkedBLSTM,
        _floats(3, 4, 13),
        {"LSTM": 1},
        ("h_0", "c_0"),
        "reads time backwards",
        ranges={"L": "1..20"},
    ),
    Person(
        WaveDenoiser,
        _floats(3, 1, 200),
        {"LSTM": 1},
        ("h_0", "c_0"),
        "reads all time",
        ranges={"L": "36.."},
    ),
]
