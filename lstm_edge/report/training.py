"""The report of a training: curves of loss and score, the confusion matrix, and one page with all scores."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from lstm_edge_runtime.files import write_bytes

from ..run_files import CURVES, REPORT


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
    shown = scores[scores["shown"]]
    curves = _png(_draw_curves(summary))
    confusion = None
    if "confusion" in shown:
        confusion = _embedded(_png(_draw_confusion(shown["confusion"], list(shown["count"]))))
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("training.html.j2").render(
        title=folder.absolute().name,
        summary=summary,
        sets=[(each, summary[each]) for each in ("validation", "test") if summary[each]],
        name=name,
        shown=shown,
        curves=_embedded(curves),
        confusion=confusion,
    )
    write_bytes(folder / CURVES, curves)
    write_bytes(folder / REPORT, page.encode())


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _draw_curves(summary: Mapping[str, Any]) -> Figure:
    history = summary["history"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [one["number"] for one in history]
    for key, label in (("loss", "training"), ("streams", "validation, streams"), ("windows", "from reset")):
        left.plot(numbers, [one[key] for one in history], label=label)
    right.plot(numbers, [one["score"] for one in history], color="C1")
    score = "accuracy" if summary["task"] == "classification" else "RMSE / standard deviation"
    for axes, name in ((left, "loss"), (right, f"validation {score}")):
        axes.axvline(summary["best_epoch"], color="gray", linestyle=":")
        axes.set(xlabel="epoch", ylabel=name)
    left.set_yscale("log")
    left.legend()
    return figure


def _draw_confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    side = min(2 + 0.4 * len(labels), 20)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    fractions = np.array(counts) / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    names = [label.replace("$", r"\$") for label in labels]  # no mathematics
    axes.set_xticks(range(len(labels)), names, rotation=90)
    axes.set_yticks(range(len(labels)), names)
    axes.set(xlabel="predicted", ylabel="true")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    return figure
