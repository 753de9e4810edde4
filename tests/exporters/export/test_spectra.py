"""``torch.stft`` as a convolution, and ``torch.istft`` as a transposed one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_exporters.export.replaced import inverse_stft, stft


@pytest.mark.filterwarnings("ignore:stft with return_complex=False")
@settings(deadline=None, max_examples=60)
@given(
    n_fft=st.integers(4, 24),
    part=st.integers(1, 4),
    short=st.booleans(),
    center=st.booleans(),
    pad_mode=st.sampled_from(["reflect", "constant", "replicate"]),
    normalized=st.booleans(),
    onesided=st.none() | st.booleans(),
    real=st.booleans(),
    rows=st.none() | st.integers(1, 3),
)
def test_a_spectrum_is_what_pytorch_computes(
    n_fft, part, short, center, pad_mode, normalized, onesided, real, rows
):
    generator = torch.Generator().manual_seed(n_fft)
    hop, size = max(1, n_fft // (2 * part)), n_fft - 1 if short else n_fft
    window = torch.hamming_window(size, dtype=torch.float64)
    x = torch.randn((*(() if rows is None else (rows,)), 60), dtype=torch.float64, generator=generator)
    options = {"center": center, "pad_mode": pad_mode, "normalized": normalized, "onesided": onesided}
    options["return_complex"] = not real
    spectrum = stft(x, n_fft, hop, size, window, **options)
    torch.testing.assert_close(
        spectrum, torch.stft(x, n_fft, hop, size, window, **options), rtol=1e-9, atol=1e-9
    )


@settings(deadline=None, max_examples=60)
@given(
    n_fft=st.integers(4, 24),
    part=st.integers(1, 4),
    short=st.booleans(),
    center=st.booleans(),
    normalized=st.booleans(),
    onesided=st.booleans(),
    length=st.none() | st.integers(1, 40),
    rows=st.none() | st.integers(1, 3),
)
def test_a_signal_is_what_pytorch_computes(n_fft, part, short, center, normalized, onesided, length, rows):
    generator = torch.Generator().manual_seed(n_fft)
    hop, size = max(1, n_fft // (2 * part)), n_fft - 1 if short else n_fft
    window = torch.hamming_window(size, dtype=torch.float64)
    shape = (*(() if rows is None else (rows,)), n_fft // 2 + 1 if onesided else n_fft, 60)
    spectrum = torch.randn(shape, dtype=torch.complex128, generator=generator)
    options = {"center": center, "normalized": normalized, "onesided": onesided, "length": length}
    try:
        expected = torch.istft(spectrum, n_fft, hop, size, window, **options)
    except RuntimeError:  # a window that is zero at an end
        return
    signal = inverse_stft(spectrum, n_fft, hop, size, window, **options)
    torch.testing.assert_close(signal, expected, rtol=1e-9, atol=1e-9)


def test_without_window_and_hop_it_has_pytorch_s_own():
    spectrum = torch.randn(9, 12, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    expected = torch.istft(spectrum, 16, window=torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(inverse_stft(spectrum, 16), expected)
