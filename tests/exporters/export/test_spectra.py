"""``torch.stft`` as a convolution, and ``torch.istft`` as a transposed one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_exporters.export.spectra import inverse_stft, stft


@st.composite
def framings(draw):
    """Draw n_fft, hop, window size and window, and the axes of the rows."""
    n_fft = draw(st.integers(4, 24))
    hop = max(1, n_fft // (2 * draw(st.integers(1, 4))))
    size = n_fft - draw(st.integers(0, 1))
    rows = draw(st.just(()) | st.tuples(st.integers(1, 3)))
    return (n_fft, hop, size, torch.hamming_window(size, dtype=torch.float64)), rows


@pytest.mark.filterwarnings("ignore:stft with return_complex=False")
@settings(deadline=None, max_examples=60)
@given(
    framing=framings(),
    options=st.fixed_dictionaries(
        {
            "center": st.booleans(),
            "pad_mode": st.sampled_from(["reflect", "constant", "replicate"]),
            "normalized": st.booleans(),
            "onesided": st.none() | st.booleans(),
            "return_complex": st.booleans(),
        }
    ),
)
def test_a_spectrum_is_what_pytorch_computes(framing, options):
    arguments, rows = framing
    generator = torch.Generator().manual_seed(arguments[0])
    x = torch.randn((*rows, 60), dtype=torch.float64, generator=generator)
    expected = torch.stft(x, *arguments, **options)
    torch.testing.assert_close(
        stft(x, *arguments, **options), expected, rtol=1e-9, atol=1e-9
    )


@settings(deadline=None, max_examples=60)
@given(
    framing=framings(),
    center=st.booleans(),
    normalized=st.booleans(),
    onesided=st.booleans(),
    length=st.none() | st.integers(1, 40),
)
def test_a_signal_is_what_pytorch_computes(
    framing, center, normalized, onesided, length
):
    (n_fft, hop, size, window), rows = framing
    generator = torch.Generator().manual_seed(n_fft)
    shape = (*rows, n_fft // 2 + 1 if onesided else n_fft, 60)
    spectrum = torch.randn(shape, dtype=torch.complex128, generator=generator)
    options = {
        "center": center,
        "normalized": normalized,
        "onesided": onesided,
        "length": length,
    }
    try:
        expected = torch.istft(spectrum, n_fft, hop, size, window, **options)
    except RuntimeError:  # a window that is zero at an end
        return
    signal = inverse_stft(spectrum, n_fft, hop, size, window, **options)
    torch.testing.assert_close(signal, expected, rtol=1e-9, atol=1e-9)


def test_without_window_and_hop_it_has_pytorch_s_own():
    spectrum = torch.randn(
        9, 12, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)
    )
    expected = torch.istft(spectrum, 16, window=torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(inverse_stft(spectrum, 16), expected)


@pytest.mark.parametrize("n_fft", [4, 6, 32, 100])
def test_the_imaginary_part_of_the_last_bin_is_zero(n_fft):
    x = torch.randn(2, 300, dtype=torch.float64, generator=torch.manual_seed(0))
    window = torch.hann_window(n_fft, dtype=torch.float64)
    spectrum = stft(x, n_fft, window=window, return_complex=True)
    assert not spectrum.imag[:, [0, -1]].any()
