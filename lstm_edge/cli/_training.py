"""Display of a training: progress and summary."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_edge_runtime.errors import counted

from ._output import echo, print_table, progress

if TYPE_CHECKING:
    from ..training.loop import Epoch

Metrics = dict[str, Any]


@contextlib.contextmanager
def training_progress(
    epochs: int, *, quiet: bool = False
) -> Iterator[tuple[Callable[["Epoch"], None], Callable[[int, int], None]]]:
    """Yield functions to call after every epoch and before every fold."""
    with progress(quiet=quiet) as show:
        yield (
            lambda epoch: show(epoch.number / epochs, f"epoch {epoch.number}/{epochs}  {_describe(epoch)}"),
            lambda number, count: show(1.0 + number / count, f"cross-validation, fold {number}/{count}"),
        )


@contextlib.contextmanager
def epoch_log(folder: Path | None) -> Iterator[Callable[["Epoch"], None]]:
    """Yield a function that logs an epoch to ``folder`` for TensorBoard; it does nothing without a folder."""
    if folder is None:
        yield lambda _: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def write(epoch: "Epoch") -> None:
            scores = {"loss/training": epoch.loss, "loss/validation": epoch.validation_loss}
            if epoch.accuracy is not None:
                scores["accuracy/validation"] = epoch.accuracy
            for name, value in scores.items():
                writer.add_scalar(name, value, epoch.number)

        yield write


def _describe(epoch: "Epoch") -> str:
    accuracy = "" if epoch.accuracy is None else f"  acc {epoch.accuracy:.3f}"
    trial = "trial from reset  " if epoch.trial else ""
    return f"{trial}loss {epoch.loss:.4f}  val {epoch.validation_loss:.4f}{accuracy}"


def print_summary(summary: dict[str, Any]) -> None:
    """Print the sets and their metrics, and why training stopped."""
    split = summary["split"]
    epochs = counted(summary["epochs"], "epoch")
    echo(f"{epochs}, best epoch {summary['best_epoch']}; {_ENDS[summary['stopped']]}")
    echo(f"split: {split['description']}")
    for text in split["notes"]:
        echo(f"note: {text}")
    echo(f"states: {summary['states']}")
    echo(f"baseline: {summary['baseline']}")
    measured = [name for name in ("validation", "test") if summary[name] is not None]
    scores = [summary[name] for name in measured]
    rows = _classes(measured, scores) if summary["task"] == "classification" else _values(scores)
    for name, each in (found := summary.get("cross_validation") or {}).items():
        if name != "folds":
            folds = len(found["folds"])
            echo(f"{name} over {folds} folds: {each['mean']:.4g}, standard deviation {each['std']:.2g}")
    if worst := _worst_series(scores[-1]):
        echo(f"worst of {counted(len(scores[-1]['series']), 'series')} in the {measured[-1]} set: {worst}")
    print_table("", ["", *(f"{name} ({split[name]})" for name in measured)], rows)


_ENDS = {
    "epochs": "all epochs done",
    "patience": "stopped early, no improvement in validation loss",
    "interrupted": "interrupted, the best epoch so far is kept",
}


_STREAMS, _WINDOWS = "streams", "windows from reset"


def _ways(scores: Sequence[Metrics]) -> list[tuple[str, list[Metrics]]]:
    """Return the scores of streams and of windows with their names, the one that a device runs first."""
    if "windows" in scores[0]:
        return [(_STREAMS, [*scores]), (_WINDOWS, [each["windows"] for each in scores])]
    if "streams" in scores[0]:
        return [(_WINDOWS, [*scores]), (_STREAMS, [each["streams"] for each in scores])]
    return [(_WINDOWS, [*scores])]


def _classes(names: Sequence[str], scores: Sequence[Metrics]) -> list[list[str]]:
    rows = []
    for way, found in _ways(scores):
        rows.append([f"accuracy of {way}", *(f"{each['accuracy']:.3f}" for each in found)])
        if way == _STREAMS:
            rows.append(["  at all steps", *(f"{each['all_steps']:.3f}" for each in found)])
            rows.append(["  steps until right", *(_delay(each["steps_until_right"]) for each in found)])
    rows += [
        [f"accuracy of {name}", *(f"{each['baselines'][name]['accuracy']:.3f}" for each in scores)]
        for name in scores[0]["baselines"]
    ]
    return rows + [
        [f"recall of {label}", *map(_recall, names, scores, repeat(label))] for label in scores[0]["recall"]
    ]


def _values(scores: Sequence[Metrics]) -> list[list[str]]:
    return [
        [f"{error.upper()} of {target}, {way}", *(f"{each[error][target]:.4g}" for each in found)]
        for way, found in (*_ways(scores), *_baselines(scores))
        for error in ("mae", "rmse")
        for target in found[0][error]
    ]


def _worst_series(scores: Metrics) -> str:
    """Return the name and the score of the worst series, if there are several that windows were cut from."""
    found = scores.get("series") or {}
    if len(found) < 2:
        return ""
    if "accuracy" in scores:
        name = min(found, key=found.__getitem__)
        return f"{name!r}, accuracy {found[name]:.3f}"
    name = max(found, key=found.__getitem__)
    return f"{name!r}, RMSE {found[name]:.3g} of the targets' standard deviation"


def _baselines(scores: Sequence[Metrics]) -> list[tuple[str, list[Metrics]]]:
    return [(name, [each["baselines"][name] for each in scores]) for name in scores[0]["baselines"]]


def _delay(found: Metrics) -> str:
    median, most = ("never" if found[name] is None else str(found[name]) for name in ("median", "p90"))
    return f"{median} (90 %: {most})"


def _recall(name: str, metrics: Metrics, label: str) -> str:
    recall = metrics["recall"][label]
    unit = " steps" if "windows" in metrics else ""
    return f"not in the {name} set" if recall is None else f"{recall:.3f} of {metrics['count'][label]}{unit}"
