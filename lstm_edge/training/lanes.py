"""Training with carried states (truncated backpropagation through time): lanes that walk through series."""

from typing import Any

import torch
from torch import Tensor, nn

from ..lstm1 import LSTM1, HiddenAndCell
from .series import SeriesSet

__all__ = ["Lanes", "reset_lanes"]

_RESTART = 0.125
"""Share of the other lanes' series that start from reset, where a stream goes on from series to series."""
_WARM_UP = 4
"""The loss is taken behind this part of a window after a reset or the start of a series: a quarter."""
_STEPS = 16
"""Steps of a window, beside its last one, that the loss is taken at: random ones behind the warm-up."""


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
        self._resets = reset_lanes(rows)
        self._left = torch.empty(0, dtype=torch.int64)
        """Series that no lane has begun in this round, in the order of the draw."""
        self._now = torch.zeros(rows, dtype=torch.int64)
        self._at = torch.full((rows,), -1)
        """Step of its series that each lane goes on from; -1 where it takes a new one."""
        self._since = torch.zeros(rows, dtype=torch.int64)
        """Steps since the reset, or since the lane began its series."""
        self._state: HiddenAndCell | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next window of each lane follows from, beside the generator."""
        return {
            "left": self._left.clone(),
            "now": self._now.clone(),
            "at": self._at.clone(),
            "since": self._since.clone(),
            "state": self._state,
        }

    def load_state_dict(self, state: dict[str, Any], model: LSTM1) -> None:
        """Go on from what ``state_dict`` gave; raises as ``Loop.load_state_dict``."""
        size, window = self._series.size, self._series.window or 1
        left, now, at, since = (state[name] for name in ("left", "now", "at", "since"))
        rows = self._now.shape
        if not left.dim() == 1 or not now.shape == at.shape == since.shape == rows:
            raise ValueError(f"lanes are {tuple(now.shape)}, {tuple(at.shape)}, {tuple(since.shape)}")
        if any(each.dtype != torch.int64 for each in (left, now, at, since)):
            raise TypeError("lanes are not int64")
        numbers = torch.cat([left, now])
        if not bool(((numbers >= 0) & (numbers < len(size))).all()):
            raise ValueError("lanes are in series that are not there")
        if not bool(((at >= -1) & (at + window <= size[now].clamp(min=window)) & (since >= 0)).all()):
            raise ValueError("lanes are past the end of their series")
        self._left, self._now, self._at, self._since = (each.clone() for each in (left, now, at, since))
        lstm, weight = model.lstm, model.fc.weight
        shape = (lstm.num_layers, len(self._now), lstm.hidden_size)
        if state["state"] is not None:
            h, c = (each.to(weight) for each in state["state"])
            if not (h.shape == c.shape == shape and bool(torch.isfinite(h).all() & torch.isfinite(c).all())):
                raise ValueError(f"state is {tuple(h.shape)}, {tuple(c.shape)}")
            self._state = (h, c)

    def loss(self, model: LSTM1, criterion: nn.Module) -> Tensor:
        """Return the loss of every lane's next window, and step the lanes on.

        It is the mean of the loss at the last step and of that at steps behind the warm-up.
        """
        start, lengths, fresh = self._advance()
        series, device = self._series, self._series.x.device
        x = series.x[(start[:, None] + torch.arange(int(lengths.max()))).clamp(max=len(series.x) - 1)]
        state = self._state
        if state is not None:
            carried = (~fresh).to(device)[:, None]
            h, c = (torch.where(carried, each, 0.0) for each in state)
            state = (h, c)
        ragged = lengths if bool((lengths != lengths[0]).any()) else None
        hidden, state = model.hidden_steps(x, state, ragged)
        h, c = state
        self._state = (h.detach(), c.detach())
        low = (lengths // _WARM_UP - self._since).clamp(min=0)[:, None]
        drawn = torch.rand(len(lengths), _STEPS, generator=self._generator)
        there = torch.cat([low + (drawn * (lengths[:, None] - low)).long(), lengths[:, None] - 1], dim=1)
        self._since += lengths
        outputs = model.head(hidden[torch.arange(len(lengths))[:, None], there])
        y = series.y[start[:, None] + there]
        last: Tensor = criterion(outputs[:, -1], y[:, -1])
        steps: Tensor = criterion(outputs[:, :-1].flatten(0, 1), y[:, :-1].flatten(0, 1))
        return (last + steps) / 2

    def _advance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return each lane's next window: its row in ``x``, its steps, and whether it starts from reset."""
        series, window = self._series, self._series.window
        resets = torch.arange(len(self._now)) < self._resets
        over = self._at < 0
        if window is None or not self._resets:
            self._now[over] = self._draw(int(over.sum()))
        else:
            self._now[over & ~resets] = self._draw(int((over & ~resets).sum()))
            windows = (series.size // window).double()
            self._now[resets] = windows.multinomial(self._resets, True, generator=self._generator)
        chance = torch.rand(3, int(over.sum()), generator=self._generator)
        self._since[over] = 0
        fresh = over.clone()
        if series.joined:
            fresh[over] = resets[over] | (chance[0] < _RESTART)
        size, unit = series.size[self._now], series.unit[self._now]
        share = self._crop + (1 - self._crop) * float(torch.rand((), generator=self._generator))
        lengths = unit if self._crop == 1 else (unit * share).round().long().clamp(min=1)
        slack = (size - lengths)[over]
        anywhere = (chance[1] < 0.5) | resets[over]
        self._at[over] = torch.where(anywhere, (chance[2] * (slack + 1)).long().minimum(slack), 0)
        start = series.begin[self._now] + self._at
        self._at += lengths
        self._at[resets | (self._at + unit > size)] = -1
        return start, lengths, fresh

    def _draw(self, count: int) -> Tensor:
        """Return series, each as often as any other."""
        while len(self._left) < count:
            more = torch.randperm(len(self._series.size), generator=self._generator)
            self._left = torch.cat([self._left, more])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn
