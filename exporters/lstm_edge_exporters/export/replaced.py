"""Replacements of functions while ``forward`` is traced: sizes, spectra, pooling,
squeeze.

Python's ``int`` and ``float`` would fix a size: while a module is traced, the
source modules of its layers have stand-ins among their globals. Spectra are
convolutions with the windowed Fourier basis of ``8 * (n_fft // 2 + 1) * n_fft`` bytes:
onnxruntime's STFT is less exact, and slower up to 512 points.
"""

import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnxscript import DOUBLE, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from .source_modules import source_spaces
from .step_numbers import Evenly

_assume: Any = torch._check
LARGEST = 512
"""Points up to which a spectrum is a convolution; larger ones use ONNX's STFT, which
does not stream."""


_TRACED = {int: torch.SymInt, float: torch.SymFloat}
"""The traced numbers that are an ``int`` and a ``float`` outside of a trace."""


class _LikeBuiltin(type):
    """Compares and behaves in ``isinstance`` as the type that a stand-in stands for."""

    stands_for: type

    def __instancecheck__(cls, value: Any) -> bool:
        """Accept traced sizes next to instances of the built-in type."""
        if isinstance(value, Evenly):
            return cls.stands_for is (int if value.is_whole else float)
        return isinstance(value, cls.stands_for | _TRACED[cls.stands_for])

    def __eq__(cls, other: object) -> bool:  # NumPy's dtype=int
        """Compare equal to the built-in type, as in NumPy's ``dtype=int``."""
        return other is cls or other is cls.stands_for

    def __hash__(cls) -> int:
        return hash(cls.stands_for)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Convert as the built-in type does; traced sizes stay traced."""
        if args and isinstance(args[0], Evenly):
            return args[0].converted(cls.stands_for)
        traced = args and isinstance(args[0], (*_TRACED.values(),))
        return (
            getattr(torch, f"sym_{cls.__name__}")(*args)
            if traced
            else cls.stands_for(*args, **kwargs)
        )


_STAND_INS: Mapping[str, Any] = {
    kind.__name__: _LikeBuiltin(kind.__name__, (), {"stands_for": kind})
    for kind in _TRACED
}


@contextmanager
def keeping_sizes(module: nn.Module, loops: Mapping[str, Any]) -> Iterator[None]:
    """Let the source modules of the layers' classes keep traced sizes inside.

    ``loops`` are stand-ins for functions that run loops over time, by name.
    """
    stand_ins = {**_STAND_INS, **loops}
    spaces = source_spaces(module)
    added = [(space, name) for space in spaces for name in stand_ins.keys() - space]
    for space, name in added:
        space[name] = stand_ins[name]
    try:
        yield
    finally:
        for space, name in added:
            del space[name]


def _wide(size: Any) -> Any:
    """Cast a size to float64: float32 holds no odd integer above 2**24."""
    return op.Cast(size, to=DOUBLE.dtype)


def _whole(size: Any) -> Any:
    """Cast a size to int64."""
    return op.Cast(size, to=INT64.dtype)


def _atan2(y: Any, x: Any) -> Any:
    """Return the angle of ``(x, y)``; NaN stays NaN, which ``torch.onnx`` turns into
    0.
    """
    numbers: list[Any] = [op.Constant(value_float=x) for x in (0.0, 1.0, math.pi)]
    zero, one, pi = (op.CastLike(number, y) for number in numbers)
    is_origin = op.And(op.Equal(x, zero), op.Equal(y, zero))
    angle = op.Atan(op.Div(y, op.Where(is_origin, one, x)))
    opposite = op.Where(op.Less(y, zero), op.Sub(angle, pi), op.Add(angle, pi))
    return op.Where(op.Less(x, zero), opposite, angle)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    math.ceil: lambda size: _whole(op.Ceil(_wide(size))),
    math.floor: lambda size: _whole(op.Floor(_wide(size))),
    math.trunc: _whole,
    # Python rounds down, ONNX's division of integers rounds towards zero
    operator.floordiv: lambda a, b: _whole(op.Floor(op.Div(_wide(a), _wide(b)))),
    operator.truediv: lambda a, b: op.Div(_wide(a), _wide(b)),
    torch.sym_float: _wide,
    torch.ops.aten.atan2.default: _atan2,
}
"""Translations of arithmetic on sizes and of operators, by the function in a traced
graph."""


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
    signal = x if x.dim() == 2 else x[None]
    if options.center:
        signal = F.pad(
            signal[:, None], (n_fft // 2, n_fft // 2), mode=options.pad_mode
        )[:, 0]
    waves = _waves(n_fft) / (np.sqrt(n_fft) if options.normalized else 1.0)
    window = _window(n_fft, options.win_length, options.window, x.dtype)
    basis = torch.tensor(waves.tolist(), dtype=x.dtype) * window
    real, imaginary = F.conv1d(signal[:, None], basis[:, None], stride=hop).chunk(2, 1)
    spectrum = torch.stack([real, imaginary], -1)
    spectrum = spectrum if x.dim() == 2 else spectrum[0]
    return torch.view_as_complex(spectrum) if options.return_complex else spectrum


def inverse_stft(x: Tensor, n_fft: int, *arguments: Any, **named: Any) -> Tensor:
    """Return the result of ``torch.istft`` for real signals; see its documentation.

    Rows of an inverse Fourier transform times the window are added up one hop apart.
    The sum of the squared windows, by which that is divided, is a channel of the same
    convolution.
    """
    names = (
        "hop_length",
        "win_length",
        "window",
        "center",
        "normalized",
        "onesided",
        "length",
    )
    options = (
        dict.fromkeys(names)
        | {"center": True}
        | dict(zip(names, arguments, strict=False))
        | named
    )
    hop_length, win_length, window, center, normalized, _, length = (
        options[name] for name in names
    )
    hop = hop_length or (win_length or n_fft) // 4
    bins = n_fft // 2 + 1
    spectrum = torch.view_as_real(x if x.dim() == 3 else x[None])[:, :bins]
    weights = _window(n_fft, win_length, window, spectrum.dtype)
    row = np.tile(np.arange(bins), 2)
    twice = np.where((row == 0) | (2 * row == n_fft), 1, 2)
    scale = twice[:, None] / (np.sqrt(n_fft) if normalized else n_fft)
    wave = (
        torch.tensor((scale * _waves(n_fft)).tolist(), dtype=spectrum.dtype) * weights
    )
    squares = torch.stack([torch.zeros_like(weights), weights * weights])[None]
    weight = torch.cat([torch.stack([wave, torch.zeros_like(wave)], 1), squares])
    frames = torch.cat(
        [spectrum[..., 0], spectrum[..., 1], torch.ones_like(spectrum[:, :1, :, 0])], 1
    )
    first = n_fft // 2 if center else 0
    end: Any = first + length if length is not None else -first if center else None
    signal, total = F.conv_transpose1d(frames, weight, stride=hop)[
        ..., first:end
    ].unbind(1)
    return signal / total if x.dim() == 3 else (signal / total)[0]


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
    ``(2 * bins, n_fft)``.
    """
    angle = (
        2
        * np.pi
        / n_fft
        * (np.arange(n_fft // 2 + 1)[:, None] * np.arange(n_fft) % n_fft)
    )
    return np.concatenate([np.cos(angle), -np.sin(angle)])


def _squeeze(input: Tensor, dim: Any = None) -> Tensor:  # noqa: A002  the name that callers use
    """Drop axes of size 1, and ignore others as PyTorch does; ONNX refuses others."""
    axes = (
        range(input.dim())
        if dim is None
        else dim
        if isinstance(dim, tuple | list)
        else (dim,)
    )
    for axis in sorted({axis % max(input.dim(), 1) for axis in axes}, reverse=True):
        size: Any = input.shape[axis] if input.dim() else 0
        single = size.node.hint == 1 if isinstance(size, torch.SymInt) else size == 1
        if isinstance(size, torch.SymInt):
            _assume(size == 1 if single else size > 1)
        if single:
            input = torch.select(input, axis, 0)  # noqa: A001
    return input


def _arange(*args: Any, **kwargs: Any) -> Tensor:
    """Make a range whose ``tolist()`` gives numbers if its ends are numbers."""
    tensor = torch.arange(*args, **kwargs)
    names = ("start", "end", "step") if len(args) > 1 else ("end",)
    ends = {"start": 0, "step": 1} | dict(zip(names, args, strict=False)) | kwargs
    numbers = [ends[name] for name in ("start", "end", "step")]
    if all(type(number) is int for number in numbers):
        tensor.tolist = lambda: list(range(*numbers))  # type: ignore[method-assign]
    return tensor


_WINDOWS: Mapping[Any, Callable[..., np.ndarray]] = {
    torch.bartlett_window: np.bartlett,
    torch.blackman_window: np.blackman,
    torch.hamming_window: lambda points, alpha=0.54, beta=0.46: (
        alpha - beta * np.cos(2 * np.pi * np.arange(points) / (points - 1))
    ),
    torch.hann_window: np.hanning,
    torch.kaiser_window: lambda points, beta=12.0: np.kaiser(points, beta),
}
"""The points of each window of PyTorch, and its parameters besides the length."""


def _window_function(function: Any) -> Callable[..., Tensor]:
    """Return a function that returns a window of fixed length as a constant."""
    make = _WINDOWS[function]
    names = [*inspect.signature(make).parameters][1:]

    def window(
        window_length: Any, periodic: bool = True, *shape: float, **options: Any
    ) -> Tensor:
        """Return the points of the window as a constant."""
        if type(window_length) is not int or window_length < 2:
            return function(window_length, periodic, *shape, **options)  # type: ignore[no-any-return]
        points = window_length + 1 if periodic else window_length
        parameters = dict(zip(names, shape, strict=False))
        parameters |= {name: options[name] for name in names if name in options}
        array = make(points, **parameters)[:window_length]
        return torch.tensor(array.tolist(), dtype=options.get("dtype"))

    return window


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    **named: Any,
) -> Tensor:
    """Pool over one axis as over two: torch.export fixes the size of the axis that
    ``max_pool1d`` pools.
    """
    sizes_and_units = zip(
        (kernel_size, stride or kernel_size, padding, dilation),
        (1, 1, 0, 1),
        strict=True,
    )
    sizes = [
        (size[0] if isinstance(size, tuple | list) else size, added)
        for size, added in sizes_and_units
    ]
    pool: Any = F.max_pool2d
    return pool(x.unsqueeze(-1), *sizes, **named).squeeze(-1)  # type: ignore[no-any-return]


REPLACED: dict[Any, Callable[..., Any]] = {
    torch.arange: _arange,
    **{function: _window_function(function) for function in _WINDOWS},
    **dict.fromkeys((torch.squeeze, Tensor.squeeze), _squeeze),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool),
    **dict.fromkeys((torch.stft, Tensor.stft), stft),
    **dict.fromkeys((torch.istft, Tensor.istft), inverse_stft),
}
"""The replacement of each function."""
