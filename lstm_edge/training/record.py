"""What a run folder says of its training apart from the weights: ``history.csv`` and ``metrics.json``."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_edge_runtime.files import write_bytes

from ..checkpoint import Run
from ..lstm1 import LSTM1
from ..run_files import HISTORY, METRICS
from .experiment import STREAM_WINDOWS, Experiment
from .loop import Epoch, predict
from .series import cut_streams, stream_outputs

_POINTS, _FEATURES, _MISTAKES, _PAIRS = 200, 4, 6, 500
"""Maximum number of points of a signal, features, mistaken samples, and pairs of values in the file."""
_BINS = 100
"""Points that the score of streams is shown at."""
_STARTS, _HORIZON = 200, 24
"""Maximum number of windows that a forecast is continued from, and of steps that it is continued."""


def write_history(folder: Path, epochs: Sequence[Epoch]) -> None:
    """Write ``history.csv``: one line per epoch."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["epoch", "loss", "validation_loss", "accuracy"])
    for epoch in epochs:
        accuracy = "" if epoch.accuracy is None else epoch.accuracy
        rows.writerow([epoch.number, epoch.loss, epoch.validation_loss, accuracy])
    write_bytes(folder / HISTORY, text.getvalue().encode())


def write_metrics(folder: Path, run: Run, experiment: Experiment, data: str) -> None:
    """Write ``metrics.json``: the scores of each set, what the data are, and what a report shows of them.

    Args:
        folder: of the run.
        run: as saved.
        experiment: whose sets are described.
        data: the name of the data file.
    """
    name = "test" if "test" in experiment.sets else "validation"
    dataset = experiment.sets[name]
    outputs = predict(run.model, dataset)
    document = {
        "format": "lstm-edge metrics",
        "schema": 1,
        "validation": run.summary["validation"],
        "test": run.summary["test"],
        "cross_validation": run.summary.get("cross_validation"),
        "data": _describe(experiment, data),
        "shown": name,
        "streams": None if run.model.lstm.bidirectional else _streams(run, experiment, name),
        "signals": _class_signals(experiment),
        "mistakes": [] if experiment.targets else _mistakes(experiment, name, outputs),
        "horizons": _horizons(run.model, experiment, name),
        "pairs": None
        if experiment.targets is None
        else _pairs(experiment, *experiment.scored(run.model, name)),
    }
    write_bytes(folder / METRICS, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def _describe(experiment: Experiment, data: str) -> dict[str, Any]:
    recordings = experiment.recordings
    sets = {}
    for name, dataset in experiment.sets.items():
        counts = (
            torch.bincount(dataset.y, minlength=len(recordings.labels)).tolist() if recordings.labels else []
        )
        sets[name] = {
            "series": len(getattr(experiment.split, name)),
            "samples": len(dataset),
            "classes": dict(zip(recordings.labels, counts, strict=True)),
        }
    lengths = [len(one.x) for one in recordings.series]
    return {
        "file": data,
        "series": len(lengths),
        "steps": {"total": sum(lengths), "shortest": min(lengths), "longest": max(lengths)},
        "features": recordings.features or [f"x{index}" for index in range(recordings.series[0].x.shape[1])],
        "targets": list(recordings.targets),
        "sampling_rate": recordings.sampling_rate,
        "window": experiment.data.window,
        "stride": experiment.data.stride,
        "split": experiment.split.description,
        "notes": experiment.notes,
        "sets": sets,
    }


def _streams(run: Run, experiment: Experiment, name: str) -> dict[str, Any]:
    """Return the score of streams by series and by steps since the reset.

    ``score`` says which: ``accuracy``, or ``rmse`` as a fraction of the targets' standard deviation.
    ``carried`` is that of states carried on, ``restarted`` that of windows from reset, ``baseline`` that of
    the best predictions without a network, of each target its own.
    """
    series = experiment.sets[name].series
    window = experiment.data.window or round(float(series.size.double().mean()))
    carried = experiment.stream(run.model, name)
    windows = cut_streams(replace(series, joined=False), 1, cut=True)
    outputs = stream_outputs(run.model, series, windows, windows.valid)
    found = (
        (carried.streams, experiment.points(carried.outputs, carried.y)),
        (windows, experiment.points(outputs, series.y[windows.step[windows.valid]])),
    )
    root = (lambda value: value) if experiment.targets is None else math.sqrt
    width = math.ceil(STREAM_WINDOWS * window / _BINS)
    curves = {}
    for key, (streams, points) in zip(("carried", "restarted"), found, strict=True):
        since = torch.arange(streams.step.shape[1]).expand_as(streams.step)[streams.valid]
        places = (since // width).minimum(torch.tensor(_BINS - 1) + 1)
        sums, counts = (torch.bincount(places, weights, _BINS + 1)[:_BINS] for weights in (points, None))
        curves[key] = [root(float(total / count)) for total, count in zip(sums, counts, strict=True) if count]
    return {
        "score": "accuracy" if experiment.targets is None else "rmse",
        "window": window,
        "width": width,
        **curves,
        "series": experiment.series_scores(carried),
        "baseline": _baseline(run, experiment, name),
    }


def _baseline(run: Run, experiment: Experiment, name: str) -> dict[str, Any]:
    """Return the names and the score of the best baselines, in the unit of ``_streams``."""
    best = experiment.best_baselines(run.summary[name])
    scores = [score for score, _ in best.values()]
    if experiment.targets is not None:
        parts = zip(scores, experiment.targets.std, strict=True)
        scores = [math.sqrt(mean((score / std) ** 2 for score, std in parts))]
    return {"name": ", ".join(sorted({each for _, each in best.values()})), "score": scores[0]}


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return indices below ``count``, ``most`` of them or fewer, evenly spaced from the first to the last."""
    chosen: npt.NDArray[np.int64] = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    return chosen


def _in_raw_units(experiment: Experiment, x: Tensor) -> npt.NDArray[np.float64]:
    """Return scaled samples ``(..., L, I)`` as they were in the file, at ``_POINTS`` steps at most."""
    steps = _spread(x.shape[-2], _POINTS)
    raw: npt.NDArray[np.float64] = (
        x.cpu().double().numpy() * np.array(experiment.inputs.std) + np.array(experiment.inputs.mean)
    )[..., steps, :_FEATURES]
    return raw


def _class_signals(experiment: Experiment) -> dict[str, list[list[float]]]:
    """Return the mean signal of each class in the training set, by label: ``(points, features)``."""
    train, found = experiment.sets["train"], {}
    for index, label in enumerate(experiment.recordings.labels):
        own = train.take((train.y == index).nonzero()[:, 0])
        if len(own):
            x = own.x
            counts = (torch.arange(x.shape[1]) < own.lengths[:, None]).sum(dim=0)
            mean = x.sum(dim=0) / counts[:, None]
            found[label] = _in_raw_units(experiment, mean).tolist()
    return found


def _mistakes(experiment: Experiment, name: str, outputs: Tensor) -> list[dict[str, Any]]:
    """Return the samples that the network is most wrongly sure of, with their series and steps, from 1."""
    dataset, labels = experiment.sets[name], experiment.recordings.labels
    split, owner = getattr(experiment.split, name), dataset.series.owner(dataset.last)
    last = dataset.last - dataset.series.begin[owner] + 1
    first = last - dataset.lengths + 1
    probabilities = outputs.softmax(dim=1)
    sure, predicted = probabilities.max(dim=1)
    wrong = (predicted != (y := dataset.y)).nonzero()[:, 0]
    worst = wrong[sure[wrong].argsort(descending=True)][:_MISTAKES]
    return [
        {
            "sample": row,
            "series": split[int(owner[row])].name,
            "steps": [int(first[row]), int(last[row])],
            "truth": labels[int(y[row])],
            "predicted": labels[int(predicted[row])],
            "probability": float(sure[row]),
            "signal": _in_raw_units(experiment, dataset.take(torch.tensor([row])).x[0]).tolist(),
        }
        for row in worst.tolist()
    ]


@torch.no_grad()
def _horizons(model: LSTM1, experiment: Experiment, name: str) -> dict[str, dict[str, list[float]]] | None:
    """Return the RMSE of a forecast 1, 2, ... steps ahead, by target, beside that of the last known value.

    Each forecast is fed back as the next sample, so that every feature must be forecast; else None, as where
    no series of the set is longer than a window.
    """
    window, targets = experiment.data.window, experiment.recordings.targets
    series = getattr(experiment.split, name)
    if not experiment.data.forecast or targets != experiment.recordings.features or window is None:
        return None
    steps = min(_HORIZON, max(len(one.x) for one in series) - window + 1)
    places = [(one, at) for one in series for at in range(len(one.x) - window - steps + 2)]
    if steps < 1 or not places:
        return None
    chosen = [places[at] for at in _spread(len(places), _STARTS)]
    x, y = (
        torch.from_numpy(np.stack([getattr(one, kind)[at : at + window - 1 + steps] for one, at in chosen]))
        for kind in ("x", "y")
    )
    x, y = x.double(), y.double() + (x.double() if experiment.added else 0.0)
    known = x[:, :window]
    guesses = {"rmse": [], "last_value": [known[:, -1]] * steps}
    for _ in range(steps):
        outputs = model(experiment.inputs.apply(known).to(model.fc.weight))
        values = experiment.unscaled(outputs) + (known[:, -1] if experiment.added else 0.0)
        guesses["rmse"].append(values)
        known = torch.cat([known[:, 1:], values[:, None]], dim=1)
    truth = y[:, window - 1 :].unbind(dim=1)
    errors = {
        kind: [((guess - true) ** 2).mean(dim=0).sqrt() for guess, true in zip(each, truth, strict=True)]
        for kind, each in guesses.items()
    }
    return {
        target: {kind: torch.stack(each)[:, column].tolist() for kind, each in errors.items()}
        for column, target in enumerate(targets)
    }


def _pairs(experiment: Experiment, outputs: Tensor, y: Tensor) -> dict[str, list[list[float]]]:
    """Return true and predicted values ``(K, C)`` by target, a few of them."""
    rows = _spread(len(y), _PAIRS)
    return {
        name: torch.stack([y[rows, column], outputs[rows, column]], dim=1).tolist()
        for column, name in enumerate(experiment.recordings.targets)
    }
