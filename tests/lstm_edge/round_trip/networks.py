"""Networks as users write them, each made by a function without arguments."""

from collections import namedtuple
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WIDTH = 4
HIDDEN = 6


class Result(NamedTuple):
    """The result of a network that names it."""

    scores: torch.Tensor
    hidden: torch.Tensor


Plain = namedtuple("Plain", ["scores", "memory"])  # noqa: PYI024  # as users write it


class Tagger(nn.Module):
    """A GRU with a linear layer at every step; gives the results alone."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


class Returns(Tagger):
    def forward(self, x):
        y, hidden = self.rnn(x)
        return self.out(y), hidden


class StateFirst(Tagger):
    def forward(self, x):
        y, hidden = self.rnn(x)
        return hidden, self.out(y)


class StateOnly(Tagger):
    def forward(self, x):
        return self.rnn(x)[1]


class Takes(Tagger):
    def forward(self, x, hidden=None):
        y, hidden = self.rnn(x, hidden)
        return self.out(y), hidden


class Keyed(Tagger):
    def forward(self, x):
        y, hidden = self.rnn(x)
        return {"scores": self.out(y), "state": hidden}


class Named(Tagger):
    def forward(self, x):
        y, hidden = self.rnn(x)
        return Result(self.out(y), hidden)


class NamedTuple2(Tagger):
    def forward(self, x):
        y, hidden = self.rnn(x)
        return Plain(self.out(y), hidden)


class Nested(Tagger):
    def forward(self, x):
        y, hidden = self.rnn(x)
        return self.out(y), [hidden]


class Last(Tagger):
    """A classifier of the last step."""

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.out(y[:, -1])


class Classifier(nn.Module):
    """The last hidden state of two layers, as PyTorch's tutorials write it."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, HIDDEN, 2, batch_first=True)
        self.out = nn.Linear(HIDDEN, 3)

    def forward(self, x):
        _, (hidden, _) = self.lstm(x)
        return self.out(hidden[-1])


class Pair(Classifier):
    """An LSTM that takes and returns the tuple of its states."""

    def forward(self, x, state=None):
        y, state = self.lstm(x, state)
        return self.out(y), state


class Separate(Classifier):
    """An LSTM that takes and returns its states one by one."""

    def forward(self, x, h_0, c_0):
        y, (h_n, c_n) = self.lstm(x, (h_0, c_0))
        return self.out(y), h_n, c_n


class Zeros(Classifier):
    """Initial states made in ``forward``, as in many tutorials."""

    def forward(self, x):
        h_0 = torch.zeros(2, x.size(0), HIDDEN)
        c_0 = torch.zeros(2, x.size(0), HIDDEN)
        y, (h_n, c_n) = self.lstm(x, (h_0, c_0))
        return self.out(y), (h_n, c_n)


class Learned(Tagger):
    """A learned initial state."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, HIDDEN))

    def forward(self, x):
        start = self.start.expand(1, x.size(0), HIDDEN).contiguous()
        y, hidden = self.rnn(x, start)
        return self.out(y), hidden


class Packed(Tagger):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        y, _ = self.rnn(packed)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.size(1))
        return self.out(y)


class PackedState(Tagger):
    """The last state of packed sequences."""

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        _, hidden = self.rnn(packed)
        return self.out(hidden[-1]), hidden


class Stacked(nn.Module):
    """Two recurrent layers of different kinds."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.second = nn.GRU(HIDDEN, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        y, first = self.first(x)
        y, second = self.second(y)
        return self.out(y), first, second


class Causal(Tagger):
    """A causal convolution and a norm around a GRU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3)
        self.norm = nn.RMSNorm(HIDDEN)

    def forward(self, x):
        padded = nn.functional.pad(x.transpose(1, 2), (2, 0))
        y = torch.relu(self.conv(padded)).transpose(1, 2)
        return self.out(self.norm(self.rnn(y)[0]))


class Tokens(nn.Module):
    """Words to tags."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, WIDTH)
        self.rnn = nn.LSTM(WIDTH, HIDDEN, 2, batch_first=True)
        self.out = nn.Linear(HIDDEN, 3)

    def forward(self, tokens):
        y, state = self.rnn(self.words(tokens))
        return self.out(y), state


class TimeFirst(nn.Module):
    """Time first, as nn.LSTM has it by default."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(WIDTH, HIDDEN, nonlinearity="relu")

    def forward(self, x):
        y, hidden = self.rnn(x)
        return torch.sigmoid(y), hidden


class Step(nn.Module):
    """A step of a cell, its state an argument."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(WIDTH, HIDDEN)
        self.out = nn.Linear(HIDDEN, 2)

    def forward(self, x, h, c):
        h, c = self.cell(x, (h, c))
        return self.out(h), h, c


class Wide(nn.Module):
    """Large enough that int8 is worth its overhead."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, 64, batch_first=True)
        self.out = nn.Linear(64, 2)

    def forward(self, x):
        y, state = self.rnn(x)
        return self.out(y), state


def seeded(build):
    torch.manual_seed(0)
    return build().eval()


LAYER = {"batch_first": True}


class LoopAsLayer(Tagger):
    """A loop that becomes a layer."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTMCell(WIDTH, HIDDEN)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HIDDEN)
        c = x.new_zeros(x.size(0), HIDDEN)
        outs = []
        for t in range(x.size(1)):
            h, c = self.rnn(x[:, t], (h, c))
            outs.append(self.out(h))
        return torch.stack(outs, 1)


class LoopOfItsOwn(nn.Module):
    """An LSTM with layer norm, which stays a loop."""

    def __init__(self, width=HIDDEN):
        super().__init__()
        self.width = width
        self.gates = nn.Linear(WIDTH + width, 4 * width)
        self.norm = nn.LayerNorm(4 * width)
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        h = x.new_zeros(x.size(0), self.width)
        c = x.new_zeros(x.size(0), self.width)
        outs = []
        for x_t in x.unbind(1):
            gates = self.norm(self.gates(torch.cat([x_t, h], 1)))
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outs.append(h)
        return self.out(torch.stack(outs, 1))


class LoopThatCounts(Tagger):
    """A running mean, which reads the number of the step."""

    def forward(self, x):
        mean = torch.zeros_like(x[:, 0])
        outs = []
        for t in range(x.size(1)):
            mean = mean + (x[:, t] - mean) / (t + 1)
            outs.append(mean)
        return self.out(self.rnn(torch.stack(outs, 1))[0])


NETWORKS = {
    "lstm": lambda: nn.LSTM(WIDTH, HIDDEN, **LAYER),
    "gru": lambda: nn.GRU(WIDTH, HIDDEN, **LAYER),
    "rnn": lambda: nn.RNN(WIDTH, HIDDEN, **LAYER),
    "deep": lambda: nn.LSTM(WIDTH, HIDDEN, 3, **LAYER),
    "projected": lambda: nn.LSTM(WIDTH, HIDDEN, proj_size=3, **LAYER),
    "both": lambda: nn.GRU(WIDTH, HIDDEN, bidirectional=True, **LAYER),
    "bare": lambda: nn.GRU(WIDTH, HIDDEN, bias=False, **LAYER),
    "first": lambda: nn.LSTM(WIDTH, HIDDEN),
    "lstm_cell": lambda: nn.LSTMCell(WIDTH, HIDDEN),
    "gru_cell": lambda: nn.GRUCell(WIDTH, HIDDEN),
    "rnn_cell": lambda: nn.RNNCell(WIDTH, HIDDEN),
    "tagger": Tagger,
    "returns": Returns,
    "state_first": StateFirst,
    "state_only": StateOnly,
    "takes": Takes,
    "keyed": Keyed,
    "named": Named,
    "named_tuple": NamedTuple2,
    "nested": Nested,
    "last": Last,
    "classifier": Classifier,
    "pair": Pair,
    "separate": Separate,
    "zeros": Zeros,
    "learned": Learned,
    "packed": Packed,
    "packed_state": PackedState,
    "stacked": Stacked,
    "causal": Causal,
    "tokens": Tokens,
    "time_first": TimeFirst,
    "step": Step,
    "wide": Wide,
    "loop_as_layer": LoopAsLayer,
    "loop_of_its_own": LoopOfItsOwn,
    "loop_that_counts": LoopThatCounts,
    "wide_loop": lambda: LoopOfItsOwn(64),
}


def __getattr__(name):
    """Return the factory called ``name``, as ``networks:name`` names it."""
    if name in NETWORKS:
        return lambda: seeded(NETWORKS[name])
    raise AttributeError(name)
