"""One generator of lanes and one epoch: training, validation as a stream, and windows from reset."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..data.series import Series
from ..lstm1 import LSTM1, HiddenAndCell

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs ``(..., C)`` and classes ``(...)`` or values ``(..., C)``: the loss of each step ``(...)``."""
_WARM_UP = 4
"""In training the loss is taken after a quarter of a window since a reset or the start of a series."""
_LAST = 0.5
"""Share of the last step of a chunk in the loss of its row, in training."""


class Batch(NamedTuple):
    """The next chunk of each lane; a lane that has run out of series has a length of 0."""

    x: Tensor
    """``float32 (B, W, I)``, zeros after a lane's length."""
    y: Tensor
    """Classes ``int64 (B, W)`` or values ``float32 (B, W, C)``."""
    lengths: Tensor
    """``int64 (B,)``: steps of each chunk."""
    since: Tensor
    """``int64 (B,)``: steps that the lane has walked through the same series before."""
    unit: Tensor
    """``int64 (B,)``: steps of a window, or of the series if each is one sample."""
    first: Tensor
    """``bool (B,)``: True if a stream begins, so that its state is reset."""

    def seen(self, fresh: Tensor) -> Tensor:
        """Return the steps ``int64 (B, W)`` since a reset or the series' start, from 1; 0 for padding."""
        steps = torch.arange(self.x.shape[1])
        return (torch.where(fresh, 0, self.since)[:, None] + steps + 1) * (steps < self.lengths[:, None])

    def scored(self, fresh: Tensor) -> Tensor:
        """Return the steps ``bool (B, W)`` that have seen a full window."""
        return self.seen(fresh) >= self.unit[:, None]


def lanes(
    series: Iterable[tuple[Series, int]],
    rows: int,
    chunk: int | None,
    *,
    window: int | None,
    joined: bool,
    tails: bool = True,
) -> Iterator[Batch]:
    """Yield batches until all lanes have run out of series: each lane walks through one after another.

    Args:
        series: in the order in which the lanes take them, each with the step to begin at.
        rows: number of lanes, ``B``.
        chunk: steps of a batch; None for full series.
        window: steps of a window; None if each series is one sample.
        joined: True if a stream goes on from one series to the next.
        tails: True to use the rest of a series that is shorter than a chunk.
    """
    waiting = iter(series)

    def walk() -> Iterator[tuple[Series, int, int]]:
        for one, begin in waiting:
            size = chunk or len(one)
            for start in range(begin, len(one), size):
                if tails or start == begin or start + size <= len(one):
                    yield one, begin, start

    for number, parts in enumerate(zip_longest(*(walk() for _ in range(rows)))):
        cuts = [part and (part[0].x[part[2] :][:chunk], part[0].y[part[2] :][:chunk]) for part in parts]
        lengths = torch.tensor([len(cut[0]) if cut else 0 for cut in cuts])
        x0, y0 = next(cut for cut in cuts if cut)
        x = np.zeros((rows, int(lengths.max()), *x0.shape[1:]), np.float32)
        y = np.zeros((rows, x.shape[1], *y0.shape[1:]), y0.dtype)
        for row, cut in enumerate(cuts):
            if cut:
                x[row, : len(cut[0])], y[row, : len(cut[1])] = cut
        since = torch.tensor([part[2] - part[1] if part else 0 for part in parts])
        unit = torch.tensor([window or len(part[0]) if part else 1 for part in parts])
        first = torch.full((rows,), number == 0) if joined else since == 0
        yield Batch(torch.from_numpy(x), torch.from_numpy(y), lengths, since, unit, first)


def shuffled(
    series: Sequence[Series], window: int | None, stretch: int, rng: np.random.Generator
) -> Iterator[tuple[Series, int]]:
    """Yield stretches of series without end, each as often as any other, and where in them to begin.

    A stretch has ``stretch`` windows, so that long series do not keep a lane from the others, and begins
    anywhere in its first window; without windows it is the whole series.
    """
    size = window * stretch if window else 0
    cuts = [
        (one, start) for one in series for start in range(0, len(one) - (window or 1) + 1, size or len(one))
    ]
    while True:
        for index in rng.permutation(len(cuts)):
            one, start = cuts[index]
            part = one.cut(start, start + size) if size else one
            room = min(window, len(part) - window) if window else 0
            yield part, int(rng.integers(room + 1)) if room > 0 else 0


def windows_of(series: Iterable[Series], window: int | None, stride: int | None) -> list[Series]:
    """Return the windows of series, or the series themselves if ``window`` is None."""
    if window is None:
        return list(series)
    return [
        one.cut(start, start + window)
        for one in series
        for start in range(0, len(one) - window + 1, stride or window)
    ]


def run_epoch(
    net: LSTM1,
    loss: Loss,
    batches: Iterable[Batch],
    keep: Tensor | float,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    clip: float = 1.0,
    picks: int | None = None,
    on_batch: Callable[[Batch, Tensor, Tensor, Tensor], None] | None = None,
) -> tuple[float, float]:
    """Run the network once over batches of ``lanes``, and train it in place if there is an optimizer.

    Args:
        net: the network.
        loss: of each step; without an optimizer of all steps that have seen a window.
        batches: of ``lanes``.
        keep: probability that a lane keeps its state from chunk to chunk, ``(B,)`` or one for all: 1 for
            streams, 0 for windows from reset.
        optimizer: of the parameters.
        clip: maximum norm of the gradient.
        picks: number of random steps of each chunk at which the head is evaluated; None for all.
        on_batch: called with each batch, the lanes ``bool (B,)`` that started from reset, the steps ``int64
            (B, K)`` that were evaluated, and the outputs ``(B, K, C)``.

    Returns:
        The mean loss, and the fraction of steps with the right class (0 for values).
    """
    net.train(optimizer is not None)
    device = net.fc.weight.device
    state: HiddenAndCell | None = None
    total = right = count = 0.0
    with torch.set_grad_enabled(optimizer is not None):
        for batch in batches:
            fresh = batch.first | (torch.rand(len(batch.x)) >= keep)
            steps, weights = _pick(net, batch, fresh, picks, training=optimizer is not None)
            if state is not None:
                zeroed = fresh.to(device)[:, None]
                state = (
                    torch.where(zeroed, 0.0, state[0].detach()),
                    torch.where(zeroed, 0.0, state[1].detach()),
                )
            outputs, state = _run_batch(net, batch, state, steps)
            y, weights = batch.y[torch.arange(len(batch.x))[:, None], steps].to(device), weights.to(device)
            summed = (loss(outputs, y) * weights).sum()
            if optimizer:
                optimizer.zero_grad()
                (summed / weights.sum()).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
            total, count = total + float(summed.detach()), count + float(weights.sum())
            if not y.is_floating_point():
                right += float(((outputs.argmax(dim=-1) == y) * weights).sum())
            if on_batch:
                on_batch(batch, fresh, steps, outputs)
    return total / max(count, 1e-9), right / max(count, 1e-9)


def _run_batch(
    net: LSTM1, batch: Batch, state: HiddenAndCell | None, steps: Tensor
) -> tuple[Tensor, HiddenAndCell | None]:
    """Return the outputs ``(B, K, C)`` at some steps, and the new state."""
    x = batch.x.to(net.fc.weight.device)
    lengths = None if bool((batch.lengths == x.shape[1]).all()) else batch.lengths.clamp(min=1)
    if net.lstm.bidirectional:
        return net(x, lengths=lengths)[:, None], None
    hidden, state = net.hidden_at(x, steps, state, lengths)
    return net.outputs(hidden, x[torch.arange(len(x))[:, None], steps]), state


def _pick(
    net: LSTM1, batch: Batch, fresh: Tensor, count: int | None, *, training: bool
) -> tuple[Tensor, Tensor]:
    """Return the steps ``int64 (B, K)`` to evaluate, and their weights ``(B, K)`` in the loss."""
    last = batch.lengths.clamp(min=1)[:, None] - 1
    if net.lstm.bidirectional:
        return last, (batch.lengths > 0).float()[:, None]
    counted = batch.seen(fresh) > batch.unit[:, None] // _WARM_UP if training else batch.scored(fresh)
    steps = torch.arange(batch.x.shape[1]).expand(counted.shape)
    if count is not None and steps.shape[1] > count:
        keys = torch.rand(counted.shape) * counted
        if training:
            keys.scatter_add_(1, last, counted.gather(1, last).float())
        steps = keys.topk(count, dim=1).indices
    chosen = counted.gather(1, steps).float()
    if not training:
        return steps, chosen * (counted.sum(dim=1) / chosen.sum(dim=1).clamp(min=1))[:, None]
    ends = (steps == last).float() * chosen
    others = chosen - ends
    return steps, _LAST * ends + (1 - _LAST) * others / others.sum(dim=1, keepdim=True).clamp(min=1)
