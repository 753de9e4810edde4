"""``torch.stft`` and ``torch.istft`` as convolutions.

The windowed Fourier basis takes ``8 * (n_fft // 2 + 1) * n_fft`` bytes; onnxruntime's
STFT is less exact, and slower up to 512 points.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 512
"""Points up to which a spectrum is a convolution; larger ones use ONNX's STFT, which
does not stream."""


_ISTFT = (
    "hop_length",
    "win_length",
    "window",
    "center",
    "normalized",
    "onesided",
    "length",
)
"""Arguments of ``torch.istft`` behind ``n_fft``, in their order."""


def stft(x: Tensor, n_fft: int, *arguments: Any, **named: Any) -> Tensor:
    """Return the result of ``torch.stft`` for real ``x (N, L)`` or ``(L,)``; see its
    documentation.
    """
    call = inspect.signature(torch.stft).bind(x, n_fft, *arguments, **named)
    call.apply_defaults()
    options = SimpleNamespace(**call.arguments)
    hop = options.hop_length or n_fft // 4
    if n_fft > LARGEST or options.onesided is False or options.align_to_window:
        return torch.stft(*call.args, **call.kwargs)
    has_rows = x.dim() == 2
    signal = x if has_rows else x[None]
    channel = signal[:, None]
    if options.center:
        padding = (n_fft // 2, n_fft // 2)
        channel = F.pad(channel, padding, mode=options.pad_mode)
    scale = np.sqrt(n_fft) if options.normalized else 1.0
    waves = _waves(n_fft) / scale
    window = _window(n_fft, options.win_length, window=options.window, dtype=x.dtype)
    basis = torch.tensor(waves.tolist(), dtype=x.dtype) * window
    frames = F.conv1d(channel, basis[:, None], stride=hop)
    real, imaginary = frames.chunk(2, 1)
    spectrum = torch.stack([real, imaginary], -1)
    if not has_rows:
        spectrum = spectrum[0]
    return torch.view_as_complex(spectrum) if options.return_complex else spectrum


def _istft_options(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return the arguments of ``torch.istft`` behind ``n_fft``, by name."""
    options: dict[str, Any] = {**dict.fromkeys(_ISTFT), "center": True}
    options |= dict(zip(_ISTFT, arguments, strict=False))
    return SimpleNamespace(**(options | named))


def inverse_stft(x: Tensor, n_fft: int, *arguments: Any, **named: Any) -> Tensor:
    """Return the result of ``torch.istft`` for real signals; see its documentation.

    Rows of an inverse Fourier transform times the window are added up one hop apart.
    The sum of the squared windows, by which that is divided, is a channel of the same
    convolution.
    """
    options = _istft_options(arguments, named)
    hop = options.hop_length or (options.win_length or n_fft) // 4
    has_rows = x.dim() == 3
    bins = n_fft // 2 + 1
    spectrum = torch.view_as_real(x if has_rows else x[None])[:, :bins]
    real = spectrum[..., 0]
    imaginary = spectrum[..., 1]
    window = _window(
        n_fft, options.win_length, window=options.window, dtype=spectrum.dtype
    )
    waves = _inverse_waves(n_fft, normalized=bool(options.normalized))
    basis = torch.tensor(waves.tolist(), dtype=spectrum.dtype) * window
    of_signal = torch.stack([basis, torch.zeros_like(basis)], 1)
    of_total = torch.stack([torch.zeros_like(window), window * window])[None]
    frames = torch.cat([real, imaginary, torch.ones_like(real[:, :1])], 1)
    kernel = torch.cat([of_signal, of_total])
    summed = F.conv_transpose1d(frames, kernel, stride=hop)
    signal, total = summed[..., _kept_samples(n_fft, options)].unbind(1)
    result = signal / total
    return result if has_rows else result[0]


def _inverse_waves(n_fft: int, *, normalized: bool) -> np.ndarray:
    """Return the rows of the inverse transform; all bins but the first and the last
    stand for two.
    """
    bins = np.tile(np.arange(n_fft // 2 + 1), 2)
    is_single = (bins == 0) | (2 * bins == n_fft)
    count = np.where(is_single, 1, 2)
    scale = count[:, None] / (np.sqrt(n_fft) if normalized else n_fft)
    return np.asarray(scale * _waves(n_fft))


def _kept_samples(n_fft: int, options: Any) -> slice:
    """Return the samples of the result, without the padding of ``center``."""
    first = n_fft // 2 if options.center else 0
    if options.length is not None:
        return slice(first, first + options.length)
    return slice(first, -first if options.center else None)


def _window(
    n_fft: int, win_length: int | None, window: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return the window ``(n_fft,)``, zeros around one of fewer points."""
    size = win_length or n_fft
    before = (n_fft - size) // 2
    window = torch.ones(size, dtype=dtype) if window is None else window
    return F.pad(window, (before, n_fft - size - before))


def _waves(n_fft: int) -> np.ndarray:
    """Return the real and imaginary rows of the transform of a frame,
    ``(2 * bins, n_fft)``; a zero is exact, so that the last imaginary row is zero.
    """
    bins = np.arange(n_fft // 2 + 1)
    turns = bins[:, None] * np.arange(n_fft) % n_fft
    angle = 2 * np.pi / n_fft * turns
    quarters = 4 * turns
    real = np.where(quarters % (2 * n_fft) == n_fft, 0.0, np.cos(angle))
    imaginary = np.where(quarters % (2 * n_fft) == 0, 0.0, -np.sin(angle))
    return np.concatenate([real, imaginary])
