"""Networks that stream, and the delay, unit and states that are expected of their
streams."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 4


class Causal(nn.Module):
    """Padded in front, with dilations and skip connections."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(WIDTH, 6, 1)
        self.leave = nn.Linear(6, 3)
        self.layers = nn.ModuleList(
            nn.Conv1d(6, 6, 3, dilation=2**level) for level in range(3)
        )

    def forward(self, x):
        y = self.enter(x.transpose(1, 2))
        for level, layer in enumerate(self.layers):
            y = y + torch.relu(layer(F.pad(y, (2 * 2**level, 0))))
        return self.leave(y.transpose(1, 2))


class Chomp(nn.Module):
    """Padded on both sides and cut at the end, as in the code of the TCN paper; then a
    GRU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 5, 3, padding=4, dilation=2)
        self.gru = nn.GRU(5, 7, batch_first=True)

    def forward(self, x):
        return self.gru(
            torch.relu(self.conv(x.transpose(1, 2))[:, :, :-4]).transpose(1, 2)
        )[0]


class WaveNet(nn.Module):
    """Gated units, of which two read one past."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(WIDTH, 6, 1)
        self.leave = nn.Conv1d(6, 3, 1)
        self.filters = nn.ModuleList(
            nn.Conv1d(6, 6, 2, dilation=2**level) for level in range(3)
        )
        self.gates = nn.ModuleList(
            nn.Conv1d(6, 6, 2, dilation=2**level) for level in range(3)
        )

    def forward(self, x):
        y = self.enter(x.transpose(1, 2))
        total = 0
        for level, (layer, gate) in enumerate(
            zip(self.filters, self.gates, strict=True)
        ):
            padded = F.pad(y, (2**level, 0))
            z = torch.tanh(layer(padded)) * torch.sigmoid(gate(padded))
            y = y + z
            total = total + z
        return self.leave(torch.relu(total)).transpose(1, 2)


class Mono(nn.Module):
    """A convolution of one channel, which could be the last or the first in memory, and
    a running sum."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 1)

    def forward(self, x):
        return (
            self.conv(x.mean(2, keepdim=True).transpose(1, 2)).transpose(1, 2).cumsum(1)
        )


class Shifts(nn.Module):
    """The step before, in two ways, and a difference."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2 * WIDTH, 5, batch_first=True)

    def forward(self, x):
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return self.gru(torch.cat([before, x - F.pad(x, (0, 0, 2, 0))[:, :-2]], -1))[0]


class Sums(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


class CumulativeNorm(nn.Module):
    """Conv-TasNet's norm over all that has been: two sums and a count of steps."""

    def forward(self, x):
        count = torch.arange(1, x.size(1) + 1)[:, None] * x.size(2)
        mean = x.sum(2, keepdim=True).cumsum(1) / count
        square = (x * x).sum(2, keepdim=True).cumsum(1) / count
        return (x - mean) / torch.sqrt(square - mean * mean + 1e-3)


class PerFrame(nn.Module):
    """A network of one frame, with frames as rows of its batch, then a convolution over
    time."""

    def __init__(self):
        super().__init__()
        self.frame = nn.Conv1d(1, 3, 3, padding=1)
        self.time = nn.Conv1d(3 * WIDTH, 5, 3)

    def forward(self, x):
        rows, steps, width = x.shape
        y = self.frame(x.reshape(rows * steps, 1, width)).reshape(rows, steps, -1)
        return self.time(F.pad(y.transpose(1, 2), (2, 0))).transpose(1, 2)


class SameWearable(nn.Module):
    """Convolutions padded on both sides, a skip connection, an LSTM, the result of the
    last step."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(WIDTH, 8, 5, padding=2)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Conv1d(8, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def frames(self, x):
        y = torch.relu(self.norm(self.first(x.transpose(1, 2))))
        y = y + torch.relu(self.second(y))
        return self.head(self.lstm(y.transpose(1, 2))[0])

    def forward(self, x):
        return self.frames(x)[:, -1]


class Frames(SameWearable):
    def forward(self, x):
        return self.frames(x)


class Hidden(SameWearable):
    """The last hidden and cell states, which are states too."""

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x.transpose(1, 2)))).transpose(1, 2)
        _, (hidden, cell) = self.lstm(y)
        return self.head(hidden[-1] + cell[-1])


class DeepConvLSTM(nn.Module):
    """Convolutions over time without padding, frames flattened, two layers of LSTM, the
    last step."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, (5, 1))
        self.second = nn.Conv2d(3, 3, (5, 1))
        self.lstm = nn.LSTM(3 * WIDTH, 6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x.unsqueeze(1))))).permute(
            0, 2, 1, 3
        )
        return self.head(self.lstm(y.reshape(y.size(0), y.size(1), -1))[0][:, -1])


class TwoDelays(nn.Module):
    """An LSTM at one delay, a GRU behind it at another."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(WIDTH, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.second = nn.Conv1d(6, 5, 3, padding=1)
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x):
        y = self.lstm(self.first(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.gru(self.second(y.transpose(1, 2)).transpose(1, 2))[0]


class Dilated(nn.Module):
    """A temporal convolutional network that looks both ways."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(WIDTH, 6, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(6, 6, 3, dilation=2**n, padding=2**n) for n in range(3)
        )

    def forward(self, x):
        y = self.enter(x.transpose(1, 2))
        for layer in self.layers:
            y = y + torch.relu(layer(y))
        return y.transpose(1, 2)


class SameCumulativeNorm(CumulativeNorm):
    """The norm behind a convolution that looks ahead."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 3, 3, padding=1)

    def forward(self, x):
        return super().forward(self.conv(x.transpose(1, 2)).transpose(1, 2))


class Ahead(nn.Module):
    """Two steps later, less this one."""

    def forward(self, x):
        return torch.cat([x[:, 2:], torch.zeros_like(x[:, :2])], 1) - x


class FullPadding(nn.Module):
    """As much padding as the kernel reaches, on both sides: two frames more than
    steps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 5, 3, padding=2)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class LastSteps(nn.Module):
    """A head on the last five frames, and their mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 3, 3)
        self.head = nn.Linear(15, 4)

    def forward(self, x):
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)[:, -5:]
        return self.head(y.flatten(1)) + y.mean((1, 2))[:, None]


class Front(nn.Module):
    """The usual convolutions in front of an LSTM at an eighth of the rate, and a
    head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(WIDTH, 8, 4, 2, padding=1)
        self.second = nn.Conv1d(8, 8, 5, 4, padding=2)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x.transpose(1, 2)))))
        return self.head(self.lstm(y.transpose(1, 2))[0])


class Last(Front):
    def forward(self, x):
        return super().forward(x)[:, -1]


class Branches(nn.Module):
    """Two strided branches of unlike delay that meet."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 6, 3, padding=1)
        self.near = nn.Conv1d(6, 5, 4, 4)
        self.far = nn.Conv1d(6, 5, 12, 4, padding=4)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2))
        return (torch.tanh(self.near(y)) + torch.tanh(self.far(y))).transpose(1, 2)


class TwoRates(nn.Module):
    """An LSTM at half the rate behind a delay, and a convolution of less taps than its
    stride."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(WIDTH, 6, 5, 2, padding=2)
        self.second = nn.Conv1d(5, 3, 2, 4, padding=1)
        self.lstm = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        y = self.lstm(self.first(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.second(y.transpose(1, 2)).transpose(1, 2), y


class Mean(nn.Module):
    """What a frame is above the mean of all frames so far."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 3, 5, 4, padding=2)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return y - y.cumsum(1) / torch.arange(1, y.size(1) + 1)[:, None]


class UNet(nn.Module):
    """Strided and transposed convolutions with skips, an LSTM in the middle, one frame
    a sample again."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv1d(WIDTH, 6, 4, 2, padding=1)
        self.deep = nn.Conv1d(6, 6, 4, 2, padding=1)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.up, self.last = (
            nn.ConvTranspose1d(6, size, 4, 2, padding=1) for size in (6, WIDTH)
        )

    def forward(self, x):
        x = x.transpose(1, 2)
        y = torch.relu(self.down(x))
        z = torch.relu(self.deep(y))
        z = z + self.lstm(z.transpose(1, 2))[0].transpose(1, 2)
        return (x + self.last(y + torch.relu(self.up(z)))).transpose(1, 2)


class Gaps(nn.Module):
    """A transposed convolution of less taps than its stride, behind zeros in front."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Conv1d(WIDTH, 8, 6, 3)
        self.decode = nn.ConvTranspose1d(8, 2, 2, 3, output_padding=1)

    def forward(self, x):
        return torch.tanh(
            self.decode(F.pad(self.encode(x.transpose(1, 2)), (2, 0)))
        ).transpose(1, 2)


class Every(nn.Module):
    """Every third frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x.transpose(1, 2))[:, :, 1::3].transpose(1, 2)


class Decoder(nn.Module):
    """A transposed convolution that a convolution reads without anything between
    them."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(WIDTH, 3, 4, 2)
        self.last = nn.Conv1d(3, 2, 3)

    def forward(self, x):
        return self.last(self.up(x.transpose(1, 2))).transpose(1, 2)


class Nearest(nn.Module):
    """Frames repeated up to the rate of the samples."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(WIDTH, 6, 4, 4)
        self.second = nn.Conv1d(6, WIDTH, 3, padding=1)

    def forward(self, x):
        y = F.interpolate(
            self.second(self.first(x.transpose(1, 2))), scale_factor=4, mode="nearest"
        )
        return y.transpose(1, 2)


class Reframed(nn.Module):
    """Frames of 12 samples behind a delay, as a vector."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 2, 3, padding=1)
        self.gru = nn.GRU(24, 5, batch_first=True)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.gru(y.reshape(y.size(0), -1, 24))[0]


class Spectra(nn.Module):
    """A spectrum of 16 samples every 8, and a GRU."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(18, 5, batch_first=True)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x):
        z = torch.stft(
            x[:, :, 0], 16, 8, window=self.window, center=False, return_complex=True
        )
        return self.gru(torch.view_as_real(z).permute(0, 2, 1, 3).flatten(2))[0]


class Normalized(nn.Module):
    """Scaled by what has been so far, then an LSTM; and the number of the step beside
    it."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 5, batch_first=True)

    def forward(self, x):
        count = torch.arange(1, x.size(1) + 1)[:, None]
        phase = torch.sin(
            torch.arange(x.size(1))[:, None] * torch.tensor([0.25, 0.5, 0.75, 1.0])
        )
        return self.lstm(x / (x.abs().cumsum(1) / count + 1) * phase)[0]


class Given(nn.Module):
    """A GRU behind a convolution that looks ahead, its state an argument."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 5, 3, padding=1)
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x, h_0=None):
        return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2), h_0)


class MinGRU(nn.Module):
    """A gated recurrence as sums of logarithms (Feng et al. 2024, appendix B)."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(WIDTH, 10)

    def forward(self, x):
        candidate, gate = self.line(x).chunk(2, -1)
        positive = (F.relu(candidate) + 0.5).log()
        log_candidate = torch.where(candidate >= 0, positive, -F.softplus(-candidate))
        log_keep = -F.softplus(gate).cumsum(1)
        log_values = log_candidate - F.softplus(-gate)
        return (log_keep + (log_values - log_keep).logcumsumexp(1)).exp()


class Network(NamedTuple):
    """What is expected of a network's stream."""

    unit: int
    delay: int
    """Of the first output, in frames (units without a time axis)."""
    states: str
    """How many of each kind: ``h c past count``."""
    quick: bool = False


NETWORKS = {
    Causal: Network(1, 0, "past past past"),
    Chomp: Network(1, 0, "h past"),
    WaveNet: Network(1, 0, "past past past"),
    Mono: Network(1, 0, "total"),
    Shifts: Network(1, 0, "h past past"),
    Sums: Network(1, 0, "total"),
    CumulativeNorm: Network(1, 0, "total count total", quick=True),
    Normalized: Network(1, 0, "h c total count"),
    PerFrame: Network(1, 0, "past"),
    SameWearable: Network(1, 3, "h c past count past past", quick=True),
    Frames: Network(1, 3, "h c past count past past"),
    Hidden: Network(1, 2, "h c past count"),
    DeepConvLSTM: Network(1, 8, "h c past past count"),
    TwoDelays: Network(1, 2, "h c h past count past", quick=True),
    Dilated: Network(1, 7, "past past count past past past past"),
    SameCumulativeNorm: Network(1, 1, "past count total total"),
    Ahead: Network(1, 2, "past"),
    FullPadding: Network(1, 0, "past"),
    LastSteps: Network(1, 6, "past past"),
    Front: Network(8, 0, "h c past count past"),
    Last: Network(8, 0, "h c past count past"),
    Branches: Network(4, 2, "past past count past past"),
    TwoRates: Network(8, 0, "h c past count", quick=True),
    Mean: Network(4, 0, "past total count"),
    UNet: Network(
        4, 7, "h c past count past count overlap past overlap past", quick=True
    ),
    Gaps: Network(3, 0, "past count past"),
    Every: Network(3, 0, "past"),
    Decoder: Network(1, 2, "overlap past", quick=True),
    Nearest: Network(4, 4, "past"),
    Reframed: Network(12, 1, "h past past count"),
    Spectra: Network(8, 1, "h past count"),
    MinGRU: Network(1, 0, "log_sum total"),
}
WHOLE_UNITS = (UNet, Nearest, Reframed)
"""Networks that take a multiple of their unit alone."""
