"""Plots as PNG, drawn by matplotlib: the same bytes for the same data."""

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@contextlib.contextmanager
def _folder_of_its_own() -> Iterator[None]:
    """Let matplotlib write its list of fonts, as it does when imported, into a
    temporary folder.
    """
    if "MPLCONFIGDIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


with _folder_of_its_own():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

_COLORS = {
    "blue": "#2457d6",
    "orange": "#b45f06",
    "green": "#15803d",
    "red": "#c62828",
    "gray": "#4a5260",
    "pale": "#b9cbf5",
}
_WIDTH = 6.1
_HEIGHT = 2.6
_ROW = 0.47
"""Inches of a plot, and of one named row of a y axis."""
_STYLE: Any = {
    "font.size": 13.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#dde2ea",
    "grid.color": "#dde2ea",
    "text.parse_math": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    label: str = ""
    scale: Literal["linear", "log"] = "linear"
    rows: tuple[str, ...] = ()
    """Names of the rows 0, 1, ... from the top, of a y axis."""


@dataclass(frozen=True)
class Series:
    """One series drawn in a plot."""

    name: str
    """For the legend."""
    x: Sequence[float]
    """For ``bars`` the edges, one more than ``y``."""
    y: Sequence[float]
    kind: Literal["line", "points", "marks", "bars"] = "line"
    """A line, dots, short upright marks, or filled bars."""
    color: str = "blue"
    """``blue``, ``orange``, ``green``, ``red``, ``gray`` or ``pale``."""


@dataclass(frozen=True)
class Plot:
    """A plot before it is drawn."""

    title: str
    series: tuple[Series, ...]
    x: Axis = Axis()
    y: Axis = Axis()


def draw_png(plots: Sequence[Plot], *, stacked: bool = False) -> bytes:
    """Return plots as one PNG.

    Args:
        plots: the plots.
        stacked: one above the other, for narrow screens, instead of side by side.
    """
    heights = [
        1 + _ROW * len(plot.y.rows) if plot.y.rows else _HEIGHT for plot in plots
    ]
    rows = len(plots) if stacked else 1
    size = (_WIDTH, sum(heights)) if stacked else (_WIDTH * len(plots), 1.5 * _HEIGHT)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=100)
        ratios = heights if stacked else [1.0]
        cells = figure.subplots(
            rows, len(plots) // rows, squeeze=False, height_ratios=ratios
        )
        for axes, plot in zip(cells.flat, plots, strict=True):
            _fill(axes, plot)
        stream = io.BytesIO()
        FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _fill(axes: Axes, plot: Plot) -> None:
    for series in plot.series:
        look: dict[str, Any] = {"color": _COLORS[series.color], "label": series.name}
        y = [
            value if math.isfinite(value) else math.nan for value in series.y
        ]  # not drawn
        if series.kind == "bars":
            axes.stairs(y, series.x, fill=True, **look)
        elif series.kind == "points":
            axes.plot(series.x, y, "o", markersize=5, alpha=0.55, **look)
        elif series.kind == "marks":
            axes.plot(series.x, y, "|", markersize=13, markeredgewidth=2.2, **look)
        else:
            axes.plot(
                series.x, y, linewidth=1.7, marker="o" if len(y) < 9 else "", **look
            )
    axes.set(
        xlabel=plot.x.label,
        ylabel=plot.y.label,
        xscale=plot.x.scale,
        yscale=plot.y.scale,
    )
    if plot.y.rows:
        axes.set_yticks(range(len(plot.y.rows)), plot.y.rows)
        axes.set_ylim(len(plot.y.rows) - 0.4, -0.6)
    several = len(plot.series) > 1
    axes.set_title(plot.title, loc="left", fontsize=13, pad=26 if several else None)
    if several:  # between title and plot, where it covers nothing
        position: Any = {
            "loc": "lower left",
            "bbox_to_anchor": (0, 1),
            "borderaxespad": 0,
        }
        axes.legend(ncols=len(plot.series), handlelength=1.2, **position).set_in_layout(
            False
        )
