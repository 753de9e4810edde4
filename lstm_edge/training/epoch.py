"""One generator of lanes and one epoch: training, validation as a stream, and windows from reset."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lstm_edge_runtime.manifest import Array

from ..data.series import Series
from ..lstm1 import LSTM1, HiddenAndCell

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs ``(..., C)`` and classes ``(...)`` or values ``(..., C)``: the loss of each step ``(...)``."""
_WARM_UP, _LAST, _CLIP = 4, 0.5, 1.0
"""In training: the loss is taken after a quarter of a window since a reset or the start of a series; share of
the last step of a chunk in the loss of its row; maximum norm of the gradient."""


class Batch(NamedTuple):
    """The next chunk of each lane: ``x float32 (B, W, I)``, and ``y int64 (B, W)`` or ``float32 (B, W, C)``.

    Of each lane, ``int64 (B,)``: ``lengths``, the steps of its chunk, 0 without a series; ``since``, the
    steps of the same series before; and ``unit``, the steps of a window, or of the series if each is one
    sample. ``first``, ``bool (B,)``, is True if a stream begins, so that its state is reset.
    """

    x: Tensor
    y: Tensor
    lengths: Tensor
    since: Tensor
    unit: Tensor
    first: Tensor

    def seen(self, fresh: Tensor) -> Tensor:
        """Return the steps ``int64 (B, W)`` since a reset or the series' start, from 1; 0 for padding."""
        steps = torch.arange(self.x.shape[1])
        return (torch.where(fresh, 0, self.since)[:, None] + steps + 1) * (steps < self.lengths[:, None])


def lanes(
    series: Iterable[tuple[Series, int]],
    rows: int,
    chunk: int | None,
    window: int | None,
    *,
    joined: bool,
    tails: bool = True,
) -> Iterator[Batch]:
    """Yield batches of ``chunk`` steps until all ``rows`` lanes have run out of series, each after the other.

    The series are in the order in which the lanes take them, each with the step to begin at. If ``joined``, a
    stream goes on from one to the next. With ``tails``, the rest of one that is shorter than a chunk is used.
    """
    waiting = iter(series)

    def walk() -> Iterator[tuple[Array, Array, int, int]]:
        for one, begin in waiting:
            size = chunk or len(one)
            for start in range(begin, len(one), size):
                end = start + size
                if tails or start == begin or end <= len(one):
                    yield one.x[start:end], one.y[start:end], start - begin, window or len(one)

    for number, pieces in enumerate(zip_longest(*(walk() for _ in range(rows)))):
        blank = next((piece[0][:0], piece[1][:0], 0, 1) for piece in pieces if piece)
        *data, begins, units = zip(*(piece or blank for piece in pieces), strict=True)
        since, unit, lengths = map(torch.tensor, (begins, units, [len(steps) for steps in data[0]]))
        x, y = (pad_sequence([*map(torch.from_numpy, arrays)], batch_first=True) for arrays in data)
        yield Batch(x, y, lengths, since, unit, torch.full((rows,), number == 0) if joined else since == 0)


def shuffled(
    series: Sequence[Series], window: int | None, stretch: int, rng: np.random.Generator
) -> Iterator[tuple[Series, int]]:
    """Yield parts of ``stretch`` windows without end, each as often as any other, and where in them to begin.

    Without windows a part is a whole series.
    """
    parts = []
    for one in series:
        size = window * stretch if window else len(one)
        parts += [one.cut(start, start + size) for start in range(0, len(one) - (window or 1) + 1, size)]
    while True:
        for index in rng.permutation(len(parts)):
            most = min(window, len(parts[index]) - window) if window else 0
            yield parts[index], int(rng.integers(most + 1)) if most > 0 else 0


def run_epoch(
    net: LSTM1,
    loss: Loss,
    batches: Iterable[Batch],
    keep: Tensor | float,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    picks: int | None = None,
    on_batch: Callable[[Batch, Tensor, Tensor, Tensor], None] | None = None,
) -> tuple[float, float]:
    """Run the network once over batches of ``lanes``, and train it in place if there is an optimizer.

    ``keep`` is the probability that a lane keeps its state from chunk to chunk, ``(B,)`` or one for all: 1
    for streams, 0 for windows from reset. The head is evaluated at ``picks`` random steps of each chunk, or
    at all. ``on_batch`` is called with each batch, the lanes ``bool (B,)`` that started from reset, the steps
    ``int64 (B, K)`` that were evaluated, and the outputs ``(B, K, C)``. Returns the mean loss, and the
    fraction of steps with the right class (0 for values, and in training).
    """
    training, device = optimizer is not None, net.fc.weight.device
    net.train(training)
    state: HiddenAndCell | None = None
    total = right = count = 0.0
    with torch.set_grad_enabled(training):
        for batch in batches:
            fresh = batch.first | (torch.rand(len(batch.x)) >= keep)
            steps, weights = _pick(net, batch, fresh, picks, training=training)
            if state is not None:
                zeroed, (h, c) = fresh.to(device)[:, None], state
                state = torch.where(zeroed, 0.0, h.detach()), torch.where(zeroed, 0.0, c.detach())
            outputs, state = _run_batch(net, batch, state, steps)
            y, weights = batch.y[torch.arange(len(batch.x))[:, None], steps].to(device), weights.to(device)
            summed, weight = (loss(outputs, y) * weights).sum(), weights.sum()
            total, count = total + float(summed.detach()), count + float(weight)
            if optimizer:
                optimizer.zero_grad()
                (summed / weight).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), _CLIP, foreach=True)
                optimizer.step()
            elif not y.is_floating_point():
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
    return net.outputs(hidden, x[torch.arange(len(x))[:, None], steps] if net.added else None), state


def _pick(
    net: LSTM1, batch: Batch, fresh: Tensor, count: int | None, *, training: bool
) -> tuple[Tensor, Tensor]:
    """Return the steps ``int64 (B, K)`` to evaluate, and their weights ``(B, K)`` in the loss."""
    last = batch.lengths.clamp(min=1)[:, None] - 1
    if net.lstm.bidirectional:
        return last, (batch.lengths > 0).float()[:, None]
    seen, unit = batch.seen(fresh), batch.unit[:, None]
    counted = seen > unit // _WARM_UP if training else seen >= unit
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
