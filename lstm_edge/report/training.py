"""The report of a training: curves of loss and score, the confusion matrix, and one
page with all scores.
"""

import base64
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lstm_edge_runtime.files import write_bytes

from ..run_files import CURVES, REPORT

with (
    tempfile.TemporaryDirectory() as _fonts
):  # matplotlib writes its list of fonts when it is imported
    _given = os.environ.setdefault("MPLCONFIGDIR", _fonts)
    from matplotlib.figure import Figure

    if _given == _fonts:
        del os.environ["MPLCONFIGDIR"]


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``curves.png`` and the self-contained ``report.html`` of a summary into the
    folder of its run.
    """
    name = "test" if summary["test"] else "validation"
    curves = _curves(summary)
    loader = PackageLoader(__package__, ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("training.html.j2").render(
        title=folder.absolute().name,
        summary=summary,
        sets=[(key, summary[key]) for key in ("validation", "test") if summary[key]],
        name=name,
        shown=summary[name][summary[name]["shown"]],
        curves=f"data:image/png;base64,{base64.b64encode(curves).decode()}",
    )
    write_bytes(folder / CURVES, curves)
    write_bytes(folder / REPORT, page.encode())


def _curves(summary: Mapping[str, Any]) -> bytes:
    """Return losses and scores by epoch as PNG."""
    figure = Figure(figsize=(12, 4), layout="constrained", dpi=100)
    score = (
        "accuracy"
        if summary["task"] == "classification"
        else "RMSE / standard deviation"
    )
    lines = {
        "loss": {
            "loss": "training",
            "streams": "validation, streams",
            "windows": "validation, from reset",
        },
        score: {"score": "validation"},
    }
    for axes, (ylabel, labels) in zip(
        figure.subplots(1, 2), lines.items(), strict=True
    ):
        for key, label in labels.items():
            values = [epoch[key] for epoch in summary["history"]]
            axes.plot(range(1, len(values) + 1), values, label=label, marker=".")
        axes.set(
            xlabel="epoch",
            ylabel=ylabel,
            yscale="log" if ylabel == "loss" else "linear",
        )
        axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
