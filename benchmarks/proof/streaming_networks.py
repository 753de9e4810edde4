"""Networks that look along time, of the kinds that people train for sensors and audio; all of them stream.

Each takes ``x (N, L, width)``. They are small: what counts is how their layers look along time.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["NETWORKS", "Network"]

FEATURES = 4
"""Of sensors; raw audio has 1."""


class Network(NamedTuple):
    """A kind of network."""

    make: Callable[[], nn.Module]
    width: int
    """Features of a step."""


class CausalTcn(nn.Module):
    """Dilated convolutions padded in front, with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(FEATURES, 6, 1), nn.Linear(6, 3)
        self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, dilation=2**level) for level in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x.transpose(1, 2))
        for level, layer in enumerate(self.layers):
            y = y + torch.relu(layer(F.pad(y, (2 * 2**level, 0))))
        return self.leave(y.transpose(1, 2))


class ChompGru(nn.Module):
    """Padded on both sides and cut at the end, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(FEATURES, 5, 3, padding=4, dilation=2), nn.GRU(5, 7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(torch.relu(self.conv(x.transpose(1, 2))[:, :, :-4]).transpose(1, 2))[0]


class CnnLstm(nn.Module):
    """Convolutions padded to the same length, batch norm, a skip connection, an LSTM behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(FEATURES, 8, 5, padding="same"), nn.BatchNorm1d(8)
        self.second, self.lstm = nn.Conv1d(8, 8, 3, padding=1), nn.LSTM(8, 9, batch_first=True)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(x.transpose(1, 2))))
        return self.head(self.lstm((y + torch.relu(self.second(y))).transpose(1, 2))[0])


class PooledLstms(nn.Module):
    """A maximum of two frames, and LSTMs at two delays."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lower = nn.Conv1d(FEATURES, 8, 3, padding=1), nn.LSTM(8, 9, batch_first=True)
        self.second, self.upper = nn.Conv1d(9, 6, 3, padding=1), nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool1d(torch.relu(self.first(x.transpose(1, 2))), 2)
        y = self.lower(y.transpose(1, 2))[0]
        return self.upper(self.second(y.transpose(1, 2)).transpose(1, 2))[0]


class Denoiser(nn.Module):
    """A strided convolution of raw samples, a GRU that gates its frames, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv1d(1, 8, 8, 4), nn.ConvTranspose1d(8, 1, 8, 4)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(F.pad(x.transpose(1, 2), (4, 0)))
        return self.decode(self.gru(z.transpose(1, 2))[0].transpose(1, 2) * torch.sigmoid(z)).transpose(1, 2)


class Crnn(nn.Module):
    """2-d convolutions over time and frequency with strides over both, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, (1, 2), 1), nn.Conv2d(4, 4, 3, (2, 2), 1)
        self.gru = nn.GRU(16, 10, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.second(torch.relu(self.first(x.unsqueeze(1)))))
        return self.gru(y.permute(0, 2, 1, 3).flatten(2))[0]


class WaveNet(nn.Module):
    """Gated causal convolutions with residual and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(1, 6, 1), nn.Conv1d(6, 3, 1)
        self.gates = nn.ModuleList(nn.Conv1d(6, 12, 2, dilation=2**level) for level in range(5))
        self.residuals = nn.ModuleList(nn.Conv1d(6, 12, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        y, total = self.enter(x.transpose(1, 2)), torch.zeros(())
        for level, (gate, residual) in enumerate(zip(self.gates, self.residuals, strict=True)):
            filtered, opened = gate(F.pad(y, (2**level, 0))).chunk(2, 1)
            more, skip = residual(torch.tanh(filtered) * torch.sigmoid(opened)).chunk(2, 1)
            y, total = y + more, total + skip
        return self.leave(torch.relu(total)).transpose(1, 2)


class CumulativeNorm(nn.Module):
    """Conv-TasNet's norm over all channels and all that has been."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = (nn.Parameter(torch.rand(channels, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.size(2) + 1) * x.size(1)
        mean = x.sum(1, keepdim=True).cumsum(2) / count
        square = (x * x).sum(1, keepdim=True).cumsum(2) / count
        return self.gain * (x - mean) / torch.sqrt(square - mean * mean + 1e-3) + self.bias


class ConvTasNet(nn.Module):
    """An encoder, depthwise separable convolutions with cumulative norms, masks, a decoder; causal."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = (
            nn.Conv1d(1, 8, 8, 4, bias=False),
            nn.ConvTranspose1d(8, 1, 8, 4, bias=False),
        )
        self.norm, self.enter, self.mask = CumulativeNorm(8), nn.Conv1d(8, 6, 1), nn.Conv1d(6, 16, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(6, 10, 1),
                nn.PReLU(),
                CumulativeNorm(10),
                nn.ConstantPad1d((2 * 2**level, 0), 0.0),
                nn.Conv1d(10, 10, 3, dilation=2**level, groups=10),
                nn.PReLU(),
                CumulativeNorm(10),
                nn.Conv1d(10, 6, 1),
            )
            for level in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.encode(F.pad(x.transpose(1, 2), (4, 0))))
        y = self.enter(self.norm(z))
        for block in self.blocks:
            y = y + block(y)
        first, second = (self.decode(z * mask) for mask in torch.sigmoid(self.mask(y)).chunk(2, 1))
        return torch.cat([first, second], 1).transpose(1, 2)


class UNetLstm(nn.Module):
    """Strided and transposed convolutions with skips, an LSTM in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv1d(1, 6, 4, 2, padding=1), nn.Conv1d(6, 6, 4, 2, padding=1)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.up, self.last = (nn.ConvTranspose1d(6, size, 4, 2, padding=1) for size in (6, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        y = torch.relu(self.down(x))
        z = torch.relu(self.deep(y))
        z = z + self.lstm(z.transpose(1, 2))[0].transpose(1, 2)
        return (x + self.last(y + torch.relu(self.up(z)))).transpose(1, 2)


class Demucs(nn.Module):
    """An encoder and a decoder with gated linear units and skips, an LSTM between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_gate = nn.Conv1d(1, 4, 8, 4, padding=2), nn.Conv1d(4, 8, 1)
        self.second, self.second_gate = nn.Conv1d(4, 8, 8, 2, padding=3), nn.Conv1d(8, 16, 1)
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)
        self.up_gate, self.up = nn.Conv1d(8, 16, 3, padding=1), nn.ConvTranspose1d(8, 4, 8, 2, padding=3)
        self.out_gate, self.out = nn.Conv1d(4, 8, 3, padding=1), nn.ConvTranspose1d(4, 1, 8, 4, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        y = F.glu(self.first_gate(torch.relu(self.first(x))), 1)
        z = F.glu(self.second_gate(torch.relu(self.second(y))), 1)
        up = self.lstm(z.transpose(1, 2))[0].transpose(1, 2)
        up = torch.relu(self.up(F.glu(self.up_gate(up + z), 1)))
        return (x - self.out(F.glu(self.out_gate(up + y), 1))).transpose(1, 2)


class WeightNormTcn(nn.Module):
    """The TCN paper's blocks: two convolutions with weight norm, cut at the end, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((FEATURES, 6, 1), (6, 6, 2), (6, 6, 4))
        self.first = nn.ModuleList(
            weight_norm(nn.Conv1d(i, o, 3, padding=2 * d, dilation=d)) for i, o, d in sizes
        )
        self.second = nn.ModuleList(
            weight_norm(nn.Conv1d(o, o, 3, padding=2 * d, dilation=d)) for _, o, d in sizes
        )
        self.residuals = nn.ModuleList(nn.Conv1d(i, o, 1) if i != o else nn.Identity() for i, o, _ in sizes)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        for first, second, residual in zip(self.first, self.second, self.residuals, strict=True):
            cut = first.padding[0]
            z = torch.relu(second(torch.relu(first(y)[:, :, :-cut]))[:, :, :-cut])
            y = torch.relu(z + residual(y))
        return y.transpose(1, 2)


class DeepConvLstm(nn.Module):
    """Convolutions over time without padding, frames flattened, two layers of LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, (5, 1)), nn.Conv2d(3, 3, (5, 1))
        self.lstm, self.head = nn.LSTM(3 * FEATURES, 6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.second(torch.relu(self.first(x.unsqueeze(1))))).permute(0, 2, 1, 3)
        return self.head(self.lstm(y.flatten(2))[0])


class StftGru(nn.Module):
    """Log magnitudes of a spectrum every 8 samples, and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(9, 5, batch_first=True)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stft(x[:, :, 0], 16, 8, window=self.window, center=False, return_complex=True)
        return self.gru(torch.log1p(z.abs()).transpose(1, 2))[0]


class StftMask(nn.Module):
    """STFT, a GRU that masks it, iSTFT: speech enhancement."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.mask = nn.GRU(9, 8, batch_first=True), nn.Linear(8, 9)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x[:, :, 0], (8, 8))
        z = torch.stft(padded, 16, 4, window=self.window, center=False, return_complex=True)
        mask = torch.sigmoid(self.mask(self.gru(torch.log1p(z.abs()).transpose(1, 2))[0]))
        return torch.istft(z * mask.transpose(1, 2), 16, 4, window=self.window)


class Gtcrn(nn.Module):
    """Like GTCRN: convolutions over time and frequency, a GRU and a complex mask on spectra.

    The spectrum and its inverse are matrices over a convolution and a transposed one, complex numbers pairs.
    """

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(9.0)[:, None] * torch.arange(16.0) * (math.pi / 8)
        waves = torch.cat([torch.cos(angle), -torch.sin(angle)])
        window = torch.hann_window(16).sqrt()
        self.register_buffer("analysis", (waves * window)[:, None])
        self.register_buffer("synthesis", (torch.linalg.pinv(waves).T * window)[:, None])
        self.enter = nn.Conv2d(2, 4, (1, 3), (1, 2), padding=(0, 1))
        self.depthwise = nn.Conv2d(4, 4, 3, padding=(0, 1), dilation=(2, 1), groups=4)
        self.norm, self.act = nn.BatchNorm2d(4), nn.PReLU()
        self.gru, self.project = nn.GRU(20, 10, batch_first=True), nn.Linear(10, 20)
        self.leave = nn.ConvTranspose2d(4, 2, (1, 3), (1, 2), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = F.conv1d(F.pad(x.transpose(1, 2), (8, 0)), self.analysis, stride=8)
        z = z.unflatten(1, (2, 9)).transpose(2, 3)
        y = self.act(self.norm(self.enter(z)))
        y = y + self.depthwise(F.pad(y, (0, 0, 4, 0)))
        found = self.project(self.gru(y.permute(0, 2, 1, 3).flatten(2))[0])
        y = y + found.unflatten(2, (4, 5)).transpose(1, 2)
        mask = torch.tanh(self.leave(y))
        real = z[:, 0] * mask[:, 0] - z[:, 1] * mask[:, 1]
        imaginary = z[:, 0] * mask[:, 1] + z[:, 1] * mask[:, 0]
        both = torch.cat([real, imaginary], 2).transpose(1, 2)
        return F.conv_transpose1d(both, self.synthesis, stride=8).transpose(1, 2)


class WakeWord(nn.Module):
    """Logarithms of mel bands, 2-d convolutions over time and frequency, a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        bands = torch.linspace(0, 16, 10)
        edges = torch.minimum(
            (torch.arange(17.0)[:, None] - bands[:-2]) / bands.diff()[:-1],
            (bands[2:] - torch.arange(17.0)[:, None]) / bands.diff()[1:],
        )
        self.register_buffer("mel", edges.clamp(min=0))
        self.conv, self.gru = nn.Conv2d(1, 4, 3, (2, 2), padding=1), nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def bands(self, x: Tensor) -> Tensor:
        z = torch.stft(x[:, :, 0], 32, 8, window=self.window, center=False, return_complex=True)
        return torch.log(z.abs().square().transpose(1, 2) @ self.mel + 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(self.bands(x)[:, None]))
        return self.head(self.gru(y.permute(0, 2, 1, 3).flatten(2))[0])


class Mfcc(WakeWord):
    """Cepstral coefficients and their differences, and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        cosines = torch.cos(math.pi / 8 * (torch.arange(8.0)[:, None] + 0.5) * torch.arange(5.0))
        self.register_buffer("cosines", cosines)
        self.lstm = nn.LSTM(10, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bands(x) @ self.cosines
        return self.head(self.lstm(torch.cat([y, y - F.pad(y, (0, 0, 1, 0))[:, :-1]], -1))[0])


class OverlapAdd(nn.Module):
    """Frames of 16 samples every 8 by ``unfold``, an LSTM, added up again by ``fold``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x: Tensor) -> Tensor:
        frames = x[:, :, 0].unfold(1, 16, 8)
        y = self.lstm(frames)[0] * self.window
        size = 8 * frames.size(1) + 8
        return F.fold(y.transpose(1, 2), (1, size), (1, 16), stride=(1, 8))[:, 0].transpose(1, 2)


class LocalAttention(nn.Module):
    """Attention of every step over itself and the seven before."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.leave = nn.Linear(FEATURES, 18), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).chunk(3, -1)
        key, value = (F.pad(each, (0, 0, 7, 0)).unfold(1, 8, 1) for each in (key, value))
        weights = torch.softmax(query.unsqueeze(2) @ key / math.sqrt(6), -1)
        return self.leave((weights @ value.transpose(2, 3)).squeeze(2))


class LearnedPositions(nn.Module):
    """An embedding of the position, up to 2,000, at half the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv1d(FEATURES, 6, 5, 2, padding=2), nn.Embedding(2000, 6)
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.gru(y + self.table(torch.arange(y.size(1))))[0]


class SinePositions(nn.Module):
    """Sines and cosines of the position, from a table of 5,000."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(5000.0)[:, None] * torch.tensor([1.0, 0.01])
        self.register_buffer("table", torch.cat([torch.sin(angles), torch.cos(angles)], 1)[None])
        self.lstm = nn.LSTM(FEATURES, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x + self.table[:, : x.size(1)])[0]


class StepCounter(nn.Module):
    """A phase that is computed from the number of steps, beside the data."""

    def forward(self, x: Tensor) -> Tensor:
        phase = torch.arange(x.size(1))[:, None] * torch.tensor([0.25, 0.125])
        return torch.cat([x[..., :2] * torch.sin(phase), x[..., 2:] * torch.cos(phase)], -1)


class Qrnn(nn.Module):
    """A quasi-recurrent network: gates from a convolution over two steps, pooled in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(FEATURES, 18, 2)

    def forward(self, x: Tensor) -> Tensor:
        found, kept, out = self.conv(F.pad(x.transpose(1, 2), (1, 0))).chunk(3, 1)
        decay = F.logsigmoid(kept + 4).cumsum(2)
        fresh = torch.tanh(found) * torch.sigmoid(-kept - 4)
        return (torch.sigmoid(out) * decay.exp() * (fresh * (-decay).exp()).cumsum(2)).transpose(1, 2)


class MovingAverage(nn.Module):
    """The mean of the last 8 samples, and what is above it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        mean = F.avg_pool1d(F.pad(y, (7, 0)), 8, 1)
        return torch.cat([mean, y - mean], 1).transpose(1, 2)


class LastSteps(nn.Module):
    """A head on the last five frames, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(FEATURES, 3, 3), nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)[:, -5:]
        return self.head(y.flatten(1)) + y.mean((1, 2))[:, None]


class RunningScale(nn.Module):
    """Features by the mean and the deviation of all that has been, then an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.size(1) + 1)[:, None]
        mean = x.cumsum(1) / count
        spread = torch.sqrt((x * x).cumsum(1) / count - mean * mean + 0.5)
        return self.lstm((x - mean) / spread)[0]


class Deltas(nn.Module):
    """Features, their differences, and the differences of these."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3 * FEATURES, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        first = x - F.pad(x, (0, 0, 1, 0))[:, :-1]
        second = first - torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], 1)
        return self.gru(torch.cat([x, first, second], -1))[0]


class DsCnn(nn.Module):
    """Depthwise separable 2-d convolutions, as on a microcontroller; one result every 4 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(1, 6, (5, 2), 2, padding=(2, 0)), nn.Linear(6, 3)
        self.blocks = nn.Sequential(
            *(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1)),
            *(nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.blocks(torch.relu(self.enter(x.unsqueeze(1)))))
        return self.head(y.mean(3).transpose(1, 2))


class RnNoise(nn.Module):
    """Two causal convolutions and three GRUs that read one another, gains of bands."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(FEATURES, 8, 3), nn.Conv1d(8, 8, 3)
        self.grus = nn.ModuleList(nn.GRU(8, 8, batch_first=True) for _ in range(3))
        self.gains = nn.Linear(32, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(F.pad(x.transpose(1, 2), (2, 0))))
        found = [torch.tanh(self.second(F.pad(y, (2, 0)))).transpose(1, 2)]
        for gru in self.grus:
            found.append(gru(found[-1])[0])
        return x * torch.sigmoid(self.gains(torch.cat(found, -1)))


class ResNetLstm(nn.Module):
    """Residual blocks with strides, as for an electrocardiogram, and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 6), (6, 8))
        self.first = nn.ModuleList(nn.Conv1d(i, o, 7, 2, padding=3) for i, o in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(o) for _, o in sizes)
        self.second = nn.ModuleList(nn.Conv1d(o, o, 7, padding=3) for _, o in sizes)
        self.shortcuts = nn.ModuleList(nn.Conv1d(i, o, 1, 2) for i, o in sizes)
        self.lstm = nn.LSTM(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        for layers in zip(self.first, self.norms, self.second, self.shortcuts, strict=True):
            first, norm, second, shortcut = layers
            y = torch.relu(second(torch.relu(norm(first(y)))) + shortcut(y))
        return self.lstm(y.transpose(1, 2))[0]


class InceptionTime(nn.Module):
    """Kernels of three sizes and a maximum beside one another, all padded to the same length."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(FEATURES, 4, 1, bias=False)
        self.kernels = nn.ModuleList(nn.Conv1d(4, 3, size, padding=size // 2) for size in (9, 5, 3))
        self.pooled, self.norm, self.head = nn.Conv1d(FEATURES, 3, 1), nn.BatchNorm1d(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        y = self.enter(x)
        found = [kernel(y) for kernel in self.kernels] + [self.pooled(F.max_pool1d(x, 3, 1, 1))]
        return self.head(torch.relu(self.norm(torch.cat(found, 1))).transpose(1, 2))


class Fsmn(nn.Module):
    """Feedforward layers with a memory of past and later frames: depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, 6), nn.Linear(6, 3)
        self.memories = nn.ModuleList(nn.Conv1d(6, 6, 8, groups=6, bias=False) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        for memory, layer in zip(self.memories, self.layers, strict=True):
            y = y + memory(F.pad(y.transpose(1, 2), (5, 2))).transpose(1, 2)
            y = torch.relu(layer(y))
        return self.leave(y)


class Tdnn(nn.Module):
    """A time-delay network without padding, as in front of an x-vector."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((FEATURES, 5, 1), (6, 3, 2), (6, 3, 3))
        self.layers = nn.ModuleList(nn.Conv1d(width, 6, taps, dilation=d) for width, taps, d in sizes)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        for layer in self.layers:
            y = torch.relu(layer(y))
        return self.head(y.transpose(1, 2))


class ConvModule(nn.Module):
    """The Conformer's convolution module, causal, between feedforward layers with layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = (
            nn.Sequential(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 8), nn.SiLU(), nn.Linear(8, FEATURES))
            for _ in range(2)
        )
        self.enter, self.leave = nn.Conv1d(FEATURES, 8, 1), nn.Conv1d(4, FEATURES, 1)
        self.depthwise, self.norm = nn.Conv1d(4, 4, 7, groups=4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        y = F.glu(self.enter(x.transpose(1, 2)), 1)
        y = self.leave(F.silu(self.norm(self.depthwise(F.pad(y, (6, 0))))))
        x = x + y.transpose(1, 2)
        return x + 0.5 * self.after(x)


class Upsampled(nn.Module):
    """Frames at a quarter of the rate, repeated up to the rate of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(FEATURES, 6, 4, 4), nn.Conv1d(6, FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x.transpose(1, 2))))
        return F.interpolate(y, scale_factor=4, mode="nearest").transpose(1, 2)


class Subsampled(nn.Module):
    """Joins four steps to one, as in front of a recurrent transducer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4 * FEATURES, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.reshape(x.size(0), -1, 4 * FEATURES))[0]


class EveryThird(nn.Module):
    """Every third frame of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(FEATURES, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2))[:, :, 1::3].transpose(1, 2)


class SkipGru(nn.Module):
    """A GRU that reads what a recurrent layer and a far dilated convolution found."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.GRU(FEATURES, 5, batch_first=True), nn.Conv1d(FEATURES, 5, 2, dilation=12)
        self.gru = nn.GRU(10, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        far = self.far(F.pad(x.transpose(1, 2), (12, 0))).transpose(1, 2)
        return self.gru(torch.cat([self.near(x)[0], far], -1))[0]


_AUDIO = (
    Denoiser,
    WaveNet,
    ConvTasNet,
    UNetLstm,
    Demucs,
    StftGru,
    ResNetLstm,
    StftMask,
    Gtcrn,
    WakeWord,
    Mfcc,
    OverlapAdd,
)
_SPECTRA = {Crnn: 16, DsCnn: 8}
_SENSORS = (
    *(CausalTcn, ChompGru, CnnLstm, PooledLstms, WeightNormTcn, DeepConvLstm, Qrnn, MovingAverage, LastSteps),
    *(RunningScale, Deltas, RnNoise, InceptionTime, Fsmn, Tdnn, ConvModule, Upsampled, Subsampled),
    *(EveryThird, SkipGru, LearnedPositions, SinePositions, StepCounter, LocalAttention),
)
NETWORKS: Mapping[str, Network] = {
    kind.__name__: Network(kind, width)
    for kind, width in [
        *((kind, FEATURES) for kind in _SENSORS),
        *_SPECTRA.items(),
        *((kind, 1) for kind in _AUDIO),
    ]
}
"""By name."""
