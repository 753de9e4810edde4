"""A picture of predictions: the inputs of each series, and its values or labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lstm_edge.results import (
    PredictedSeries,
    class_labels,
    is_classification,
    value_names,
)
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array, Task

from .figures import Axes, drawing, new_figure, to_png

MAX_SERIES = 6
"""Maximum number of series in a picture."""
MAX_COLUMNS = 4
"""Maximum number of names next to each other in a legend."""


def write_plot(
    path: Path, series: Sequence[PredictedSeries], task: Task | None
) -> None:
    """Write a PNG with one row for each of the first series: labels as a timeline over
    the inputs, or the predicted values next to them.
    """
    series = series[:MAX_SERIES]
    with drawing():
        figure, rows = new_figure(len(series), height=2.4)
        for axes, record in zip(rows, series, strict=True):
            _draw_series(axes, record, task)
        rows[-1].set(xlabel="time step")
        content = to_png(figure)
    write_bytes(path, content)


def _draw_series(axes: Axes, series: PredictedSeries, task: Task | None) -> None:
    """Draw the inputs of one series, and its labels or values."""
    steps = np.arange(1, len(series.x) + 1)
    lines = axes.plot(steps, series.x, color="gray", alpha=0.5, linewidth=0.8)
    lines[0].set_label("inputs")
    values = np.array([frame.values for frame in series.frames])
    ends = [frame.step for frame in series.frames]
    if is_classification(task):
        _draw_labels(axes, ends, values=values, task=task)
    else:
        _draw_values(axes, ends, values=values, task=task)
    axes.set(xlim=(0, len(series.x) + 1))
    _write_name(axes, series.name)
    _add_legend(axes)


def _write_name(axes: Axes, name: str) -> None:
    """Write the name of a series into its upper left corner."""
    background = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none"}
    axes.text(
        0.01,
        0.96,
        name,
        transform=axes.transAxes,
        verticalalignment="top",
        bbox=background,
    )


def _add_legend(axes: Axes) -> None:
    """Put the legend above the upper right corner, in few rows."""
    axes.legend(
        fontsize=11,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.1,
        ncols=MAX_COLUMNS,
        handlelength=1.2,
        columnspacing=1.2,
        frameon=False,
    )


def _draw_labels(
    axes: Axes, ends: Sequence[int], values: Array, task: Task | None
) -> None:
    """Draw a colored span for consecutive frames with one label."""
    names = class_labels(task, values.shape[1])
    labels = values.argmax(axis=1)
    changes = np.flatnonzero(np.diff(labels)) + 1
    shown: set[int] = set()
    for frames in np.split(np.arange(len(labels)), changes):
        first = frames[0]
        label = int(labels[first])
        start = ends[first - 1] if first else 0
        end = ends[frames[-1]]
        title = None if label in shown else names[label]
        axes.axvspan(start, end, color=f"C{label % 10}", alpha=0.3, label=title)
        shown.add(label)


def _draw_values(
    axes: Axes, ends: Sequence[int], values: Array, task: Task | None
) -> None:
    """Draw the predicted values over time; a single result as points."""
    marker = "o" if len(ends) == 1 else None
    for index, name in enumerate(value_names(task, values.shape[1])):
        axes.plot(
            ends,
            values[:, index],
            color=f"C{index}",
            label=name,
            marker=marker,
            clip_on=False,
        )
