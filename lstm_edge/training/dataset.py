"""Sequences as tensors: windows of series, scaled, and random crops of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lstm_edge_runtime.errors import InputError

from ..checkpoint import Scale
from ..data.recordings import Recording

__all__ = ["Dataset", "crop", "cut_windows", "fit_scale", "scale_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Samples of one set, padded to one length."""

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

    def to(self, device: str) -> "Dataset":
        """Return the same on another device; ``lengths`` stay on the CPU, where packing wants them."""
        return Dataset(self.x.to(device), self.lengths, self.y.to(device), self.steady)

    def take(self, rows: Tensor) -> "Dataset":
        """Return these rows, ``int64``, without the steps that none of them has."""
        lengths = self.lengths[rows]
        there = rows.to(self.x.device)
        return Dataset(self.x[there, : int(lengths.max())], lengths, self.y[there], self.steady[rows])

    @property
    def ragged(self) -> Tensor | None:
        """The lengths where they differ from ``L``, else None."""
        return self.lengths if bool((self.lengths != self.x.shape[1]).any()) else None


def cut_windows(series: Sequence[Recording], window: int | None, stride: int | None) -> Dataset:
    """Return windows of series, or whole series if ``window`` is None.

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
        assert one.y is not None
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
        x[row, : len(piece)] = torch.from_numpy(np.ascontiguousarray(piece, dtype=np.float32))
    return Dataset(x, lengths, torch.from_numpy(np.stack(targets)), torch.tensor(steady))


def fit_scale(columns: Tensor) -> Scale:
    """Return the mean and standard deviation of each column of ``(rows, columns)``, summed in float64.

    A column that varies by no more than float32's rounding keeps a deviation of 1: dividing by noise would
    blow up the first sample that differs.
    """
    mean, std = columns.double().mean(dim=0), columns.double().std(dim=0, correction=0)
    info = torch.finfo(torch.float32)
    varies = std > (info.eps * mean.abs()).clamp(min=info.tiny)
    return Scale(mean=tuple(mean.tolist()), std=tuple(torch.where(varies, std, 1.0).tolist()))


def scale_dataset(dataset: Dataset, inputs: Scale, targets: Scale | None) -> Dataset:
    """Return the samples as the network sees them; steps past a sample's length stay zero."""
    x = (dataset.x - torch.tensor(inputs.mean)) / torch.tensor(inputs.std)
    valid = torch.arange(x.shape[1]) < dataset.lengths[:, None]
    y = dataset.y
    if targets is not None:
        y = (y - torch.tensor(targets.mean)) / torch.tensor(targets.std)
    return Dataset(torch.where(valid[..., None], x, 0.0), dataset.lengths, y, dataset.steady)


def crop(dataset: Dataset, shortest: float, generator: torch.Generator) -> Dataset:
    """Return a random stretch of each sample, all of one random fraction of its length.

    A stretch lies anywhere in a sample whose target holds all through, and at the end of any other.
    """
    share = shortest + (1 - shortest) * float(torch.rand((), generator=generator))
    lengths = (dataset.lengths * share).round().long().clamp(min=1)
    slack = dataset.lengths - lengths
    start = (torch.rand(len(dataset), generator=generator) * (slack + 1)).long()
    start = torch.where(dataset.steady, torch.minimum(start, slack), slack)
    steps = torch.arange(int(lengths.max()))
    index = (start[:, None] + steps).clamp(max=dataset.x.shape[1] - 1)
    x = dataset.x[torch.arange(len(dataset))[:, None], index]
    x = torch.where((steps < lengths[:, None])[..., None].to(x.device), x, 0.0)
    return Dataset(x, lengths, dataset.y, dataset.steady)
