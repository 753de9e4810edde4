"""Functions of PyTorch that are replaced while ``forward`` is traced."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._torch_internals import assume
from .part_writes import write_part
from .spectra import inverse_stft, stft
from .traced_sizes import expression_of


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


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Replace ``F.scaled_dot_product_attention``, which ONNX has for four axes only."""
    if query.dim() == 4 or enable_gqa:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        sizes = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(sizes, dtype=torch.bool).tril()
    if attn_mask is None:
        return scores.softmax(-1) @ value
    if attn_mask.dtype != torch.bool:
        scores = scores + attn_mask
    else:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    is_masked = (scores == -torch.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(is_masked, 0.0).softmax(-1).masked_fill(is_masked, 0.0)
    return weights @ value


def _einsum(equation: str, *operands: Any) -> Tensor:
    """Sum products of more than two operands pair by pair, as programs do."""
    tensors = [*operands[0]] if isinstance(operands[0], list | tuple) else [*operands]
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if len(tensors) < 3 or not arrow or "." in equation:
        whole: Tensor = torch.einsum(equation, *operands)
        return whole
    made: Tensor = tensors[0]
    letters, *others = terms.split(",")
    for index, (other, tensor) in enumerate(zip(others, tensors[1:], strict=True)):
        needed = {*result, *"".join(others[index + 1 :])}
        joined = "".join(dict.fromkeys(letters + other))
        is_last = index == len(others) - 1
        kept = result if is_last else "".join(x for x in joined if x in needed)
        made = torch.einsum(f"{letters},{other}->{kept}", made, tensor)
        letters = kept
    return made


def _group_norm(
    input: Tensor,  # noqa: A002  PyTorch's name
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Replace ``F.group_norm`` of fixed axes behind the rows by ``F.layer_norm``."""
    sizes = input.shape[1:]
    if not all(type(size) is int for size in sizes):
        return F.group_norm(input, num_groups, weight, bias, eps)
    rows: Any = input.flatten(1)
    groups = rows.unflatten(1, (num_groups, -1))
    normalized: Any = F.layer_norm(groups, groups.shape[2:], eps=eps).flatten(1)
    result: Tensor = normalized.unflatten(1, sizes)
    per_channel = (-1, *[1] * (len(sizes) - 1))
    if weight is not None:
        result = result * weight.view(per_channel)
    return result if bias is None else result + bias.view(per_channel)


def _scatter(
    input: Tensor,  # noqa: A002  PyTorch's name
    dim: int,
    index: Tensor,
    src: Any = None,
    **named: Any,
) -> Tensor:
    """Write into rows of a fixed size by comparison with all places, as in a sum of
    one-hot vectors.
    """
    src = named.pop("value", src)
    size = input.shape[-1]
    is_last = dim % input.dim() == input.dim() - 1
    are_rows = [*map(expression_of, input.shape[:-1])] == [
        *map(expression_of, index.shape[:-1])
    ]
    if named or not (is_last and are_rows and type(size) is int):
        return torch.scatter(input, dim, index, src, **named)
    is_written = index.unsqueeze(-1) == torch.arange(size)
    if isinstance(src, Tensor):
        parts = src[..., : index.shape[-1]].unsqueeze(-1)
        src = torch.where(is_written, parts, torch.zeros_like(parts)).sum(-2)
        src = src.to(input.dtype)
    return torch.where(is_written.any(-2), src, input)


def _unfold(
    input: Tensor,  # noqa: A002  PyTorch's name
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """Replace ``F.unfold`` by slices, which keep time where the kernel has one step."""
    kernel, steps, pads, strides = (
        (size, size) if isinstance(size, int) else tuple(size)
        for size in (kernel_size, dilation, padding, stride)
    )
    padded = input
    if any(pads):
        padded = F.pad(input, (pads[1], pads[1], pads[0], pads[0]))
    parts = []
    for offsets in product(*map(range, kernel)):
        part = padded
        for axis in (0, 1):
            if (kernel[axis], strides[axis]) == (1, 1):
                continue
            first = offsets[axis] * steps[axis]
            behind = (kernel[axis] - 1 - offsets[axis]) * steps[axis]
            size = part.shape[axis - 2] - first - behind
            part = part.narrow(axis - 2, first, size)
            entries = [slice(None)] * part.dim()
            entries[axis - 2] = slice(None, None, strides[axis])
            part = part[tuple(entries)] if strides[axis] > 1 else part
        parts.append(part)
    return torch.stack(parts, -3).flatten(-4, -3).flatten(-2, -1)


REPLACED: dict[Any, Callable[..., Any]] = {
    torch.einsum: _einsum,
    F.unfold: _unfold,
    F.group_norm: _group_norm,
    **dict.fromkeys((torch.scatter, Tensor.scatter), _scatter),
    F.scaled_dot_product_attention: _attention,
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
