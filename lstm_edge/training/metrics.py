"""Scores of a set as a stream and from reset, and of predictions that need no network."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_edge_runtime.manifest import Task

from ..data.config import DataConfig
from ..data.series import Data, Series, are_joined
from ..lstm1 import LSTM1
from .config import TrainConfig
from .epoch import Batch, Loss, lanes, run_epoch, windows_of

STREAM_WINDOWS = 10
"""Windows that a stream is scored over at least, if it goes on from series to series."""
_ROWS, _CHUNK = 256, 512
"""Maximum number of lanes and of steps of a batch."""
_HOLD = 5
"""Number of steps that a class must be right before it counts as recognized."""

Scores = dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """Outputs of all steps, stream by stream."""

    out: Tensor
    """Predicted classes ``(K,)`` or values ``(K, C)``."""
    y: Tensor
    now: Tensor | None
    """Current values ``(K, C)`` of what is forecast."""
    scored: Tensor
    """``bool (K,)``: steps that have seen a full window."""
    starts: Tensor
    """``bool (K,)``: the first step after a reset."""
    loss: float


def stream_lanes(series: Sequence[Series], window: int | None) -> Iterable[Batch]:
    """Return batches of series with states to be carried, those that are joined in streams of ten windows."""
    joined = are_joined(tuple(series), window)
    windows = sum(len(one) // (window or len(one)) for one in series)
    rows = min(_ROWS, max(1, windows // STREAM_WINDOWS) if joined else len(series))
    order = np.random.default_rng(0).permutation(len(series)) if joined else range(len(series))
    chunk = max(window, _CHUNK // window * window) if window else None
    return lanes(((series[at], 0) for at in order), rows, chunk, window=window, joined=joined)


def window_lanes(series: Sequence[Series], window: int | None, stride: int | None) -> Iterable[Batch]:
    """Return batches of windows, or samples, from reset."""
    cut = windows_of(series, window, stride)
    return lanes(((one, 0) for one in cut), min(_ROWS, len(cut)), window, window=window, joined=False)


def run_all_steps(
    net: LSTM1, batches: Iterable[Batch], loss: Loss, keep: float, forecast: Sequence[int]
) -> Steps:
    """Run the network and return the outputs of every step; of a bidirectional one, of each last step.

    Args:
        net: the network.
        batches: see ``stream_lanes`` and ``window_lanes``.
        loss: of each step.
        keep: 1 to carry states, 0 to start each chunk from reset.
        forecast: indices of the features that are forecast.
    """
    parts: list[tuple[Tensor, ...]] = []

    def collect(batch: Batch, fresh: Tensor, outputs: Tensor) -> None:
        rows, start = torch.arange(len(batch.x))[:, None], torch.zeros_like(batch.valid)
        start[:, 0] = fresh
        steps = torch.arange(batch.x.shape[1])[None].expand(batch.valid.shape)
        if net.lstm.bidirectional:
            steps = batch.lengths.clamp(min=1)[:, None] - 1
        out = (outputs if batch.y.is_floating_point() else outputs.argmax(dim=-1)).cpu()
        now, scored = batch.x[..., list(forecast)], batch.scored(fresh)
        valid = batch.valid[rows, steps]
        parts.append(
            (out[valid], *(each[rows, steps][valid] for each in (batch.y, now, scored, start)), valid)
        )

    mean, _ = run_epoch(net, loss, batches, keep, on_batch=collect)
    return _by_stream(parts, mean, forecast=bool(forecast))


def _by_stream(parts: list[tuple[Tensor, ...]], loss: float, *, forecast: bool) -> Steps:
    """Return the steps of all batches in the order of each lane."""
    rows = torch.cat([part[-1].nonzero()[:, 0] for part in parts])
    order = rows.argsort(stable=True)
    out, y, now, scored, starts = (torch.cat([part[place] for part in parts])[order] for place in range(5))
    return Steps(out, y, now if forecast else None, scored, starts, loss)


def score_set(
    net: LSTM1, data: Data, name: str, loss: Loss, options: DataConfig, config: TrainConfig
) -> Scores:
    """Return the metrics of a set.

    Returns:
        ``streams`` (not of a bidirectional network), ``windows`` from reset, ``baselines`` at the steps of
        the first of these that a device runs, and ``shown``: which of the two that is.
    """
    series, task = data.of(name), data.task
    assert task is not None
    forecast = [data.signal.features.index(label) for label in task.labels] if options.forecast else []
    runs = {
        "windows": run_all_steps(
            net, window_lanes(series, options.window, options.stride), loss, 0.0, forecast
        )
    }
    if not net.lstm.bidirectional:
        runs["streams"] = run_all_steps(net, stream_lanes(series, options.window), loss, 1.0, forecast)
    shown = "streams" if config.carries else "windows"
    found = {way: metrics(steps, task, streams=way == "streams") for way, steps in runs.items()}
    return {**found, "baselines": baselines(data.of("train"), runs[shown], task), "shown": shown}


def metrics(steps: Steps, task: Task, *, streams: bool) -> Scores:
    """Return the metrics of the steps that have seen a window, and of streams also of all steps."""
    out, y = steps.out[steps.scored], steps.y[steps.scored]
    if task.kind == "regression":
        return {"loss": steps.loss, **errors(out, y, task.labels)}
    found = {"loss": steps.loss, **classification(out, y, task.labels)}
    if streams:
        found["all_steps"] = float((steps.out == steps.y).double().mean())
        found["steps_until_right"] = steps_until_right(steps.out, steps.y, steps.starts)
    return found


def classification(predicted: Tensor, y: Tensor, labels: Sequence[str]) -> Scores:
    """Return accuracy, confusion matrix, and count, precision, recall and F1 by class.

    Precision is None for a class that is never predicted, recall and F1 for one that the set lacks.
    """
    size = len(labels)
    confusion = torch.bincount(y * size + predicted, minlength=size**2).reshape(size, size)
    hits, counts, guesses = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)

    def by_class(numerator: Tensor, denominator: Tensor, there: Tensor) -> dict[str, float | None]:
        fractions = (numerator / denominator.clamp(min=1)).tolist()
        return {
            label: fraction if known else None
            for label, fraction, known in zip(labels, fractions, there.tolist(), strict=True)
        }

    return {
        "accuracy": float(hits.sum() / max(len(y), 1)),
        "count": dict(zip(labels, counts.tolist(), strict=True)),
        "precision": by_class(hits, guesses, guesses),
        "recall": by_class(hits, counts, counts),
        "f1": by_class(2 * hits, counts + guesses, counts),
        "confusion": confusion.tolist(),
    }


def errors(values: Tensor, y: Tensor, targets: Sequence[str]) -> Scores:
    """Return by target the root mean squared and the mean absolute error, in its own unit."""
    error = (values - y).double()
    rmse, mae = (error**2).mean(dim=0).sqrt().tolist(), error.abs().mean(dim=0).tolist()
    return {"rmse": dict(zip(targets, rmse, strict=True)), "mae": dict(zip(targets, mae, strict=True))}


def steps_until_right(predicted: Tensor, y: Tensor, starts: Tensor) -> Scores:
    """Return the steps that half of all new classes and nine of ten take to be recognized, the first being 1.

    A class is new after a reset and if it changes. It is recognized at the first of five right steps in a
    row, or of all that are left of the class; None stands for never.
    """
    new = starts.clone()
    new[1:] |= y[1:] != y[:-1]
    begins, right, found = new.nonzero().flatten().tolist(), (predicted == y).tolist(), []
    for begin, end in pairwise([*begins, len(y)]):
        run, step = 0, begin
        for step in range(begin, end):
            run = run + 1 if right[step] else 0
            if run == _HOLD:
                break
        found.append(step - begin - run + 2 if run else math.inf)
    found.sort()
    at = {name: found[math.ceil(share * len(found)) - 1] for name, share in (("median", 0.5), ("p90", 0.9))}
    return {"events": len(found), **{name: None if each == math.inf else each for name, each in at.items()}}


def baselines(train: Sequence[Series], steps: Steps, task: Task) -> dict[str, Scores]:
    """Return what the majority class, or the training mean and persistence score at the same steps."""
    y = steps.y[steps.scored]
    if task.kind == "classification":
        counts = np.bincount(np.concatenate([one.y for one in train]), minlength=len(task.labels))
        return {"majority": {"accuracy": float((y == int(np.argmax(counts))).double().mean())}}
    mean = np.concatenate([one.y for one in train]).mean(axis=0, dtype=np.float64)
    found = {"mean": errors(torch.from_numpy(mean).expand(len(y), -1), y, task.labels)}
    if steps.now is not None:
        found["persistence"] = errors(steps.now[steps.scored], y, task.labels)
    return found
