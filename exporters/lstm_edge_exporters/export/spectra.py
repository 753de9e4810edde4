"""``torch.stft`` and ``torch.istft`` as convolutions with the windowed Fourier basis.

onnxruntime's STFT is 1e-5 to 3e-5 of the largest value off for sizes that are no power of two, and slower up
to 512 points. A convolution also streams, and needs no operator of its own on devices. Its basis takes ``8 *
(n_fft // 2 + 1) * n_fft`` bytes of float32: 101 kB for 160 points, 1 MB for 512.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 512
"""Points up to which a spectrum is a convolution; larger ones use ONNX's STFT."""


def stft(
    input: Tensor,  # noqa: A002  the name that callers use
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """Return what ``torch.stft`` returns for real ``input (N, L)`` or ``(L,)``; see its documentation."""
    hop = hop_length or n_fft // 4
    if n_fft > LARGEST or onesided is False or align_to_window:
        return torch.stft(
            input, n_fft, hop, win_length, window, center, pad_mode, normalized, onesided, return_complex
        )
    signal = input if input.dim() == 2 else input[None]
    if center:
        signal = F.pad(signal[:, None], (n_fft // 2, n_fft // 2), mode=pad_mode)[:, 0]
    waves = _waves(n_fft) / (np.sqrt(n_fft) if normalized else 1.0)
    basis = torch.tensor(waves.tolist(), dtype=input.dtype) * _window(n_fft, win_length, window, input.dtype)
    real, imaginary = F.conv1d(signal[:, None], basis[:, None], stride=hop).chunk(2, 1)
    found = torch.stack([real, imaginary], -1)
    found = found if input.dim() == 2 else found[0]
    return torch.view_as_complex(found) if return_complex else found


def inverse_stft(
    input: Tensor,  # noqa: A002  the name that callers use
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,  # noqa: ARG001  of both sides the first is enough, as what comes out is real
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """Return what ``torch.istft`` returns; see its documentation for the arguments.

    Frames are the rows of an inverse Fourier transform times the window, added up one hop apart. The sum of
    the squared windows, by which that is divided, is a channel of the same convolution.
    """
    if return_complex:
        raise NotImplementedError("torch.istft with return_complex=True has no translation to ONNX")
    hop, bins = hop_length or (win_length or n_fft) // 4, n_fft // 2 + 1
    parts = torch.view_as_real(input if input.dim() == 3 else input[None])[:, :bins]
    weights, place = _window(n_fft, win_length, window, parts.dtype), np.tile(np.arange(bins), 2)
    twice = np.where((place == 0) | (2 * place == n_fft), 1, 2)
    scale = twice[:, None] / (np.sqrt(n_fft) if normalized else n_fft)
    wave = torch.tensor((scale * _waves(n_fft)).tolist(), dtype=parts.dtype) * weights
    squares = torch.stack([torch.zeros_like(weights), weights * weights])[None]
    weight = torch.cat([torch.stack([wave, torch.zeros_like(wave)], 1), squares])
    frames = torch.cat([parts[..., 0], parts[..., 1], torch.ones_like(parts[:, :1, :, 0])], 1)
    summed = F.conv_transpose1d(frames, weight, stride=hop)
    first = n_fft // 2 if center else 0
    end: Any = first + length if length is not None else -first if center else None
    signal, total = summed[..., first:end].unbind(1)
    found = signal / total
    return found if input.dim() == 3 else found[0]


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
