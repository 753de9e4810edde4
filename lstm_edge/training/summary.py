"""The summary of a training: what was trained on, scores, and advice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..data.config import DataConfig
from ..data.series import SETS
from ..data.split import Split
from .config import TrainConfig

_APART = 0.02
"""Difference of the scores of streams and windows from which on a note compares them."""
_RARE = 0.1
"""Fraction of the training steps below which a class is rare."""


def summarize(
    split: Split,
    options: DataConfig,
    config: TrainConfig,
    history: Sequence[Mapping[str, Any]],
    stopped: str,
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    Args:
        split: the series with their sets.
        options: how they were read.
        config: how the network was trained.
        history: the epochs.
        stopped: ``epochs``, ``patience`` or ``interrupted``.
        scores: of ``score_set``, by the names of the sets.
    """
    data = split.data
    lengths = [len(one) for one in data.series]
    last = scores.get("test") or scores["validation"]
    return {
        "task": data.task.kind if data.task else "",
        "epochs": len(history),
        "best_epoch": history[-1]["best"],
        "stopped": stopped,
        "split": {"description": split.description, **{name: len(data.of(name)) for name in SETS}},
        "data": {
            "series": len(data.series),
            "steps": {"total": sum(lengths), "shortest": min(lengths), "longest": max(lengths)},
            "features": list(data.signal.features)
            or [f"x{index}" for index in range(data.series[0].x.shape[1])],
            "targets": list(data.task.labels) if data.task else [],
            "sampling_rate": data.signal.sampling_rate,
            "window": options.window,
        },
        "notes": [*data.notes, *split.notes, *_advice(split, options, config, last)],
        **{name: scores.get(name) for name in SETS[1:]},
        "history": list(history),
        "config": asdict(config),
    }


def _advice(split: Split, options: DataConfig, config: TrainConfig, scores: Mapping[str, Any]) -> list[str]:
    """Return notes on the scores of the last set."""
    shown = scores[scores["shown"]]
    if split.data.classes:
        found = [_about_majority(scores, shown), *_about_rare(split, config, shown)]
    else:
        found = _about_values(options, scores, shown)
    found.append(_about_states(config, scores))
    return list(filter(None, found))


_NO_BETTER = "; try more epochs, another --window, other features or a larger --hidden-size"


def _about_majority(scores: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    accuracy = scores["baselines"]["majority"]["accuracy"]
    if shown["accuracy"] > accuracy:
        return ""
    return f"the network is no better than the most frequent class (accuracy {accuracy:.3f}){_NO_BETTER}"


def _about_rare(split: Split, config: TrainConfig, shown: Mapping[str, Any]) -> list[str]:
    """Return a note for each rare class that is never recognized."""
    y = np.concatenate([one.y for one in split.data.of("train")])
    fractions = np.bincount(y, minlength=len(split.data.classes)) / len(y)
    return [
        f"class {label!r} has {fraction:.1%} of the training steps and is never recognized; "
        "--class-weight balanced gives all classes the same weight"
        for label, fraction in zip(split.data.classes, fractions, strict=True)
        if fraction < _RARE and shown["recall"][label] == 0 and config.class_weight == "none"
    ]


def _about_values(options: DataConfig, scores: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    found = []
    for target, error in shown["rmse"].items():
        best = min(scores["baselines"], key=lambda name: scores["baselines"][name]["rmse"][target])
        level = scores["baselines"][best]["rmse"][target]
        if error < level:
            continue
        advice = _NO_BETTER
        if best == "persistence" and not options.forecast_difference:
            advice = "; train with --forecast-difference"
        name = {"mean": "the mean", "persistence": "the current value (persistence)"}[best]
        found.append(
            f"the forecast of {target} is no better than {name}: RMSE {error:.4g} and {level:.4g}{advice}"
            if options.forecast
            else f"{target} is no better than {name}: RMSE {error:.4g} and {level:.4g}{advice}"
        )
    return found


def _about_states(config: TrainConfig, scores: Mapping[str, Any]) -> str:
    """Return a note if streams and windows from reset score differently."""
    if "streams" not in scores or "accuracy" not in scores["streams"]:
        return ""
    streams, windows = scores["streams"]["accuracy"], scores["windows"]["accuracy"]
    if abs(streams - windows) <= _APART:
        return ""
    what = f"accuracy {streams:.3f} with carried states, {windows:.3f} of windows from reset"
    if config.carries and windows > streams:
        return f"{what}: stream with --reset-every, or train with --carry off"
    if config.carries:
        return f"{what}: the class depends on what came before the window, so streams must not be reset"
    if streams > windows:
        return f"{what}: what came before the window helps; train with --carry on"
    return f"{what}: training saw no state older than a window, so streams are reset every window"
