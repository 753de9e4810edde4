"""Networks that look along time, of the kinds that people train for sensors and audio; all of them stream.

Each takes ``x (N, L, width)``. They are small: what counts is how their layers look along time.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.networks import Chain, Fn, Join, causal, concat, gru, lstm, over_time, planes, skip

__all__ = ["NETWORKS", "Network"]

FEATURES = 4
"""Of sensors; raw audio has 1."""


class Network(NamedTuple):
    """A kind of network."""

    make: Callable[[], nn.Module]
    width: int
    """Features of a step."""


def _pad(front: int, behind: int = 0) -> nn.Module:
    return nn.ConstantPad1d((front, behind), 0.0)


def _cut(steps: int) -> nn.Module:
    return Fn(lambda y: y[:, :, :-steps])


def _tcn_block(width: int, channels: int, dilation: int) -> nn.Module:
    """Two convolutions with weight norm, cut at the end, and a residual, as in the TCN paper."""

    def half(width: int) -> list[nn.Module]:
        conv = nn.Conv1d(width, channels, 3, padding=2 * dilation, dilation=dilation)
        return [weight_norm(conv), _cut(2 * dilation), nn.ReLU()]

    residual = nn.Conv1d(width, channels, 1) if width != channels else nn.Identity()
    return Chain(Join(torch.add, Chain(*half(width), *half(channels)), residual), nn.ReLU())


def _pool_gates(gates: Tensor) -> Tensor:
    """Pool a quasi-recurrent network's gates ``(N, 3 C, L)`` in closed form."""
    found, kept, out = gates.chunk(3, 1)
    decay = F.logsigmoid(kept + 4).cumsum(2)
    fresh = torch.tanh(found) * torch.sigmoid(-kept - 4)
    return torch.sigmoid(out) * decay.exp() * (fresh * (-decay).exp()).cumsum(2)


def _moving_average(x: Tensor) -> Tensor:
    mean = F.avg_pool1d(F.pad(x, (7, 0)), 8, 1)
    return torch.cat([mean, x - mean], 1)


def _last_steps(y: Tensor, head: nn.Module) -> Tensor:
    last = y[:, -5:]
    return head(last.flatten(1)) + last.mean((1, 2))[:, None]


def _running_scale(x: Tensor) -> Tensor:
    count = torch.arange(1, x.size(1) + 1)[:, None]
    mean = x.cumsum(1) / count
    return (x - mean) / torch.sqrt((x * x).cumsum(1) / count - mean * mean + 0.5)


def _deltas(x: Tensor) -> Tensor:
    first = x - F.pad(x, (0, 0, 1, 0))[:, :-1]
    second = first - torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], 1)
    return torch.cat([x, first, second], -1)


def _half_step() -> nn.Module:
    layers = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 8), nn.SiLU(), nn.Linear(8, FEATURES)
    return skip(*layers, Fn(lambda y: 0.5 * y))


def _sines() -> Tensor:
    angles = torch.arange(5000.0)[:, None] * torch.tensor([1.0, 0.01])
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)[None]


def _count_steps(x: Tensor) -> Tensor:
    phase = torch.arange(x.size(1))[:, None] * torch.tensor([0.25, 0.125])
    return torch.cat([x[..., :2] * torch.sin(phase), x[..., 2:] * torch.cos(phase)], -1)


def _attend(projected: Tensor) -> Tensor:
    query, key, value = projected.chunk(3, -1)
    key, value = (F.pad(each, (0, 0, 7, 0)).unfold(1, 8, 1) for each in (key, value))
    weights = torch.softmax(query.unsqueeze(2) @ key / math.sqrt(6), -1)
    return (weights @ value.transpose(2, 3)).squeeze(2)


def _stack(count: int) -> nn.Module:
    """Return GRUs of which each reads what the one before gives, all concatenated."""
    return Chain(gru(8, 8), *([concat(-1, nn.Identity(), _stack(count - 1))] if count > 1 else []))


_SENSORS: dict[str, Callable[[], nn.Module]] = {
    # dilated convolutions padded in front, with skip connections
    "CausalTcn": lambda: Chain(
        over_time(
            nn.Conv1d(FEATURES, 6, 1), *(skip(causal(6, 6, 3, 2**level), nn.ReLU()) for level in range(4))
        ),
        nn.Linear(6, 3),
    ),
    # padded on both sides and cut at the end, then a GRU
    "ChompGru": lambda: Chain(
        over_time(nn.Conv1d(FEATURES, 5, 3, padding=4, dilation=2), _cut(4), nn.ReLU()), gru(5, 7)
    ),
    # convolutions padded to the same length, batch norm, a skip connection, an LSTM behind them
    "CnnLstm": lambda: Chain(
        over_time(
            *(nn.Conv1d(FEATURES, 8, 5, padding="same"), nn.BatchNorm1d(8), nn.ReLU()),
            skip(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU()),
        ),
        *(lstm(8, 9), nn.Linear(9, 3)),
    ),
    # a maximum of two frames, and LSTMs at two delays
    "PooledLstms": lambda: Chain(
        over_time(nn.Conv1d(FEATURES, 8, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)),
        *(lstm(8, 9), over_time(nn.Conv1d(9, 6, 3, padding=1)), lstm(6, 5)),
    ),
    "WeightNormTcn": lambda: over_time(
        _tcn_block(FEATURES, 6, 1), *(_tcn_block(6, 6, dilation) for dilation in (2, 4))
    ),
    # convolutions over time without padding, frames flattened, two layers of LSTM
    "DeepConvLstm": lambda: Chain(
        planes(nn.Conv2d(1, 3, (5, 1)), nn.ReLU(), nn.Conv2d(3, 3, (5, 1)), nn.ReLU()),
        *(lstm(3 * FEATURES, 6, 2), nn.Linear(6, 3)),
    ),
    # a quasi-recurrent network: gates from a convolution over two steps
    "Qrnn": lambda: over_time(causal(FEATURES, 18, 2), Fn(_pool_gates)),
    # the mean of the last 8 samples, and what is above it
    "MovingAverage": lambda: over_time(Fn(_moving_average)),
    # a head on the last five frames, and their mean
    "LastSteps": lambda: Chain(
        over_time(nn.Conv1d(FEATURES, 3, 3), nn.ReLU()), Fn(_last_steps, head=nn.Linear(15, 4))
    ),
    # features by the mean and the deviation of all that has been, then an LSTM
    "RunningScale": lambda: Chain(Fn(_running_scale), lstm(FEATURES, 6)),
    # features, their differences, and the differences of these
    "Deltas": lambda: Chain(Fn(_deltas), gru(3 * FEATURES, 6)),
    # two causal convolutions and three GRUs that read one another, gains of bands
    "RnNoise": lambda: Join(
        torch.mul,
        nn.Identity(),
        Chain(
            over_time(causal(FEATURES, 8, 3), nn.Tanh(), causal(8, 8, 3), nn.Tanh()),
            *(concat(-1, nn.Identity(), _stack(3)), nn.Linear(32, FEATURES), nn.Sigmoid()),
        ),
    ),
    # kernels of three sizes and a maximum beside one another, all padded to the same length
    "InceptionTime": lambda: Chain(
        over_time(
            concat(
                1,
                Chain(
                    nn.Conv1d(FEATURES, 4, 1, bias=False),
                    concat(1, *(nn.Conv1d(4, 3, taps, padding=taps // 2) for taps in (9, 5, 3))),
                ),
                Chain(nn.MaxPool1d(3, 1, 1), nn.Conv1d(FEATURES, 3, 1)),
            ),
            *(nn.BatchNorm1d(12), nn.ReLU()),
        ),
        nn.Linear(12, 3),
    ),
    # feedforward layers with a memory of past and later frames: depthwise convolutions
    "Fsmn": lambda: Chain(
        nn.Linear(FEATURES, 6),
        *(
            Chain(
                skip(over_time(_pad(5, 2), nn.Conv1d(6, 6, 8, groups=6, bias=False))),
                nn.Linear(6, 6),
                nn.ReLU(),
            )
            for _ in range(2)
        ),
        nn.Linear(6, 3),
    ),
    # a time-delay network without padding, as in front of an x-vector
    "Tdnn": lambda: Chain(
        over_time(
            *(nn.Conv1d(FEATURES, 6, 5), nn.ReLU(), nn.Conv1d(6, 6, 3, dilation=2), nn.ReLU()),
            *(nn.Conv1d(6, 6, 3, dilation=3), nn.ReLU()),
        ),
        nn.Linear(6, 3),
    ),
    # the Conformer's convolution module, causal, between feedforward layers with layer norm
    "ConvModule": lambda: Chain(
        _half_step(),
        skip(
            over_time(
                *(nn.Conv1d(FEATURES, 8, 1), nn.GLU(1), causal(4, 4, 7, groups=4)),
                *(nn.BatchNorm1d(4), nn.SiLU(), nn.Conv1d(4, FEATURES, 1)),
            )
        ),
        _half_step(),
    ),
    # frames at a quarter of the rate, repeated up to the rate of the samples
    "Upsampled": lambda: over_time(
        *(nn.Conv1d(FEATURES, 6, 4, 4), nn.ReLU(), nn.Conv1d(6, FEATURES, 3, padding=1)),
        nn.Upsample(scale_factor=4),
    ),
    # joins four steps to one, as in front of a recurrent transducer
    "Subsampled": lambda: Chain(Fn(lambda x: x.reshape(x.size(0), -1, 4 * FEATURES)), lstm(4 * FEATURES, 6)),
    # every third frame of a convolution
    "EveryThird": lambda: over_time(nn.Conv1d(FEATURES, 6, 3, padding=1), Fn(lambda y: y[:, :, 1::3])),
    # a GRU that reads what a recurrent layer and a far dilated convolution found
    "SkipGru": lambda: Chain(concat(-1, gru(FEATURES, 5), over_time(causal(FEATURES, 5, 2, 12))), gru(10, 5)),
    # an embedding of the position, up to 2,000, at half the rate
    "LearnedPositions": lambda: Chain(
        over_time(nn.Conv1d(FEATURES, 6, 5, 2, padding=2)),
        Fn(lambda y, rows: y + rows(torch.arange(y.size(1))), rows=nn.Embedding(2000, 6)),
        gru(6, 5),
    ),
    # sines and cosines of the position, from a table of 5,000
    "SinePositions": lambda: Chain(
        Fn(lambda x, rows: x + rows[:, : x.size(1)], rows=_sines()), lstm(FEATURES, 6)
    ),
    # a phase that is computed from the number of steps, beside the data
    "StepCounter": lambda: Fn(_count_steps),
    # attention of every step over itself and the seven before
    "LocalAttention": lambda: Chain(nn.Linear(FEATURES, 18), Fn(_attend), nn.Linear(6, 3)),
}


def _down(width: int, taps: int = 4, stride: int = 2) -> list[nn.Module]:
    return [nn.Conv1d(width, 6, taps, stride, padding=1), nn.ReLU()]


def _wavenet(x: Tensor, enter: nn.Module, gates: nn.ModuleList, residuals: nn.ModuleList) -> Tensor:
    """Gated causal convolutions with residual and skip connections; gives the sum of these."""
    y, total = enter(x), torch.zeros(())
    for gate, residual in zip(gates, residuals, strict=True):
        filtered, opened = gate(y).chunk(2, 1)
        more, found = residual(torch.tanh(filtered) * torch.sigmoid(opened)).chunk(2, 1)
        y, total = y + more, total + found
    return torch.relu(total)


def _norm_so_far(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Conv-TasNet's norm over all channels and all that has been."""
    count = torch.arange(1, x.size(2) + 1) * x.size(1)
    mean = x.sum(1, keepdim=True).cumsum(2) / count
    square = (x * x).sum(1, keepdim=True).cumsum(2) / count
    return gain * (x - mean) / torch.sqrt(square - mean * mean + 1e-3) + bias


def _cumulative_norm(channels: int) -> nn.Module:
    return Fn(_norm_so_far, **{name: nn.Parameter(torch.rand(channels, 1)) for name in ("gain", "bias")})


def _tasnet_block(dilation: int) -> nn.Module:
    return skip(
        *(nn.Conv1d(6, 10, 1), nn.PReLU(), _cumulative_norm(10)),
        *(causal(10, 10, 3, dilation, groups=10), nn.PReLU(), _cumulative_norm(10), nn.Conv1d(10, 6, 1)),
    )


def _decode_masked(z: Tensor, separate: nn.Module, decode: nn.Module) -> Tensor:
    return torch.cat([decode(z * mask) for mask in separate(z).chunk(2, 1)], 1)


def _gated(width: int, channels: int, taps: int = 1) -> list[nn.Module]:
    """Return a gated linear unit over ``taps`` frames."""
    return [nn.Conv1d(width, 2 * channels, taps, padding=taps // 2), nn.GLU(1)]


def _resnet_block(width: int, channels: int) -> nn.Module:
    layers = nn.Conv1d(width, channels, 7, 2, padding=3), nn.BatchNorm1d(channels), nn.ReLU()
    inner = Chain(*layers, nn.Conv1d(channels, channels, 7, padding=3))
    return Chain(Join(torch.add, inner, nn.Conv1d(width, channels, 1, 2)), nn.ReLU())


def _stft(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return the spectrum ``(N, bins, frames)`` of ``x (N, L)``."""
    return torch.stft(x, len(window), hop, window=window, center=False, return_complex=True)


def _magnitudes(x: Tensor, window: Tensor, hop: int) -> Tensor:
    return _stft(x[:, :, 0], window, hop).abs().transpose(1, 2)


def _mask_spectrum(x: Tensor, layers: nn.Module, window: Tensor) -> Tensor:
    z = _stft(F.pad(x[:, :, 0], (8, 8)), window, 4)
    mask = layers(torch.log1p(z.abs()).transpose(1, 2))
    return torch.istft(z * mask.transpose(1, 2), 16, 4, window=window)


def _log_bands() -> nn.Module:
    """Return logarithms of 8 mel bands every 8 samples."""
    bins, bands = torch.arange(17.0)[:, None], torch.linspace(0, 16, 10)
    rising, falling = (bins - bands[:-2]) / bands.diff()[:-1], (bands[2:] - bins) / bands.diff()[1:]
    mel = torch.minimum(rising, falling).clamp(min=0)
    spectrum = Fn(partial(_magnitudes, hop=8), window=torch.hann_window(32))
    return Chain(spectrum, Fn(lambda z, mel: torch.log(z.square() @ mel + 1e-3), mel=mel))


def _cepstrum(bands: Tensor, cosines: Tensor) -> Tensor:
    """Return cepstral coefficients and their differences."""
    y = bands @ cosines
    return torch.cat([y, y - F.pad(y, (0, 0, 1, 0))[:, :-1]], -1)


def _cosines() -> Tensor:
    return torch.cos(math.pi / 8 * (torch.arange(8.0)[:, None] + 0.5) * torch.arange(5.0))


def _overlap_add(x: Tensor, layer: nn.Module, window: Tensor) -> Tensor:
    frames = x[:, :, 0].unfold(1, 16, 8)
    y, size = layer(frames) * window, 8 * frames.size(1) + 8
    return F.fold(y.transpose(1, 2), (1, size), (1, 16), stride=(1, 8))[:, 0].transpose(1, 2)


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
        self.gru, self.project = gru(20, 10), nn.Linear(10, 20)
        self.leave = nn.ConvTranspose2d(4, 2, (1, 3), (1, 2), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = F.conv1d(F.pad(x.transpose(1, 2), (8, 0)), self.analysis, stride=8)
        z = z.unflatten(1, (2, 9)).transpose(2, 3)
        y = self.act(self.norm(self.enter(z)))
        y = y + self.depthwise(F.pad(y, (0, 0, 4, 0)))
        found = self.project(self.gru(y.permute(0, 2, 1, 3).flatten(2)))
        y = y + found.unflatten(2, (4, 5)).transpose(1, 2)
        mask = torch.tanh(self.leave(y))
        real = z[:, 0] * mask[:, 0] - z[:, 1] * mask[:, 1]
        imaginary = z[:, 0] * mask[:, 1] + z[:, 1] * mask[:, 0]
        both = torch.cat([real, imaginary], 2).transpose(1, 2)
        return F.conv_transpose1d(both, self.synthesis, stride=8).transpose(1, 2)


_SPECTRA: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # 2-d convolutions over time and frequency with strides over both, then a GRU
    "Crnn": (
        lambda: Chain(
            planes(nn.Conv2d(1, 4, 3, (1, 2), 1), nn.ReLU(), nn.Conv2d(4, 4, 3, (2, 2), 1), nn.ReLU()),
            gru(16, 10),
        ),
        16,
    ),
    # depthwise separable 2-d convolutions, as on a microcontroller; one result every 4 frames
    "DsCnn": (
        lambda: Chain(
            planes(
                *(nn.Conv2d(1, 6, (5, 2), 2, padding=(2, 0)), nn.ReLU()),
                *(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1)),
                *(nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(6, 6, 3, padding=1, groups=6)),
                *(nn.Conv2d(6, 6, 1), nn.ReLU(), Fn(lambda y: y.mean(3, keepdim=True))),
            ),
            nn.Linear(6, 3),
        ),
        8,
    ),
}
_AUDIO: dict[str, Callable[[], nn.Module]] = {
    # a strided convolution of raw samples, a GRU that gates its frames, a transposed convolution
    "Denoiser": lambda: over_time(
        *(_pad(4), nn.Conv1d(1, 8, 8, 4), Join(torch.mul, over_time(gru(8, 8)), nn.Sigmoid())),
        nn.ConvTranspose1d(8, 1, 8, 4),
    ),
    "WaveNet": lambda: over_time(
        Fn(
            _wavenet,
            enter=nn.Conv1d(1, 6, 1),
            gates=nn.ModuleList(causal(6, 12, 2, 2**level) for level in range(5)),
            residuals=nn.ModuleList(nn.Conv1d(6, 12, 1) for _ in range(5)),
        ),
        nn.Conv1d(6, 3, 1),
    ),
    # an encoder, depthwise separable convolutions with cumulative norms, masks, a decoder; causal
    "ConvTasNet": lambda: over_time(
        *(_pad(4), nn.Conv1d(1, 8, 8, 4, bias=False), nn.ReLU()),
        Fn(
            _decode_masked,
            separate=Chain(
                *(_cumulative_norm(8), nn.Conv1d(8, 6, 1), _tasnet_block(1), _tasnet_block(2)),
                *(nn.Conv1d(6, 16, 1), nn.Sigmoid()),
            ),
            decode=nn.ConvTranspose1d(8, 1, 8, 4, bias=False),
        ),
    ),
    # strided and transposed convolutions with skips, an LSTM in the middle
    "UNetLstm": lambda: over_time(
        skip(
            *_down(1),
            skip(
                *_down(6), skip(over_time(lstm(6, 6))), nn.ConvTranspose1d(6, 6, 4, 2, padding=1), nn.ReLU()
            ),
            nn.ConvTranspose1d(6, 1, 4, 2, padding=1),
        )
    ),
    # an encoder and a decoder with gated linear units and skips, an LSTM between them
    "Demucs": lambda: over_time(
        Join(
            torch.sub,
            nn.Identity(),
            Chain(
                *(nn.Conv1d(1, 4, 8, 4, padding=2), nn.ReLU(), *_gated(4, 4)),
                skip(
                    *(
                        nn.Conv1d(4, 8, 8, 2, padding=3),
                        nn.ReLU(),
                        *_gated(8, 8),
                        skip(over_time(lstm(8, 8, 2))),
                    ),
                    *(*_gated(8, 8, 3), nn.ConvTranspose1d(8, 4, 8, 2, padding=3), nn.ReLU()),
                ),
                *(*_gated(4, 4, 3), nn.ConvTranspose1d(4, 1, 8, 4, padding=2)),
            ),
        )
    ),
    # log magnitudes of a spectrum every 8 samples, and a GRU
    "StftGru": lambda: Chain(
        Fn(partial(_magnitudes, hop=8), window=torch.hann_window(16)), Fn(torch.log1p), gru(9, 5)
    ),
    # residual blocks with strides, as for an electrocardiogram, and an LSTM
    "ResNetLstm": lambda: Chain(over_time(_resnet_block(1, 6), _resnet_block(6, 8)), lstm(8, 6)),
    # STFT, a GRU that masks it, iSTFT: speech enhancement
    "StftMask": lambda: Fn(
        _mask_spectrum, layers=Chain(gru(9, 8), nn.Linear(8, 9), nn.Sigmoid()), window=torch.hann_window(16)
    ),
    "Gtcrn": Gtcrn,
    # logarithms of mel bands, 2-d convolutions over time and frequency, a GRU
    "WakeWord": lambda: Chain(
        *(_log_bands(), planes(nn.Conv2d(1, 4, 3, (2, 2), padding=1), nn.ReLU()), gru(16, 8), nn.Linear(8, 2))
    ),
    # cepstral coefficients and their differences, and an LSTM
    "Mfcc": lambda: Chain(_log_bands(), Fn(_cepstrum, cosines=_cosines()), lstm(10, 8), nn.Linear(8, 2)),
    # frames of 16 samples every 8 by ``unfold``, an LSTM, added up again by ``fold``
    "OverlapAdd": lambda: Fn(_overlap_add, layer=lstm(16, 16), window=torch.hann_window(16)),
}
NETWORKS: Mapping[str, Network] = {
    **{name: Network(make, FEATURES) for name, make in _SENSORS.items()},
    **{name: Network(make, width) for name, (make, width) in _SPECTRA.items()},
    **{name: Network(make, 1) for name, make in _AUDIO.items()},
}
"""By name."""
