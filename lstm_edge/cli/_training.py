"""What people see of a training: live progress, and the summary."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ._output import console, print_table

if TYPE_CHECKING:
    from ..training import Epoch

__all__ = ["print_summary", "progress"]

_LINES = 10
"""How many lines a full training prints in a pipe."""


@contextlib.contextmanager
def progress(
    epochs: int, *, quiet: bool = False
) -> Iterator[tuple[Callable[["Epoch"], None], Callable[[int, int], None]]]:
    """Yield functions to call after every epoch and before every fold: a live bar, or lines in a pipe.

    Both go to standard error, so that standard output holds the result alone.
    """
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("", total=epochs, unit="epoch", what="reading the data")
            yield (
                lambda epoch: bar.update(task, completed=epoch.number, what=_describe(epoch)),
                lambda number, count: bar.update(
                    task, completed=number - 1, total=count, unit="fold", what="cross-validation"
                ),
            )
    else:
        every = max(1, epochs // _LINES)

        def line(epoch: "Epoch") -> None:
            if not quiet and (epoch.number % every == 0 or epoch.number == 1):
                click.echo(f"epoch {epoch.number}/{epochs}  {_describe(epoch)}", err=True)

        def fold_line(number: int, count: int) -> None:
            if not quiet:
                click.echo(f"fold {number}/{count}", err=True)

        yield line, fold_line


def _bar() -> Progress:
    return Progress(
        TextColumn("[bold]{task.fields[unit]}[/] {task.completed}/{task.total}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )


def _describe(epoch: "Epoch") -> str:
    accuracy = "" if epoch.accuracy is None else f"  accuracy {epoch.accuracy:.3f}"
    return (
        f"loss {epoch.loss:.4f}  validation {epoch.validation_loss:.4f}{accuracy}  best at epoch {epoch.best}"
    )


def print_summary(summary: dict[str, Any]) -> None:
    """Print the sets and their metrics, and why training ended."""
    split = summary["split"]
    console().print(
        f"{summary['epochs']} epochs, the best at {summary['best_epoch']}; {_ENDS[summary['stopped']]}"
    )
    console().print(f"split: {split['description']}")
    for note in split["notes"]:
        console().print(f"note: {note}")
    measured = [name for name in ("validation", "test") if summary[name] is not None]
    if summary["task"] == "classification":
        rows = [["accuracy", *(f"{summary[name]['accuracy']:.3f}" for name in measured)]]
        rows += [
            [f"recall of {label}", *(_recall(summary[name], label) for name in measured)]
            for label in summary[measured[0]]["recall"]
        ]
    else:
        rows = [
            [f"{error.upper()} of {target}", *(f"{summary[name][error][target]:.4g}" for name in measured)]
            for error in ("mae", "rmse")
            for target in summary[measured[0]][error]
        ]
    if found := summary.get("cross_validation"):
        for name in found.keys() - {"folds"}:
            console().print(
                f"{name} over {len(found['folds'])} folds: {found[name]['mean']:.4g}, standard deviation "
                f"{found[name]['std']:.2g}"
            )
    print_table("", ["", *(f"{name} ({split[name]})" for name in measured)], rows)


_ENDS = {
    "epochs": "all epochs done",
    "patience": "stopped early, validation loss no longer fell",
    "interrupted": "stopped by Ctrl-C, the best so far is kept",
}


def _recall(metrics: dict[str, Any], label: str) -> str:
    recall = metrics["recall"][label]
    return "none there" if recall is None else f"{recall:.3f} of {metrics['count'][label]}"
