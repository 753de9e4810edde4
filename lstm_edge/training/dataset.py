"""Sequences as tensors, scaled, and random crops of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checkpoint import Scale
from ..data.windows import Windows


@dataclass(frozen=True)
class Dataset:
    """``Windows`` as tensors."""

    x: Tensor
    lengths: Tensor
    y: Tensor
    steady: Tensor
    last: Tensor

    @classmethod
    def of(cls, windows: Windows) -> "Dataset":
        """Return windows as tensors."""
        return cls(*map(torch.from_numpy, vars(windows).values()))

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: str) -> "Dataset":
        """Return the same on another device; ``lengths`` stay on the CPU, where packing wants them."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def take(self, rows: Tensor) -> "Dataset":
        """Return these rows, ``int64``, without the steps that none of them has."""
        lengths = self.lengths[rows]
        there = rows.to(self.x.device)
        x = self.x[there, : int(lengths.max())]
        return Dataset(x, lengths, self.y[there], self.steady[rows], self.last[rows])

    @property
    def ragged(self) -> Tensor | None:
        """The lengths where they differ from ``L``, else None."""
        return self.lengths if bool((self.lengths != self.x.shape[1]).any()) else None


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
    return replace(dataset, x=torch.where(valid[..., None], x, 0.0), y=y)


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
    return replace(dataset, x=x, lengths=lengths)
