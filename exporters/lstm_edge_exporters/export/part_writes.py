"""Writes into a part of a tensor as writes of the whole tensor.

PyTorch asks whether elements of the part overlap, and then a size of the trace is two or
more. The elements of a whole tensor are known not to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .traced_sizes import in_example

_Entry = tuple[int, Any]
"""Axis, and an index or a slice of it."""
_Taken = tuple[Any, Sequence[_Entry]]
"""A part of a tensor, and the axes that it is selected from."""


@dataclass(frozen=True)
class _Part:
    """A part of a tensor, which shares its memory."""

    tensor: Tensor
    """The part; kept, so that no other tensor gets its id."""
    whole: Tensor
    """The tensor that it is a part of; maybe a part itself."""
    entries: Sequence[_Entry]
    """Axes of ``whole``, each with the index or slice that gives the part."""


class Parts:
    """The parts of tensors in one trace, and changes of them in place."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}

    def begin(self) -> None:
        """Forget an earlier run of ``forward``."""
        self._parts.clear()

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Remember the parts that ``func`` returns."""
        if (taken := _TAKEN.get(func)) is None:
            return
        for part, entries in taken(result, *args, **kwargs):
            if entries and part is not args[0]:
                self._parts[id(part)] = _Part(part, args[0], entries)

    def changes(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Return True if ``func`` changes a part in place."""
        is_part = bool(args) and id(args[0]) in self._parts
        return is_part and _is_in_place(func, kwargs)

    def change(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Change a part: a copy of it, which is written into the whole tensor."""
        part, *others = args
        changed = part.clone(memory_format=torch.contiguous_format)
        func((changed, *others), kwargs)
        self._write(part, changed)
        return part

    def _write(self, tensor: Tensor, value: Tensor) -> None:
        """Write all elements of a part, or of a whole tensor."""
        part = self._parts.get(id(tensor))
        if part is None:
            _write_whole(tensor, value)
        else:
            self._write(part.whole, _written(part.whole, part.entries, value))


def _is_in_place(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return True if ``func`` changes its first argument: ``add_``, ``__iadd__``,
    ``relu(inplace=True)``.
    """
    name = getattr(func, "__name__", "")
    is_special = name.startswith("__")
    is_named = name.endswith("_") and name not in _CHANGING_AXES
    changes = name in _SPECIAL if is_special else is_named
    return changes or kwargs.get("inplace") is True


_CHANGING_AXES = frozenset(
    ("squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_")
)
"""Methods that change no element."""
_OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
    *("and", "or", "xor", "lshift", "rshift"),
)
_SPECIAL = frozenset(("__setitem__", *(f"__i{name}__" for name in _OPERATORS)))
"""Special methods that change a tensor in place."""


def write_part(tensor: Tensor, index: Any, value: Any) -> None:
    """Do ``tensor[index] = value``."""
    entries = _entries(tensor, index)
    has_more_axes = isinstance(value, Tensor) and value.dim() > tensor.dim()
    if _is_choice(tensor, index, value):
        with_new_axes = (..., *[None] * (tensor.dim() - index.dim()))
        mask = index[with_new_axes]
        chosen = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
        _write_whole(tensor, torch.where(mask, chosen, tensor))
    elif entries is None or has_more_axes:
        Tensor.__setitem__(tensor, index, value)
    else:
        _write_whole(tensor, _written(tensor, entries, value))


def _write_whole(tensor: Tensor, value: Tensor) -> None:
    """Write all elements of a tensor."""
    strides = [in_example(stride) for stride in tensor.stride()]
    in_memory = sorted(range(tensor.dim()), key=strides.__getitem__, reverse=True)
    tensor.permute(in_memory).copy_(value.permute(in_memory))


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
    """Return the axes that an index selects from; None for one with tensors, new axes,
    several lists, or a list for an axis of any size.
    """
    given = index if isinstance(index, tuple) else (index,)
    lists = [entry for entry in given if isinstance(entry, list)]
    if len(lists) > 1 or not all(map(_is_plain, given)):
        return None
    is_rest = [entry is ... for entry in given]
    before = is_rest.index(True) if any(is_rest) else len(given)
    behind = given[before + 1 :]
    first_behind = tensor.dim() - len(behind)
    entries = [*enumerate(given[:before]), *enumerate(behind, first_behind)]
    listed = [axis for axis, entry in entries if isinstance(entry, list)]
    if not all(type(tensor.shape[axis]) is int for axis in listed):
        return None
    # from the last axis on, so that an index takes no axis in front of the next one
    return [(axis, entry) for axis, entry in entries[::-1] if entry != slice(None)]


def _is_plain(entry: Any) -> bool:
    """Return True for a number, numbers, a slice or ``...``."""
    if isinstance(entry, list):
        return bool(entry) and all(type(number) is int for number in entry)
    is_number = isinstance(entry, int) and not isinstance(entry, bool)
    return is_number or isinstance(entry, slice | type(...))


def _written(tensor: Tensor, entries: Sequence[_Entry], value: Any) -> Tensor:
    """Return ``tensor`` with ``value`` in the part that all ``entries`` take."""
    if not entries:
        whole = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
        return whole.expand(tensor.shape)
    (axis, entry), *others = entries
    if isinstance(entry, list):
        part = tensor.index_select(axis, torch.tensor(entry))
        inside = _written(part, others, value)
        return _at_positions(tensor, axis, positions=entry, inside=inside)
    if not isinstance(entry, slice):
        inside = _written(tensor.select(axis, entry), others, value)
        return _between(
            tensor, axis, (entry, entry + 1 or None), inside.unsqueeze(axis)
        )
    stop = entry.stop
    start = 0 if entry.start is None else entry.start
    step = 1 if entry.step is None else entry.step
    part = torch.ops.aten.slice.Tensor(tensor, axis, start, stop, step)
    inside = _written(part, others, value)
    size = tensor.shape[axis]
    is_fixed = all(type(bound) in (int, type(None)) for bound in (start, stop, step))
    if is_fixed and type(size) is int:
        positions = range(size)[start:stop:step]
        if step > 1:
            return _at_positions(tensor, axis, positions, inside)
        start, stop = positions.start, max(positions.start, positions.stop)
    if is_fixed and step == 1 and _is_ordered(start, stop):
        return _between(tensor, axis, (start, stop), inside)
    return torch.slice_scatter(tensor, inside, axis, start, stop, step)


def _is_ordered(start: int, stop: int | None) -> bool:
    """Return True if a slice stops at or after its start at any size."""
    if start == 0 or stop is None:
        return True
    return start <= stop and (start < 0) == (stop < 0)


def _between(
    tensor: Tensor, axis: int, bounds: tuple[int, int | None], inside: Tensor
) -> Tensor:
    """Return ``tensor`` with ``inside`` from the first to the second bound of an axis: a
    concatenation, which streams.
    """
    start, stop = bounds
    pieces = [inside]
    if start != 0:
        pieces.insert(0, torch.ops.aten.slice.Tensor(tensor, axis, 0, start))
    if stop is not None:
        pieces.append(torch.ops.aten.slice.Tensor(tensor, axis, stop, None))
    return torch.cat([piece for piece in pieces if not _is_empty(piece, axis)], axis)


def _is_empty(piece: Tensor, axis: int) -> bool:
    """Return True if a piece has no element along an axis of fixed size."""
    size = piece.shape[axis]
    return type(size) is int and size == 0


def _at_positions(
    tensor: Tensor, axis: int, positions: Sequence[int], inside: Tensor
) -> Tensor:
    """Return ``tensor`` with ``inside`` at positions of an axis of fixed size: a
    selection, which streams.
    """
    size = tensor.shape[axis]
    order = [*range(size)]
    for number, position in enumerate(positions):
        order[position] = size + number
    both = torch.cat([tensor, inside], axis)
    return both.index_select(axis, torch.tensor(order))


def _of_index(part: Any, tensor: Tensor, index: Any) -> Sequence[_Taken]:
    """Return the part ``tensor[index]``."""
    entries = _entries(tensor, index) or ()
    is_copy = any(isinstance(entry, list) for _, entry in entries)
    return [] if is_copy else [(part, entries)]


def _of_select(part: Any, tensor: Tensor, dim: int, index: Any) -> Sequence[_Taken]:
    """Return the part ``tensor.select(dim, index)``."""
    return [(part, [(dim % tensor.dim(), index)])]


def _of_narrow(
    part: Any, tensor: Tensor, dim: int, start: Any, length: Any
) -> Sequence[_Taken]:
    """Return the part ``tensor.narrow(dim, start, length)``."""
    if not (type(start) is int and start >= 0):
        return []
    return [(part, [(dim % tensor.dim(), slice(start, start + length))])]


def _of_unbind(parts: Any, tensor: Tensor, dim: int = 0) -> Sequence[_Taken]:
    """Return the parts ``tensor.unbind(dim)``."""
    axis = dim % tensor.dim()
    return [(part, [(axis, index)]) for index, part in enumerate(parts)]


def _of_pieces(
    parts: Any, tensor: Tensor, _: Any = None, dim: int = 0, **__: Any
) -> Sequence[_Taken]:
    """Return the parts ``tensor.chunk(count, dim)`` or ``tensor.split(size, dim)``."""
    axis = dim % tensor.dim()
    taken = []
    start: Any = 0
    for part in parts:
        stop = start + part.shape[axis]
        taken.append((part, [(axis, slice(start, stop))]))
        start = stop
    return taken


_TAKEN: Mapping[Any, Callable[..., Sequence[_Taken]]] = {
    Tensor.__getitem__: _of_index,
    **dict.fromkeys((torch.select, Tensor.select), _of_select),
    **dict.fromkeys((torch.narrow, Tensor.narrow), _of_narrow),
    **dict.fromkeys((torch.unbind, Tensor.unbind), _of_unbind),
    **dict.fromkeys((torch.chunk, Tensor.chunk, torch.split, Tensor.split), _of_pieces),
}
"""The parts that a function of tensors returns."""
