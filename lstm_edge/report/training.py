"""The report of a training: curves of loss and score, the confusion matrix, and one page with all scores."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lstm_edge_runtime.files import write_bytes

from ..run_files import CURVES, REPORT
from .plots import Axis, Plot, Series, draw_png


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``curves.png`` and the self-contained ``report.html`` into a run folder.

    Args:
        folder: of the run.
        summary: of ``lstm_edge.training.summary.summarize``.

    Raises:
        InputError: the folder can't be written to.
    """
    name = "test" if summary["test"] else "validation"
    scores = summary[name]
    curves = draw_png(_curves(summary))
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("training.html.j2").render(
        title=folder.absolute().name,
        summary=summary,
        sets=[(each, summary[each]) for each in ("validation", "test") if summary[each]],
        name=name,
        shown=scores[scores["shown"]],
        curves=f"data:image/png;base64,{base64.b64encode(curves).decode()}",
    )
    write_bytes(folder / CURVES, curves)
    write_bytes(folder / REPORT, page.encode())


def _curves(summary: Mapping[str, Any]) -> list[Plot]:
    history = summary["history"]

    def series(label: str, key: str, color: str) -> Series:
        known = [one for one in history if one[key] is not None]
        return Series(
            label, [float(one["number"]) for one in known], [one[key] for one in known], color=color
        )

    losses = (
        series("training", "loss", "blue"),
        series("validation, streams", "streams", "orange"),
        series("validation, from reset", "windows", "gray"),
    )
    what = "accuracy" if summary["task"] == "classification" else "RMSE / standard deviation"
    return [
        Plot("Loss", losses, Axis("epoch"), Axis("loss", "log")),
        Plot("Validation set", (series(what, "score", "orange"),), Axis("epoch"), Axis(what)),
    ]
