"""``torch.istft`` as a transposed convolution, which ONNX has and streams."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_edge_runtime.manifest import Array


def inverse_stft(
    spectrum: Tensor,
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
    win_length = win_length or n_fft
    hop, bins = hop_length or win_length // 4, n_fft // 2 + 1
    parts = torch.view_as_real(spectrum if spectrum.dim() == 3 else spectrum[None])[:, :bins]
    dtype = parts.dtype
    window = torch.ones(win_length, dtype=dtype) if window is None else window
    before = (n_fft - win_length) // 2
    window = torch.nn.functional.pad(window, (before, n_fft - win_length - before))
    wave = torch.tensor(_waves(n_fft, normalized).tolist(), dtype=dtype) * window
    nothing = torch.zeros_like(wave)
    weight = torch.cat(
        [torch.stack([wave, nothing], 1), torch.stack([torch.zeros_like(window), window * window])[None]]
    )
    frames = torch.cat([parts[..., 0], parts[..., 1], torch.ones_like(parts[:, :1, :, 0])], 1)
    summed = torch.nn.functional.conv_transpose1d(frames, weight, stride=hop)
    first = n_fft // 2 if center else 0
    end: Any = first + length if length is not None else -first if center else None
    signal, squares = summed[..., first:end].unbind(1)
    found = signal / squares
    return found if spectrum.dim() == 3 else found[0]


def _waves(n_fft: int, normalized: bool) -> Array:
    """Return what each real and imaginary part of a spectrum of real samples adds to a frame."""
    frequency = np.arange(n_fft // 2 + 1)[:, None]
    angle = 2 * np.pi / n_fft * (frequency * np.arange(n_fft) % n_fft)
    twice = np.where((frequency == 0) | (2 * frequency == n_fft), 1, 2)
    scale = twice / (np.sqrt(n_fft) if normalized else n_fft)
    return np.concatenate([scale * np.cos(angle), -scale * np.sin(angle)])
