"""Writes into a part of a tensor as writes of the whole tensor.

PyTorch asks whether elements of the part overlap, and then a size of the trace is two or
more. The elements of a whole tensor are known not to.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .traced_sizes import in_example

_Entry = tuple[int, Any]
"""Axis, and an index or a slice of it."""


def write_part(tensor: Tensor, index: Any, value: Any) -> None:
    """Do ``tensor[index] = value``."""
    entries = _entries(tensor, index)
    if _is_choice(tensor, index, value):
        with_new_axes = (..., *[None] * (tensor.dim() - index.dim()))
        mask = index[with_new_axes]
        chosen = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
        written = torch.where(mask, chosen, tensor)
    elif entries is None or (isinstance(value, Tensor) and value.dim() > tensor.dim()):
        Tensor.__setitem__(tensor, index, value)
        return
    else:
        written = _written(tensor, entries, value)
    strides = [in_example(stride) for stride in tensor.stride()]
    in_memory = sorted(range(tensor.dim()), key=strides.__getitem__, reverse=True)
    tensor.permute(in_memory).copy_(written.permute(in_memory))


def _is_choice(tensor: Tensor, index: Any, value: Any) -> bool:
    """Return True if ``index`` is a mask, and all that it takes becomes the same
    ``value``: a choice between two, where PyTorch looks up indices.
    """
    if not isinstance(index, Tensor) or index.dtype != torch.bool:
        return False
    if not isinstance(value, Tensor):
        return isinstance(value, int | float)
    return value.dim() <= tensor.dim() - index.dim()


def _entries(tensor: Tensor, index: Any) -> list[_Entry] | None:
    """Return what an index takes of each axis; None for one with tensors or new axes."""
    given = index if isinstance(index, tuple) else (index,)
    if any(not isinstance(entry, int | slice | type(...)) for entry in given):
        return None
    if any(isinstance(entry, bool) for entry in given):
        return None
    is_rest = [entry is ... for entry in given]
    before = given.index(...) if any(is_rest) else len(given)
    behind = given[before + 1 :]
    first_behind = tensor.dim() - len(behind)
    entries = [*enumerate(given[:before]), *enumerate(behind, first_behind)]
    # from the last axis on, so that an index takes no axis in front of the next one
    return [(axis, entry) for axis, entry in entries[::-1] if entry != slice(None)]


def _written(tensor: Tensor, entries: Sequence[_Entry], value: Any) -> Tensor:
    """Return ``tensor`` with ``value`` in the part that all ``entries`` take."""
    if not entries:
        whole = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
        return whole.expand(tensor.shape)
    (axis, entry), *others = entries
    size = tensor.shape[axis]
    if not isinstance(entry, slice):
        inside = _written(tensor.select(axis, entry), others, value)
        if type(size) is int:
            start = entry % size
            return _between(tensor, axis, (start, start + 1), inside.unsqueeze(axis))
        return torch.select_scatter(tensor, inside, axis, entry)
    bounds = (entry.start, entry.stop, entry.step or 1)
    part = torch.ops.aten.slice.Tensor(tensor, axis, *bounds)
    inside = _written(part, others, value)
    if all(type(bound) in (int, type(None)) for bound in (size, *bounds)):
        start, stop, step = entry.indices(size)
        if step == 1:
            return _between(tensor, axis, (start, max(start, stop)), inside)
    return torch.slice_scatter(tensor, inside, axis, *bounds)


def _between(
    tensor: Tensor, axis: int, bounds: tuple[int, int], inside: Tensor
) -> Tensor:
    """Return ``tensor`` with ``inside`` from the first to the second bound of an axis of
    fixed size: a concatenation, which streams.
    """
    start, stop = bounds
    front = tensor.narrow(axis, 0, start)
    behind = tensor.narrow(axis, stop, tensor.shape[axis] - stop)
    pieces = [front, inside, behind]
    return torch.cat([piece for piece in pieces if piece.shape[axis] != 0], axis)
