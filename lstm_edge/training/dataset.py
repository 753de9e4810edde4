"""Samples as tensors: windows of series, scaled, and random crops of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lstm_edge_runtime.errors import InputError

from ..checkpoint import Scale
from ..data.recordings import Recording

__all__ = ["Samples", "crop", "cut", "fit_scale", "scaled"]


@dataclass(frozen=True)
class Samples:
    """What a part of the data gives to learn from or to measure on."""

    x: Tensor
    """``float32 (S, L, I)``, zeros past each sample's length."""
    lengths: Tensor
    """``int64 (S,)``."""
    y: Tensor
    """Class indices ``int64 (S,)`` or values ``float32 (S, C)``: what holds at the last valid step."""
    steady: Tensor
    """``bool (S,)``: whether ``y`` holds all through, so that any stretch may stand for the sample."""

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: str) -> "Samples":
        """Return the same on another device; ``lengths`` stay on the CPU, where packing wants them."""
        return Samples(self.x.to(device), self.lengths, self.y.to(device), self.steady)

    def take(self, rows: Tensor) -> "Samples":
        """Return these rows, ``int64``, without the steps that none of them has."""
        lengths = self.lengths[rows]
        there = rows.to(self.x.device)
        return Samples(self.x[there, : int(lengths.max())], lengths, self.y[there], self.steady[rows])

    @property
    def ragged(self) -> Tensor | None:
        """The lengths where they differ from ``L``, else None."""
        return self.lengths if bool((self.lengths != self.x.shape[1]).any()) else None


def cut(series: Sequence[Recording], window: int | None, stride: int | None) -> Samples:
    """Cut series into windows, or take them whole.

    Raises:
        InputError: a series is shorter than the window, or a whole series has more than one class.
    """
    pieces, targets, steady = [], [], []
    for one in series:
        steps = len(one.x)
        size = window or steps
        if size > steps:
            raise InputError(
                f"series {one.name!r} has {steps} steps, fewer than the window of {size}; give a smaller one"
            )
        for start in range(0, steps - size + 1, stride or size):
            y = one.y[start : start + size]
            pieces.append(one.x[start : start + size])
            targets.append(y[-1])
            steady.append(bool((y == y[-1]).all()))
        if window is None and one.y.ndim == 1 and not steady[-1]:
            raise InputError(f"series {one.name!r} has more than one class; give --window to cut it")
    lengths = torch.tensor([len(piece) for piece in pieces])
    x = torch.zeros(len(pieces), int(lengths.max()), pieces[0].shape[1])
    for row, piece in enumerate(pieces):
        x[row, : len(piece)] = torch.from_numpy(np.ascontiguousarray(piece))
    return Samples(x, lengths, torch.from_numpy(np.stack(targets)), torch.tensor(steady))


def fit_scale(columns: Tensor) -> Scale:
    """Return the mean and standard deviation of each column of ``(rows, columns)``, summed in float64.

    A column that varies by no more than float32's rounding keeps a deviation of 1: dividing by noise would
    blow up the first sample that differs.
    """
    mean, std = columns.double().mean(dim=0), columns.double().std(dim=0, correction=0)
    info = torch.finfo(torch.float32)
    varies = std > (info.eps * mean.abs()).clamp(min=info.tiny)
    return Scale(mean=tuple(mean.tolist()), std=tuple(torch.where(varies, std, 1.0).tolist()))


def scaled(samples: Samples, inputs: Scale, targets: Scale | None) -> Samples:
    """Return the samples as the network sees them; steps past a sample's length stay zero."""
    x = (samples.x - torch.tensor(inputs.mean)) / torch.tensor(inputs.std)
    valid = torch.arange(x.shape[1]) < samples.lengths[:, None]
    y = samples.y
    if targets is not None:
        y = (y - torch.tensor(targets.mean)) / torch.tensor(targets.std)
    return Samples(torch.where(valid[..., None], x, 0.0), samples.lengths, y, samples.steady)


def crop(samples: Samples, shortest: float, generator: torch.Generator) -> Samples:
    """Return a random stretch of each sample, all of one random share of its length.

    A stretch lies anywhere in a sample whose target holds all through, and at the end of any other.
    """
    share = shortest + (1 - shortest) * float(torch.rand((), generator=generator))
    lengths = (samples.lengths * share).round().long().clamp(min=1)
    slack = samples.lengths - lengths
    start = (torch.rand(len(samples), generator=generator) * (slack + 1)).long()
    start = torch.where(samples.steady, torch.minimum(start, slack), slack)
    steps = torch.arange(int(lengths.max()))
    index = (start[:, None] + steps).clamp(max=samples.x.shape[1] - 1)
    x = samples.x[torch.arange(len(samples))[:, None], index]
    x = torch.where((steps < lengths[:, None])[..., None].to(x.device), x, 0.0)
    return Samples(x, lengths, samples.y, samples.steady)
