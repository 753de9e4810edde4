"""The report of a training: curves of loss and score, the confusion matrix, and one
page with all scores.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lstm_edge_runtime.files import write_bytes

from ..run_files import CURVES, REPORT
from .figures import (
    Axes,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    drawing,
    new_figure,
    to_png,
)

_LOSSES = {
    "loss": "training",
    "streams": "validation, states carried",
    "windows": "validation, windows from reset",
}
"""Labels of the losses in the history, in the words of the page's table."""


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``curves.png`` and the self-contained ``report.html`` of a summary into the
    folder of its run.
    """
    name = "test" if summary["test"] else "validation"
    with drawing():
        curves = _curves(summary)
    loader = PackageLoader(__package__, ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("training.html.j2")
    scores = summary[name]
    picture = base64.b64encode(curves).decode()
    page = template.render(
        title=folder.absolute().name,
        summary=summary,
        sets=[(key, summary[key]) for key in ("validation", "test") if summary[key]],
        name=name,
        shown=scores[scores["shown"]],
        curves=f"data:image/png;base64,{picture}",
    )
    write_bytes(folder / CURVES, curves)
    write_bytes(folder / REPORT, page.encode())


def _curves(summary: Mapping[str, Any]) -> bytes:
    """Return losses and scores by epoch as PNG, with the best epoch marked."""
    history = summary["history"]
    figure, (losses, scores) = new_figure(2, height=3.6)
    for key, label in _LOSSES.items():
        _plot_known(losses, [epoch[key] for epoch in history], label)
    _plot_known(scores, [epoch["score"] for epoch in history], "validation")
    losses.set(ylabel="loss", yscale="log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter(NullFormatter())
    is_classification = summary["task"] == "classification"
    scores.set(ylabel="accuracy" if is_classification else "RMSE / std")
    for axes in (losses, scores):
        best = summary["best_epoch"]
        axes.axvline(best, color="gray", linestyle="--", label=f"best epoch, {best}")
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=11)
    return to_png(figure)


def _plot_known(axes: Axes, values: Sequence[float | None], label: str) -> None:
    """Plot values by epoch; epochs without a value are bridged."""
    by_epoch = enumerate(values, 1)
    known = {epoch: value for epoch, value in by_epoch if value is not None}
    if known:
        marker = "." if len(known) < 40 else None
        axes.plot([*known], [*known.values()], label=label, marker=marker)
