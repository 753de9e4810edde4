"""Packed sequences in a trace: padded data under a ``PackedSequence``'s name.

A ``PackedSequence`` is given padded data ``(N*L, ...)`` in place of packed data; its ``batch_sizes``, true
but for zeros behind the longest row, stand for the lengths. ONNX's ``sequence_lens`` needs no sorting, so the
sort inside ``pack_padded_sequence(enforce_sorted=False)`` is answered with the identity.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.utils import rnn

from lstm_edge_runtime.errors import UnsupportedError

__all__ = ["Packed", "Packing", "assume"]


@dataclass(frozen=True)
class Packed:
    """What the ``batch_sizes`` of a ``PackedSequence`` stand for."""

    batch_sizes: Tensor
    lengths: Tensor
    batch: Any


class Packing:
    """Answers what ``pack_padded_sequence`` and ``pad_packed_sequence`` ask of torch, in one trace."""

    def __init__(self) -> None:
        self._packed: list[Packed] = []
        self._identities: list[Tensor] = []
        self._flattened: list[tuple[Tensor, Tensor, bool]] = []

    def answer(self, func: Callable[..., Any], args: Sequence[Any], depth: int) -> Any:
        """Answer ``func``, which the frame ``depth`` above this one calls; NotImplemented passes it on.

        Raises:
            UnsupportedError: lengths come as a list.
        """
        if func is torch._VF._pack_padded_sequence:
            return self._pack(*args)
        caller = sys._getframe(depth + 1)
        packs = caller.f_code is rnn.pack_padded_sequence.__code__
        if func is torch.sort and packs:
            return args[0], self._identity(args[0])
        if func is torch.as_tensor and packs:
            raise UnsupportedError(
                "pack_padded_sequence is given a list of lengths, which a file would hold as constants; "
                "give it the tensor of lengths itself, without tolist()"
            )
        if func is torch._VF._pad_packed_sequence:
            return self._pad(*args, trim=caller.f_locals.get("total_length", 0) is None)
        if func is Tensor.size and caller.f_code is rnn.pad_packed_sequence.__code__:
            packed = self.find(args[0])
            if packed and caller.f_locals["total_length"] is None:
                return _longest(packed.lengths, args[0].shape[0])
        if func in _ON_IDENTITY and any(self._is_identity(arg) for arg in args):
            return _ON_IDENTITY[func](*args)
        if func is Tensor.__getitem__ and type(args[1]) is int and args[1] == 0:
            packed = self.find(args[0])
            return packed.batch if packed else NotImplemented
        return NotImplemented

    def find(self, batch_sizes: Any) -> Packed | None:
        """Tell what ``batch_sizes`` stand for; None where they are of no packed sequence."""
        return next((packed for packed in self._packed if packed.batch_sizes is batch_sizes), None)

    def flatten(self, rows: Tensor, *, zero_padded: bool) -> Tensor:
        """Return ``(N*L, ...)`` and remember the ``(N, L, ...)`` it came from."""
        flat = rows.flatten(0, 1)
        self._flattened.append((flat, rows, zero_padded))
        return flat

    def unflatten(self, flat: Tensor, packed: Packed) -> tuple[Tensor, bool]:
        """Return ``(N, L, ...)``, and whether it is known to be zero behind each row's length."""
        for known, rows, zero_padded in self._flattened:
            if known is flat:
                return rows, zero_padded
        return flat.reshape(packed.batch, -1, *flat.shape[1:]), False

    def _identity(self, lengths: Tensor) -> Tensor:
        marker = torch.arange(lengths.shape[0], device=lengths.device)
        self._identities.append(marker)
        return marker

    def _is_identity(self, value: Any) -> bool:
        return any(value is marker for marker in self._identities)

    def _pack(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        rows = x if batch_first else x.transpose(0, 1)
        assume(lengths.shape[0] == rows.shape[0])
        steps = torch.arange(rows.shape[1], device=lengths.device)
        batch_sizes = (lengths.unsqueeze(0) > steps.unsqueeze(1)).sum(1)
        self._packed.append(Packed(batch_sizes, lengths, rows.shape[0]))
        return self.flatten(rows, zero_padded=False), batch_sizes

    def _pad(
        self, data: Tensor, batch_sizes: Tensor, batch_first: bool, value: float, total: Any, *, trim: bool
    ) -> tuple[Tensor, Tensor]:
        packed = self.find(batch_sizes)
        if packed is None:
            raise TypeError("pad_packed_sequence was given a sequence that pack_padded_sequence did not make")
        y, zero_padded = self.unflatten(data, packed)
        if value != 0 or not zero_padded:
            steps = torch.arange(y.shape[1], device=data.device)
            valid = steps.unsqueeze(0) < packed.lengths.unsqueeze(1)
            y = torch.where(valid.reshape(*valid.shape, *[1] * (y.dim() - 2)), y, value)
        if trim:
            y = y.narrow(1, 0, total)
        elif not statically_known_true(total == y.shape[1]):
            room = [*[0, 0] * (y.dim() - 2), 0, total - y.shape[1]]
            y = torch.nn.functional.pad(y, room, value=value)
        return (y if batch_first else y.transpose(0, 1)), packed.lengths


def assume(fact: Any) -> None:
    """Tell the tracer a fact about sizes."""
    check: Any = torch._check
    check(fact)


def _longest(lengths: Tensor, steps: Any) -> Any:
    """Return the greatest length as a size that the tracer knows to be within the padded length."""
    longest: Any = lengths.max().item()
    assume(longest >= 1)
    assume(longest <= steps)
    return longest


_ON_IDENTITY: dict[Any, Callable[..., Any]] = {
    Tensor.to: lambda marker, *_: marker,
    torch.empty_like: lambda marker, *_: marker,
    Tensor.index_select: lambda tensor, *_: tensor,
    Tensor.scatter_: lambda _target, _dim, marker, *_: marker,
}
"""What the identity permutation gives when PyTorch's packing moves it, permutes with it or inverts it."""
