"""Samples of a set as the network sees them, random crops of them, and the scale of a set."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checkpoint import Scale
from ..data.training import Windows
from .series import SeriesSet


@dataclass(frozen=True)
class Dataset:
    """Samples of a set: ``Windows`` of its series, as tensors on the CPU."""

    series: SeriesSet
    lengths: Tensor
    last: Tensor
    steady: Tensor

    @classmethod
    def of(cls, series: SeriesSet, windows: Windows) -> "Dataset":
        """Return windows of a set's series."""
        return cls(series, *map(torch.from_numpy, vars(windows).values()))

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: str) -> "Dataset":
        """Return the same with the series on another device; ``lengths`` stay where packing wants them."""
        return replace(self, series=self.series.to(device))

    def take(self, rows: Tensor) -> "Dataset":
        """Return these rows, ``int64``."""
        return replace(self, lengths=self.lengths[rows], last=self.last[rows], steady=self.steady[rows])

    @property
    def x(self) -> Tensor:
        """``(S, L, I)``, up to the longest of them, zeros past each sample's length."""
        steps = torch.arange(int(self.lengths.max()))
        valid = steps < self.lengths[:, None]
        x = self.series.x[torch.where(valid, (self.last - self.lengths + 1)[:, None] + steps, 0)]
        return torch.where(valid[..., None].to(x.device), x, 0.0)

    @property
    def y(self) -> Tensor:
        """Classes ``(S,)`` or scaled values ``(S, C)``, those of the last steps."""
        return self.series.y[self.last]

    @property
    def ragged(self) -> Tensor | None:
        """The lengths where they differ, else None."""
        return self.lengths if bool((self.lengths != self.lengths[0]).any()) else None


def fit_scale(columns: Tensor) -> Scale:
    """Return the mean and standard deviation of each column of ``(rows, columns)``, summed in float64.

    A column that varies by no more than float32's rounding keeps a deviation of 1: dividing by noise would
    blow up the first sample that differs.
    """
    mean, std = columns.double().mean(dim=0), columns.double().std(dim=0, correction=0)
    info = torch.finfo(torch.float32)
    varies = std > (info.eps * mean.abs()).clamp(min=info.tiny)
    return Scale(mean=tuple(mean.tolist()), std=tuple(torch.where(varies, std, 1.0).tolist()))


def crop(dataset: Dataset, shortest: float, generator: torch.Generator) -> Dataset:
    """Return a random stretch of each sample, all of one random fraction of its length.

    A stretch lies anywhere in a sample whose target holds all through, and at the end of any other.
    """
    share = shortest + (1 - shortest) * float(torch.rand((), generator=generator))
    lengths = (dataset.lengths * share).round().long().clamp(min=1)
    slack = dataset.lengths - lengths
    start = (torch.rand(len(dataset), generator=generator) * (slack + 1)).long()
    start = torch.where(dataset.steady, torch.minimum(start, slack), slack)
    return replace(dataset, lengths=lengths, last=dataset.last - slack + start)
