"""Training with carried states (truncated backpropagation through time): lanes that walk through series."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_edge_runtime.manifest import Array

from ..lstm1 import LSTM1, HiddenAndCell
from .series import SeriesSet

_RESTART = 0.125
"""Share of the other lanes' series that start from reset, where a stream goes on from series to series."""
_WARM_UP = 4
"""The loss is taken behind this part of a window after a reset or the start of a series: a quarter."""
_WHOLE, _WINDOW = (8, 0.75), (16, 0.5)
"""Of a sample taken whole, and of a window of a series: the number of random steps behind the warm-up that
the loss is taken at besides the last one, and the share of the last one. A sample that is taken whole from
reset has its loss at the last step only, as with ``--carry off``: with random steps too, windows of
JapaneseVowels lost a point to it."""


def reset_lanes(rows: int) -> int:
    """Return how many of the lanes of a batch start every window from reset: half of them."""
    return rows // 2


class Lanes:
    """The rows of a batch: each takes a window at every step of the optimizer.

    The first half starts every window from reset, anywhere in a series. The others walk through a series
    window by window and carry their states; they begin at its start or anywhere in it, with the states of the
    series before where the set's series are joined, or from reset.

    Args:
        series: the training set.
        rows: how many lanes.
        crop: shortest random crop, as a fraction of a window.
        generator: of everything that is drawn.
    """

    def __init__(self, series: SeriesSet, rows: int, crop: float, generator: torch.Generator) -> None:
        self._series, self._crop, self._generator = series, crop, generator
        self._steps, last = _WHOLE if series.window is None else _WINDOW
        self._resets = reset_lanes(rows)
        self._reset = np.arange(rows) < self._resets
        self._last = torch.full((rows, 1, 1), last)
        if series.window is None:
            self._last[: self._resets] = 1.0
        self._begin, self._size, self._unit = (
            each.numpy() for each in (series.begin, series.size, series.unit)
        )
        self._windows = np.cumsum(self._size // self._unit)
        """Windows of the series up to each, itself included."""
        self._left = np.empty(0, np.int64)
        """Series that no lane has begun in this round, in the order of the draw."""
        self._now = np.zeros(rows, np.int64)
        self._at = np.full(rows, -1)
        """Step of its series that each lane goes on from; -1 where it takes a new one."""
        self._since = np.zeros(rows, np.int64)
        """Steps since the reset, or since the lane began its series."""
        self._state: HiddenAndCell | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next window of each lane follows from, except the generator."""
        numbers = {"left": self._left, "now": self._now, "at": self._at, "since": self._since}
        return {name: torch.tensor(each) for name, each in numbers.items()} | {"state": self._state}

    def load_state_dict(self, state: dict[str, Any], model: LSTM1) -> None:
        """Go on from what ``state_dict`` gave; raises as ``Loop.load_state_dict``."""
        size, window = self._series.size, self._series.window or 1
        left, now, at, since = (state[name] for name in ("left", "now", "at", "since"))
        if not left.dim() == 1 or not now.shape == at.shape == since.shape == self._now.shape:
            raise ValueError(f"lanes are {tuple(now.shape)}, {tuple(at.shape)}, {tuple(since.shape)}")
        if any(each.dtype != torch.int64 for each in (left, now, at, since)):
            raise TypeError("lanes are not int64")
        numbers = torch.cat([left, now])
        if not bool(((numbers >= 0) & (numbers < len(size))).all()):
            raise ValueError("lanes are in series that are not there")
        if not bool(((at >= -1) & (at + window <= size[now].clamp(min=window)) & (since >= 0)).all()):
            raise ValueError("lanes are past the end of their series")
        self._left, self._now, self._at, self._since = (
            each.numpy().copy() for each in (left, now, at, since)
        )
        lstm, weight = model.lstm, model.fc.weight
        shape = (lstm.num_layers, len(self._now), lstm.hidden_size)
        if state["state"] is not None:
            h, c = (each.to(weight) for each in state["state"])
            if not (h.shape == c.shape == shape and bool(torch.isfinite(h).all() & torch.isfinite(c).all())):
                raise ValueError(f"state is {tuple(h.shape)}, {tuple(c.shape)}")
            self._state = (h, c)

    def loss(self, model: LSTM1, criterion: nn.Module) -> Tensor:
        """Return the loss of every lane's next window, and step the lanes on.

        It is a weighted mean of that at the last step and that at random steps behind the warm-up; of whole
        samples from reset, that at the last step.

        Args:
            model: trained, in training mode.
            criterion: of outputs ``(R, C)`` and classes or values, with reduction ``none``.
        """
        start, lengths, fresh = self._advance()
        series, device, rows = self._series, self._series.x.device, len(start)
        low = np.maximum(lengths // _WARM_UP - self._since, 0)[:, None]
        there = low + (self._draw((rows, self._steps + 1)) * (lengths[:, None] - low)).astype(np.int64)
        there[:, -1] = lengths - 1
        self._since += lengths
        window = np.minimum(start[:, None] + np.arange(lengths.max()), len(series.x) - 1)
        state = self._state
        if state is not None:
            carried = torch.from_numpy(~fresh).to(device)[:, None]
            h, c = (torch.where(carried, each, 0.0) for each in state)
            state = (h, c)
        ragged = torch.from_numpy(lengths) if (lengths != lengths[0]).any() else None
        hidden, state = model.hidden_at(
            series.x[torch.from_numpy(window)], torch.from_numpy(there), state, ragged
        )
        h, c = state
        self._state = (h.detach(), c.detach())
        outputs = model.head(hidden)
        y = series.y[torch.from_numpy(start[:, None] + there)]
        losses = criterion(outputs.flatten(0, 1), y.flatten(0, 1)).reshape(rows, self._steps + 1, -1)
        last = self._last.to(losses)
        loss: Tensor = (last * losses[:, -1:] + (1 - last) * losses[:, :-1]).mean()
        return loss

    def _advance(self) -> tuple[Array, Array, Array]:
        """Return each lane's next window: its row in ``x``, its steps, and whether it starts from reset."""
        over, resets = self._at < 0, self._reset
        if self._series.window is None or not self._resets:
            self._now[over] = self._next_series(int(over.sum()))
        else:
            self._now[over & ~resets] = self._next_series(int((over & ~resets).sum()))
            window = self._draw((self._resets,)) * self._windows[-1]
            self._now[resets] = self._windows.searchsorted(window, side="right")
        restarts, anywhere, place, shrink = self._draw((4, len(over)))
        self._since[over] = 0
        fresh = over & (resets | (restarts < _RESTART)) if self._series.joined else over
        size, unit = self._size[self._now], self._unit[self._now]
        lengths = unit
        if self._crop < 1:
            share = self._crop + (1 - self._crop) * shrink[0]
            lengths = np.maximum((unit * share).round().astype(np.int64), 1)
        begin = np.where((anywhere < 0.5) | resets, (place * (size - lengths + 1)).astype(np.int64), 0)
        self._at = np.where(over, begin, self._at)
        start = self._begin[self._now] + self._at
        self._at += lengths
        self._at[resets | (self._at + unit > size)] = -1
        return start, lengths, fresh

    def _draw(self, shape: tuple[int, ...]) -> Array:
        """Return random numbers from 0 to below 1, float64."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float64).numpy()

    def _next_series(self, count: int) -> Array:
        """Return series, each as often as any other."""
        while len(self._left) < count:
            more = torch.randperm(len(self._size), generator=self._generator)
            self._left = np.concatenate([self._left, more.numpy()])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn
