"""``torch.stft`` and ``torch.istft`` as convolutions with the windowed Fourier basis.

onnxruntime's STFT is 1e-5 to 3e-5 of the largest value off for sizes that are no power of two, and slower up
to 512 points. A convolution also streams, and needs no operator of its own on devices. Its basis takes ``8 *
(n_fft // 2 + 1) * n_fft`` bytes of float32: 101 kB for 160 points, 1 MB for 512.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 512
"""Points up to which a spectrum is a convolution; larger ones use ONNX's STFT, which does not stream."""


def stft(x: Tensor, n_fft: int, *arguments: Any, **named: Any) -> Tensor:
    """Return the result of ``torch.stft`` for real ``x (N, L)`` or ``(L,)``; see its documentation."""
    given = inspect.signature(torch.stft).bind(x, n_fft, *arguments, **named)
    given.apply_defaults()
    options = SimpleNamespace(**given.arguments)
    hop = options.hop_length or n_fft // 4
    if n_fft > LARGEST or options.onesided is False or options.align_to_window:
        return torch.stft(*given.args, **given.kwargs)
    signal = x if x.dim() == 2 else x[None]
    if options.center:
        signal = F.pad(signal[:, None], (n_fft // 2, n_fft // 2), mode=options.pad_mode)[:, 0]
    waves = _waves(n_fft) / (np.sqrt(n_fft) if options.normalized else 1.0)
    window = _window(n_fft, options.win_length, options.window, x.dtype)
    basis = torch.tensor(waves.tolist(), dtype=x.dtype) * window
    real, imaginary = F.conv1d(signal[:, None], basis[:, None], stride=hop).chunk(2, 1)
    found = torch.stack([real, imaginary], -1)
    found = found if x.dim() == 2 else found[0]
    return torch.view_as_complex(found) if options.return_complex else found


def inverse_stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,  # noqa: ARG001  for real results the first half is enough
    length: int | None = None,
) -> Tensor:
    """Return the result of ``torch.istft``; see its documentation for the arguments.

    Frames are the rows of an inverse Fourier transform times the window, added up one hop apart. The sum of
    the squared windows, by which that is divided, is a channel of the same convolution.
    """
    hop, bins = hop_length or (win_length or n_fft) // 4, n_fft // 2 + 1
    parts = torch.view_as_real(x if x.dim() == 3 else x[None])[:, :bins]
    weights, row = _window(n_fft, win_length, window, parts.dtype), np.tile(np.arange(bins), 2)
    twice = np.where((row == 0) | (2 * row == n_fft), 1, 2)
    scale = twice[:, None] / (np.sqrt(n_fft) if normalized else n_fft)
    wave = torch.tensor((scale * _waves(n_fft)).tolist(), dtype=parts.dtype) * weights
    squares = torch.stack([torch.zeros_like(weights), weights * weights])[None]
    weight = torch.cat([torch.stack([wave, torch.zeros_like(wave)], 1), squares])
    frames = torch.cat([parts[..., 0], parts[..., 1], torch.ones_like(parts[:, :1, :, 0])], 1)
    first = n_fft // 2 if center else 0
    end: Any = first + length if length is not None else -first if center else None
    signal, total = F.conv_transpose1d(frames, weight, stride=hop)[..., first:end].unbind(1)
    return signal / total if x.dim() == 3 else (signal / total)[0]


def _window(n_fft: int, win_length: int | None, window: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the window ``(n_fft,)``, zeros around one of fewer points."""
    size = win_length or n_fft
    before = (n_fft - size) // 2
    window = torch.ones(size, dtype=dtype) if window is None else window
    return F.pad(window, (before, n_fft - size - before))


def _waves(n_fft: int) -> np.ndarray:
    """Return the real and imaginary rows of the transform of a frame, ``(2 * bins, n_fft)``."""
    angle = 2 * np.pi / n_fft * (np.arange(n_fft // 2 + 1)[:, None] * np.arange(n_fft) % n_fft)
    return np.concatenate([np.cos(angle), -np.sin(angle)])
