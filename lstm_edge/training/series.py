"""Whole series as tensors, and the streams of them that a device would see."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checkpoint import Scale
from ..data.recordings import Recording, Recordings
from ..lstm1 import LSTM1

_ROWS, _CHUNK = 256, 512
"""Streams and steps of one call of the network in evaluation."""
_PICKS = 16
"""Steps of a window that validation looks at."""


@dataclass(frozen=True)
class SeriesSet:
    """The series of a set, scaled, end to end."""

    x: Tensor
    """``float32 (T, I)``."""
    y: Tensor
    """Class indices ``int64 (T,)`` or scaled values ``float32 (T, C)``, one for each step."""
    begin: Tensor
    """``int64 (S,)``: the row of ``x`` that each series begins at."""
    size: Tensor
    """``int64 (S,)``: steps of each series."""
    window: int | None
    """Steps of a window; None where each series is one sample."""
    joined: bool
    """Whether a stream goes on from one series to the next."""

    @classmethod
    def of(
        cls,
        series: Sequence[Recording],
        inputs: Scale,
        targets: Scale | None,
        window: int | None,
        *,
        joined: bool,
    ) -> "SeriesSet":
        """Return scaled series."""
        size = torch.tensor([len(one.x) for one in series])
        x = inputs.apply(torch.cat([torch.from_numpy(one.x).float() for one in series]))
        y = torch.cat([torch.from_numpy(one.y.copy()) for one in series if one.y is not None])
        y = y if targets is None else targets.apply(y)
        return cls(x, y, size.cumsum(0) - size, size, window, joined)

    def to(self, device: str) -> "SeriesSet":
        """Return the same with ``x`` and ``y`` on another device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    @property
    def unit(self) -> Tensor:
        """``int64 (S,)``: steps of a window of each series."""
        return self.size if self.window is None else torch.full_like(self.size, self.window)

    def owner(self, rows: Tensor) -> Tensor:
        """Return the number of the series ``int64 (K,)`` of each of some rows of ``x``."""
        return torch.searchsorted(self.begin, rows, right=True) - 1


def joins_series(recordings: Recordings, window: int | None) -> bool:
    """Return whether a stream of such data goes on from one series to the next.

    It does where each series is one sample, or has one class: a live sensor does not stop between two
    activities. Series that change their class themselves, and series of values, start from reset.
    """
    if window is None:
        return True
    return bool(recordings.labels) and all(
        one.y is not None and bool((one.y == one.y[0]).all()) for one in recordings.series
    )


@dataclass(frozen=True)
class Streams:
    """Rows of steps that run with carried states, each from reset; padded to the longest one."""

    step: Tensor
    """``int64 (N, L)``: rows of ``SeriesSet.x``; 0 past a stream's end."""
    series: Tensor
    """``int64 (N, L)``: the series of each step; -1 past a stream's end."""
    since: Tensor
    """``int64 (N, L)``: steps since the reset, or since the series began."""
    unit: Tensor
    """``int64 (N, L)``: steps of a window there."""

    @property
    def valid(self) -> Tensor:
        """``bool (N, L)``: which steps are not padding."""
        return self.series >= 0

    @property
    def counted(self) -> Tensor:
        """``bool (N, L)``: steps that have seen a whole window since the reset or their series' start."""
        return self.valid & (self.since + 1 >= self.unit)

    @property
    def picked(self) -> Tensor:
        """``bool (N, L)``: those of them that are evenly spaced, a few in each window, and its last one."""
        every = (self.unit // _PICKS).clamp(min=1)
        return self.counted & ((self.since + 1) % self.unit % every == 0)


def cut_streams(series: SeriesSet, windows: int, *, cut: bool) -> Streams:
    """Return streams that are ``windows`` windows long or more, where series are joined; else one a series.

    Args:
        series: the set.
        windows: as many as a stream has at least.
        cut: cut series into stretches of that many windows, each from reset, so that no stream is longer.
    """
    order = torch.randperm(len(series.size), generator=torch.Generator().manual_seed(0)).tolist()
    rows: list[list[tuple[int, int, int]]] = []
    room = 0
    for number in order if series.joined else range(len(series.size)):
        size, unit = int(series.size[number]), int(series.unit[number])
        most = windows * unit if cut else size
        for start in range(0, size, most):
            if room <= 0 or not series.joined:
                rows.append([])
                room = windows * unit
            length = min(most, size - start)
            rows[-1].append((number, start, length))
            room -= length

    def padded(piece: Callable[[int, int, int], Tensor], padding: int) -> Tensor:
        lines = [torch.cat([piece(*each) for each in row]) for row in rows]
        return pad_sequence(lines, batch_first=True, padding_value=padding)

    return Streams(
        step=padded(lambda number, start, length: series.begin[number] + start + torch.arange(length), 0),
        series=padded(lambda number, _, length: torch.full((length,), number), -1),
        since=padded(lambda _number, _start, length: torch.arange(length), 0),
        unit=padded(lambda number, _, length: series.unit[number].expand(length), 1),
    )


@torch.no_grad()
def stream_outputs(model: LSTM1, series: SeriesSet, streams: Streams, where: Tensor) -> Tensor:
    """Return the outputs ``(K, C)`` at the K steps of ``where (N, L)``, row by row, states carried.

    Args:
        model: as trained, in evaluation mode afterwards.
        series: the set.
        streams: rows of its steps.
        where: ``bool (N, L)``.
    """
    model.eval()
    outputs = []
    for rows in torch.arange(len(streams.step)).split(_ROWS):  # type: ignore[no-untyped-call]
        state, hidden = None, []
        longest = int(streams.valid[rows].sum(dim=1).max())
        for chunk in torch.arange(longest).split(_CHUNK):  # type: ignore[no-untyped-call]
            x = series.x[streams.step[rows][:, chunk]]
            steps, state = model.hidden_steps(x, state)
            hidden.append(steps)
        outputs.append(model.head(torch.cat(hidden, dim=1)[where[rows, :longest]]))
    return torch.cat(outputs)
