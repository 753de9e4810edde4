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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from onnxscript import BOOL, DOUBLE, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from ._torch_internals import assume
from .part_writes import write_part
from .source_modules import source_spaces
from .step_numbers import Evenly

LARGEST = 512
"""Points up to which a spectrum is a convolution; larger ones use ONNX's STFT, which
does not stream."""


_TRACED = {int: torch.SymInt, float: torch.SymFloat}
"""The traced numbers that are an ``int`` and a ``float`` outside of a trace."""
_CONVERSIONS: Mapping[type, Callable[[Any], Any]] = {
    int: torch.sym_int,
    float: torch.sym_float,
}
"""Conversion of a traced number to each type."""


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
        value = args[0] if args else None
        if isinstance(value, Evenly):
            return value.converted(cls.stands_for)
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return _CONVERSIONS[cls.stands_for](value)
        return cls.stands_for(*args, **kwargs)


_STAND_INS: Mapping[str, Any] = {
    "int": _LikeBuiltin("int", (), {"stands_for": int}),
    "float": _LikeBuiltin("float", (), {"stands_for": float}),
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


def _float64(size: Any) -> Any:
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


def _where(condition: Any, chosen: Any, other: Any) -> Any:
    """Choose between two values; onnxruntime has no Where for booleans."""
    if not (_is_bool(chosen) and _is_bool(other)):
        return op.Where(condition, chosen, other)
    is_other = op.And(op.Not(condition), _bool_tensor(other))
    return op.Or(op.And(condition, _bool_tensor(chosen)), is_other)


def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """Fill ``x`` where ``mask`` is True, booleans as well."""
    if not _is_bool(x):
        return op.Where(mask, op.CastLike(value, x), x)
    return _where(mask, bool(value) if isinstance(value, int) else value, x)


def _is_bool(value: Any) -> bool:
    """Return True for a boolean, traced or not."""
    is_traced = getattr(value, "dtype", None) == ir.DataType.BOOL
    return is_traced or isinstance(value, bool)


def _bool_tensor(value: Any) -> Any:
    """Return a boolean as a tensor."""
    if not isinstance(value, bool):
        return value
    number: Any = op.Constant(value_int=int(value))
    return op.Cast(number, to=BOOL.dtype)


def _zero_like(x: Any) -> Any:
    """Return 0 in the dtype of ``x``."""
    zero: Any = op.Constant(value_int=0)
    return op.CastLike(zero, x)


def _sign(x: Any) -> Any:
    """Return the sign, which is 0 for NaN in PyTorch and NaN in onnxruntime."""
    if x.dtype == ir.DataType.BOOL:
        return op.Identity(x)
    zero = _zero_like(x)
    positive: Any = op.CastLike(op.Less(zero, x), x)
    return op.Sub(positive, op.CastLike(op.Less(x, zero), x))


def _heaviside(x: Any, at_zero: Any) -> Any:
    """Return 1 for positive numbers, ``at_zero`` for 0, and 0 for others and NaN."""
    zero = _zero_like(x)
    step: Any = op.CastLike(op.Less(zero, x), x)
    return op.Where(op.Equal(x, zero), at_zero, step)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    math.ceil: lambda size: _whole(op.Ceil(_float64(size))),
    math.floor: lambda size: _whole(op.Floor(_float64(size))),
    math.trunc: _whole,
    # Python rounds down, ONNX's division of integers rounds towards zero
    operator.floordiv: lambda a, b: _whole(op.Floor(op.Div(_float64(a), _float64(b)))),
    operator.truediv: lambda a, b: op.Div(_float64(a), _float64(b)),
    torch.sym_float: _float64,
    torch.ops.aten.atan2.default: _atan2,
    torch.ops.aten.masked_fill.Scalar: _masked_fill,
    torch.ops.aten.masked_fill.Tensor: _masked_fill,
    torch.ops.aten.where.Scalar: _where,
    torch.ops.aten.where.ScalarOther: _where,
    torch.ops.aten.where.ScalarSelf: _where,
    torch.ops.aten.where.self: _where,
    torch.ops.aten.sign.default: _sign,
    torch.ops.aten.sgn.default: _sign,
    torch.ops.aten.heaviside.default: _heaviside,
}
"""Translations of arithmetic on sizes and of operators, by the function in a traced
graph."""


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


def _squeeze(input: Tensor, dim: Any = None) -> Tensor:  # noqa: A002  the name that callers use
    """Drop axes of size 1, and ignore others as PyTorch does; ONNX refuses others."""
    if not input.dim():
        return input
    axes = range(input.dim()) if dim is None else dim
    if isinstance(axes, int):
        axes = (axes,)
    last_first = sorted({axis % input.dim() for axis in axes}, reverse=True)
    for axis in last_first:
        if _is_single(input.shape[axis]):
            input = torch.select(input, axis, 0)  # noqa: A001
    return input


def _is_single(size: Any) -> bool:
    """Return True for size 1; a traced size stays as the example has it."""
    if not isinstance(size, torch.SymInt):
        return bool(size == 1)
    is_single: bool = size.node.hint == 1
    assume(size == 1 if is_single else size > 1)
    return is_single


def _as_float(number: Any) -> Any:
    """Return an ``int`` as a ``float``; a traced size stays as it is."""
    return float(number) if type(number) is int else number


def _arange(*args: Any, **kwargs: Any) -> Tensor:
    """Make a range whose ``tolist()`` gives numbers if its ends are numbers; all ends
    are floats if one is.
    """
    names = ("start", "end", "step")
    positions = names if len(args) > 1 else ("end",)
    options = dict(zip(positions, args, strict=False)) | kwargs
    if any(isinstance(options.get(name), float) for name in names):
        for name in filter(options.__contains__, names):
            options[name] = _as_float(options[name])
    tensor = torch.arange(**options)
    numbers = [({"start": 0, "step": 1} | options)[name] for name in names]
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
    pool: Any = F.max_pool2d
    pooled: Tensor = pool(
        x.unsqueeze(-1),
        (_number(kernel_size), 1),
        (_number(stride or kernel_size), 1),
        (_number(padding), 0),
        (_number(dilation), 1),
        **named,
    )
    return pooled.squeeze(-1)


def _number(size: Any) -> Any:
    """Return a size that may be given as a tuple of one."""
    return size[0] if isinstance(size, tuple | list) else size


def _over_all_axes(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``amax`` or ``amin`` that names all axes where none is given; ONNX has no
    translation without axes.
    """

    def reduced(
        input: Tensor,  # noqa: A002  the name that callers use
        dim: Any = (),
        keepdim: bool = False,
    ) -> Tensor:
        """Reduce the axes, or all of them."""
        has_axes = isinstance(dim, int) or len(dim) > 0
        axes = dim if has_axes else tuple(range(input.dim()))
        return reduce(input, axes, keepdim)

    return reduced


def _bucketize(
    input: Any,  # noqa: A002  the name that callers use
    boundaries: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
) -> Tensor:
    """Count the boundaries below each value; a search takes 20 nodes a step. NaN
    lies above all boundaries.
    """
    values = torch.as_tensor(input).unsqueeze(-1)
    is_above = boundaries > values if right else boundaries >= values
    counted = torch.int32 if out_int32 else torch.int64
    return (~is_above).float().sum(-1).to(counted)


def _search_sorted(
    sorted_sequence: Tensor,
    input: Any,  # noqa: A002  the name that callers use
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Count as ``_bucketize`` does; each row of values may have its own boundaries."""
    if sorter is not None:
        sorted_sequence = sorted_sequence.gather(-1, sorter)
    boundaries = sorted_sequence
    if boundaries.dim() > 1:
        boundaries = boundaries.unsqueeze(-2)
    is_right = right or side == "right"
    return _bucketize(input, boundaries, out_int32=out_int32, right=is_right)


def _cosine_similarity(
    x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8
) -> Tensor:
    """Scale both sides before they broadcast, so that a prototype is a constant."""
    rank = max(x1.dim(), x2.dim())
    pair = [x[(None,) * (rank - x.dim())] for x in (x1, x2)]
    sizes = [x.shape[dim] if rank else 1 for x in pair]
    if not rank or not all(type(size) is int for size in sizes) or len({*sizes}) > 1:
        return torch.cosine_similarity(x1, x2, dim, eps)
    first, second = (
        x / torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp_min(eps)
        for x in pair
    )
    similarity: Tensor = (first * second).sum(dim)
    return similarity


def _pad(
    input: Tensor,  # noqa: A002  PyTorch's name
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    """Replace ``F.pad``: circular padding is a concatenation. PyTorch writes its parts
    one by one, and asks of each whether elements overlap.
    """
    if mode != "circular" or min(pad) < 0:
        return F.pad(input, pad, mode, value)
    padded = input
    for pair in range(len(pad) // 2):
        left, right = pad[2 * pair : 2 * pair + 2]
        axis = input.dim() - 1 - pair
        size = input.shape[axis]
        around = [
            padded.narrow(axis, size - left, left),
            padded,
            padded.narrow(axis, 0, right),
        ]
        padded = torch.cat(around, axis)
    return padded


REPLACED: dict[Any, Callable[..., Any]] = {
    torch.arange: _arange,
    **dict.fromkeys((torch.amax, Tensor.amax), _over_all_axes(torch.amax)),
    **dict.fromkeys((torch.amin, Tensor.amin), _over_all_axes(torch.amin)),
    torch.bucketize: _bucketize,
    torch.cosine_similarity: _cosine_similarity,
    torch.searchsorted: _search_sorted,
    F.pad: _pad,
    Tensor.__setitem__: write_part,
    **{function: _window_function(function) for function in _WINDOWS},
    **dict.fromkeys((torch.squeeze, Tensor.squeeze), _squeeze),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool),
    **dict.fromkeys((torch.stft, Tensor.stft), stft),
    **dict.fromkeys((torch.istft, Tensor.istft), inverse_stft),
}
"""The replacement of each function."""
