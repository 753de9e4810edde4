"""Scores of a set as a stream and from reset, and of predictions that need no network."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lstm_edge_runtime.manifest import Task

from ..data.config import DataConfig
from ..data.series import Data, Series, are_joined, windows_of
from ..lstm1 import LSTM1
from .config import TrainConfig
from .epoch import Batch, Loss, lanes, run_epoch

STREAM_WINDOWS = 10  # windows that a stream is scored over at least, if it goes on from series to series
_ROWS, _CHUNK = 256, 512  # maximum number of lanes and of steps of a batch
_RARE = 0.1  # fraction of the training steps below which a class is rare
_NO_BETTER = "try more epochs, another --window, other features or a larger --hidden-size"

Scores = dict[str, Any]


class Steps(NamedTuple):
    """Predicted classes ``(K,)`` or values ``(K, C)`` of all steps, and the targets ``y``.

    ``now`` has the current values of a forecast ``(K, C or 0)``, ``scored`` is True after a full window.
    """

    out: Tensor
    y: Tensor
    now: Tensor
    scored: Tensor
    loss: float


def stream_lanes(series: Sequence[Series], window: int | None) -> Iterable[Batch]:
    """Return batches of series with states to be carried, those that are joined in streams of ten windows."""
    joined, windows = are_joined(series, window), sum(len(one) // (window or len(one)) for one in series)
    rows = min(_ROWS, max(1, windows // STREAM_WINDOWS) if joined else len(series))
    order = np.random.default_rng(0).permutation(len(series)) if joined else range(len(series))
    chunk = max(window, _CHUNK // window * window) if window else None
    return lanes(((series[index], 0) for index in order), rows, chunk, window, joined=joined)


def window_lanes(series: Sequence[Series], window: int | None, stride: int | None) -> Iterable[Batch]:
    """Return batches of windows, or samples, from reset."""
    cut = windows_of(series, window, stride)
    return lanes(((one, 0) for one in cut), min(_ROWS, len(cut)), window, window, joined=False)


def run_all_steps(
    net: LSTM1, batches: Iterable[Batch], loss: Loss, keep: float, forecast: Sequence[int]
) -> Steps:
    """Run the network and return the outputs of every step; of a bidirectional one, of each last step."""
    parts: list[tuple[Tensor, ...]] = []

    def collect(batch: Batch, fresh: Tensor, steps: Tensor, outputs: Tensor) -> None:
        out = (outputs if batch.y.is_floating_point() else outputs.argmax(dim=-1)).cpu()
        rows, seen = torch.arange(len(batch.x))[:, None], batch.seen(fresh)
        values = batch.y, batch.x[..., list(forecast)], seen >= batch.unit[:, None], seen > 0
        parts.append((out, *(value[rows, steps] for value in values)))

    mean, _ = run_epoch(net, loss, batches, keep, on_batch=collect)
    *values, valid = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    out, y, now, scored = (value[valid] for value in values)
    return Steps(out, y, now, scored, mean)


def score_set(
    net: LSTM1, data: Data, name: str, loss: Loss, options: DataConfig, config: TrainConfig
) -> Scores | None:
    """Return the metrics of a set: of ``streams`` (not if bidirectional), and of ``windows`` from reset.

    ``shown`` is the way in which a device runs the network. None if the set is empty.
    """
    series, task = data.of(name), data.task
    if not series or task is None:
        return None
    forecast = [data.signal.features.index(label) for label in task.labels] if options.forecast else []
    batches = window_lanes(series, options.window, options.stride)
    runs = {"windows": run_all_steps(net, batches, loss, 0.0, forecast)}
    if not net.lstm.bidirectional:
        runs["streams"] = run_all_steps(net, stream_lanes(series, options.window), loss, 1.0, forecast)
    shown = "streams" if config.carries else "windows"
    scores: Scores = {}
    for way, steps in runs.items():
        out, y = steps.out[steps.scored], steps.y[steps.scored]
        measure = classification if data.classes else errors
        scores[way] = {"loss": steps.loss, **measure(out, y, task.labels)}
        if data.classes and way == "streams":
            scores[way]["all_steps"] = float((steps.out == steps.y).double().mean())
    return {**scores, "baselines": baselines(data.of("train"), runs[shown], task), "shown": shown}


def classification(predicted: Tensor, y: Tensor, labels: Sequence[str]) -> Scores:
    """Return accuracy, confusion matrix, and count, precision and recall by class.

    Precision is None for a class that is never predicted, recall for one that the set lacks.
    """
    size = len(labels)
    table = torch.bincount(y * size + predicted, minlength=size**2).reshape(size, size)
    hits, counts, guesses = (sums.tolist() for sums in (table.diagonal(), table.sum(1), table.sum(0)))
    scores: Scores = {"accuracy": sum(hits) / max(len(y), 1), "count": dict(zip(labels, counts, strict=True))}
    for name, totals in (("precision", guesses), ("recall", counts)):
        rows = zip(labels, hits, totals, strict=True)
        scores[name] = {label: hit / total if total else None for label, hit, total in rows}
    return scores | {"confusion": table.tolist()}


def errors(values: Tensor, y: Tensor, targets: Sequence[str]) -> Scores:
    """Return by target the root mean squared and the mean absolute error."""
    error = (values - y).double()
    rmse, mae = (error**2).mean(dim=0).sqrt().tolist(), error.abs().mean(dim=0).tolist()
    return {"rmse": dict(zip(targets, rmse, strict=True)), "mae": dict(zip(targets, mae, strict=True))}


def baselines(train: Sequence[Series], steps: Steps, task: Task) -> dict[str, Scores]:
    """Return what the majority class, or the training mean and persistence score at the same steps."""
    y = steps.y[steps.scored]
    if task.kind == "classification":
        counts = np.bincount(np.concatenate([one.y for one in train]), minlength=len(task.labels))
        return {"majority": {"accuracy": float((y == int(np.argmax(counts))).double().mean())}}
    mean = np.concatenate([one.y for one in train]).mean(axis=0, dtype=np.float64)
    scores = {"mean": errors(torch.from_numpy(mean).expand(len(y), -1), y, task.labels)}
    if steps.now.shape[1]:
        scores["persistence"] = errors(steps.now[steps.scored], y, task.labels)
    return scores


def advice(data: Data, options: DataConfig, config: TrainConfig, sets: Scores) -> Iterator[str]:
    """Yield notes: rare classes that are never recognized, and values no better than a baseline."""
    scores = sets["test"] or sets["validation"]
    shown, baseline = scores[scores["shown"]], scores["baselines"]
    if data.classes:
        y = np.concatenate([one.y for one in data.of("train")])
        fractions = np.bincount(y, minlength=len(data.classes)) / len(y)
        for label, fraction in zip(data.classes, fractions, strict=True):
            if fraction < _RARE and shown["recall"][label] == 0 and config.class_weight == "none":
                yield (
                    f"class {label!r} has {fraction:.1%} of the training steps and is never recognized; "
                    "--class-weight balanced gives all classes the same weight"
                )
        return
    for target, error in shown["rmse"].items():
        least, best = min((scores["rmse"][target], name) for name, scores in baseline.items())
        if error >= least:
            difference = best == "persistence" and not options.forecast_difference
            hint = "train with --forecast-difference" if difference else _NO_BETTER
            yield f"{target} is no better than the baseline {best}: RMSE {error:.4g} and {least:.4g}; {hint}"
