"""Networks that look along time, of the kinds that people train for sensors and audio.

Each takes ``x (N, L, width)``. They are small: what counts is how their layers look along time.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def _running_scale(x: Tensor) -> Tensor:
    count = torch.arange(1, x.size(1) + 1)[:, None]
    mean = x.cumsum(1) / count
    return (x - mean) / torch.sqrt((x * x).cumsum(1) / count - mean * mean + 0.5)


def _deltas(x: Tensor) -> Tensor:
    first = x - F.pad(x, (0, 0, 1, 0))[:, :-1]
    second = first - torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], 1)
    return torch.cat([x, first, second], -1)


def _count_steps(x: Tensor) -> Tensor:
    phase = torch.arange(x.size(1))[:, None] * torch.tensor([0.25, 0.125])
    return torch.cat([x[..., :2] * torch.sin(phase), x[..., 2:] * torch.cos(phase)], -1)


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
    # convolutions padded to the same length, batch norm, a skip connection, an LSTM behind them
    "CnnLstm": lambda: Chain(
        over_time(
            *(nn.Conv1d(FEATURES, 8, 5, padding="same"), nn.BatchNorm1d(8), nn.ReLU()),
            skip(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU()),
        ),
        *(lstm(8, 9), nn.Linear(9, 3)),
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
    # joins four steps to one, as in front of a recurrent transducer
    "Subsampled": lambda: Chain(Fn(lambda x: x.reshape(x.size(0), -1, 4 * FEATURES)), lstm(4 * FEATURES, 6)),
    # a phase that is computed from the number of steps, beside the data
    "StepCounter": lambda: Fn(_count_steps),
}


def _down(width: int, taps: int = 4, stride: int = 2) -> list[nn.Module]:
    return [nn.Conv1d(width, 6, taps, stride, padding=1), nn.ReLU()]


def _stft(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return the spectrum ``(N, bins, frames)`` of ``x (N, L)``."""
    return torch.stft(x, len(window), hop, window=window, center=False, return_complex=True)


def _magnitudes(x: Tensor, window: Tensor, hop: int) -> Tensor:
    return _stft(x[:, :, 0], window, hop).abs().transpose(1, 2)


def _mask_spectrum(x: Tensor, layers: nn.Module, window: Tensor) -> Tensor:
    z = _stft(F.pad(x[:, :, 0], (8, 8)), window, 4)
    mask = layers(torch.log1p(z.abs()).transpose(1, 2))
    return torch.istft(z * mask.transpose(1, 2), 16, 4, window=window)


_AUDIO: dict[str, Callable[[], nn.Module]] = {
    # a strided convolution of raw samples, a GRU that gates its frames, a transposed convolution
    "Denoiser": lambda: over_time(
        *(_pad(4), nn.Conv1d(1, 8, 8, 4), Join(torch.mul, over_time(gru(8, 8)), nn.Sigmoid())),
        nn.ConvTranspose1d(8, 1, 8, 4),
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
    # log magnitudes of a spectrum every 8 samples, and a GRU
    "StftGru": lambda: Chain(
        Fn(partial(_magnitudes, hop=8), window=torch.hann_window(16)), Fn(torch.log1p), gru(9, 5)
    ),
    # STFT, a GRU that masks it, iSTFT: speech enhancement
    "StftMask": lambda: Fn(
        _mask_spectrum, layers=Chain(gru(9, 8), nn.Linear(8, 9), nn.Sigmoid()), window=torch.hann_window(16)
    ),
}


def _crnn() -> nn.Module:
    """Return 2-d convolutions over time and frequency with strides over both, then a GRU."""
    layers = nn.Conv2d(1, 4, 3, (1, 2), 1), nn.ReLU(), nn.Conv2d(4, 4, 3, (2, 2), 1), nn.ReLU()
    return Chain(planes(*layers), gru(16, 10))


NETWORKS: Mapping[str, Network] = {
    **{name: Network(make, FEATURES) for name, make in _SENSORS.items()},
    "Crnn": Network(_crnn, 16),
    **{name: Network(make, 1) for name, make in _AUDIO.items()},
}
"""By name."""
