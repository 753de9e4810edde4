"""Plots as SVG, drawn by matplotlib: the same bytes for the same data, colors by CSS variables."""

import contextlib
import io
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal


@contextlib.contextmanager
def _folder_of_its_own() -> Iterator[None]:
    """Let matplotlib write its list of fonts, as it does when imported, into a temporary folder."""
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
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        FixedFormatter,
        FixedLocator,
        LogFormatterSciNotation,
        LogLocator,
        NullLocator,
    )

PALETTE = {
    "page": ("#f6f7f9", "#10151d"),
    "card": ("#fefefe", "#19212c"),
    "text": ("#1b2330", "#e6eaf1"),
    "soft": ("#5c6778", "#9aa7b8"),
    "line": ("#dde2ea", "#2d3848"),
    "blue": ("#2457d6", "#86adff"),
    "orange": ("#b45f06", "#f0a45d"),
    "green": ("#15803d", "#4ade80"),
    "red": ("#c62828", "#ff7b72"),
    "purple": ("#7a3ea8", "#c89bf0"),
    "gray": ("#4a5260", "#b4bdca"),
    "pale": ("#b9cbf5", "#34528f"),
}
"""Name to (light, dark); the light colors are all different, so that one can be found again in an SVG."""
SERIES = ("blue", "orange", "green", "purple", "red", "gray")
"""The colors of series that name none, in turn."""
_WIDTH, _HEIGHT, _LOW, _ROW = 440.0, 280.0, 190.0, 34.0
"""Size of a plot, height of one in a stack, and of one named row of a y axis, in units of the view box."""
_FONT = 13.0
_POINTS_PER_INCH = 72.0
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": _FONT,
    "axes.edgecolor": PALETTE["line"][0],
    "axes.labelcolor": PALETTE["soft"][0],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": PALETTE["line"][0],
    "text.color": PALETTE["soft"][0],
    "text.parse_math": False,
    "xtick.color": PALETTE["line"][0],
    "ytick.color": PALETTE["line"][0],
    "xtick.labelcolor": PALETTE["soft"][0],
    "ytick.labelcolor": PALETTE["soft"][0],
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    label: str = ""
    scale: Literal["linear", "log"] = "linear"
    ticks: tuple[tuple[float, str], ...] = ()
    """Positions and labels; by default, ticks are chosen."""
    rows: tuple[str, ...] = ()
    """Names of the rows 0, 1, ... from the top; for a y axis, in place of ``ticks``."""


@dataclass(frozen=True)
class Series:
    """One thing drawn in a plot."""

    name: str
    """For the legend."""
    x: Sequence[float]
    """For ``bars`` and ``steps`` the edges, one more than ``y``."""
    y: Sequence[float]
    kind: Literal["line", "points", "marks", "bars", "steps"] = "line"
    """A line, dots, short upright marks, filled bars, or the outline of bars."""
    color: str = ""
    """A name of ``PALETTE``; left out, the next of ``SERIES``."""


@dataclass(frozen=True)
class Plot:
    """A plot before it is drawn."""

    key: str
    """Its name in the page, ``plot-KEY``; letters, digits and dashes."""
    title: str
    series: tuple[Series, ...]
    x: Axis = Axis()
    y: Axis = Axis()
    caption: str = ""
    """One or two sentences under the title."""

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Color and name of each series."""
        return tuple((color, series.name) for series, color in _colored(self.series))


def style_variables() -> str:
    """Return the palette as CSS custom properties, dark by ``prefers-color-scheme``."""
    light, dark = (
        " ".join(f"--{name}: {shades[place]};" for name, shades in PALETTE.items()) for place in (0, 1)
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def draw_plot(plot: Plot, *, standalone: bool = False) -> str:
    """Return ``plot`` as SVG.

    A value that a logarithmic axis cannot show (0, infinity, NaN) is drawn at the axis's end.

    Args:
        plot: the plot.
        standalone: return a file of its own, with title and legend and its own colors, instead of an element
            for a page of ``render_page``.
    """
    height = _height(plot, _HEIGHT)
    style: Any = _STYLE | {"svg.hashsalt": f"lstm-edge {plot.key}"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
        figure.set_facecolor("none")
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        _fill(axes, plot, titled=standalone)
        stream = io.StringIO()
        canvas = FigureCanvasSVG(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(stream, metadata=nothing)  # type: ignore[no-untyped-call]
    return _finish(stream.getvalue(), plot, standalone=standalone)


def draw_png(plots: Sequence[Plot], *, stacked: bool = False) -> bytes:
    """Return plots as one PNG on the light page's background.

    Args:
        plots: the plots.
        stacked: one above the other, for narrow screens, instead of side by side.
    """
    heights = [_height(plot, _LOW) for plot in plots] if stacked else [_HEIGHT]
    size = (_WIDTH * (1 if stacked else len(plots)) / _POINTS_PER_INCH, sum(heights) / _POINTS_PER_INCH)
    style: Any = _STYLE
    with mpl.rc_context(style):
        figure = Figure(
            figsize=size, layout="constrained", facecolor=PALETTE["card"][0], dpi=150 if stacked else 100
        )
        rows, columns = len(heights), len(plots) // len(heights)
        cells = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
        for axes, plot in zip(cells.flat, plots, strict=True):
            _fill(axes, plot, titled=True)
        stream = io.BytesIO()
        FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _height(plot: Plot, usual: float) -> float:
    return 74 + _ROW * len(plot.y.rows) if plot.y.rows else usual


def _fill(axes: Axes, plot: Plot, *, titled: bool) -> None:
    x, y = _limits(plot, "x"), _limits(plot, "y")
    for series, color in _colored(plot.series):
        _draw(axes, series, PALETTE[color][0], x, y)
    _set_axis(axes, plot.x, x, "x")
    _set_axis(axes, plot.y, y, "y")
    if titled:
        several = len(plot.series) > 1
        axes.set_title(
            plot.title, loc="left", fontsize=_FONT, color=PALETTE["text"][0], pad=26 if several else None
        )
        if several:  # between title and plot, so that it covers nothing
            place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
            legend = axes.legend(ncols=len(plot.series), handlelength=1.2, columnspacing=1.2, **place)
            legend.set_in_layout(False)  # a long one would leave no room for the plot


_Limits = tuple[float, float]


def _colored(series: Sequence[Series]) -> list[tuple[Series, str]]:
    return [(each, each.color or SERIES[place % len(SERIES)]) for place, each in enumerate(series)]


def _limits(plot: Plot, side: Literal["x", "y"]) -> _Limits | None:
    """Return whole decades for a logarithmic axis; None if matplotlib may choose."""
    axis: Axis = getattr(plot, side)
    if axis.scale == "linear":
        return None
    values = [value for series in plot.series for value in getattr(series, side)]
    values += [place for place, _ in axis.ticks]
    logs = [math.log10(value) for value in values if 0 < value < math.inf]
    low = math.floor(min(logs, default=-1))
    return 10.0**low, 10.0 ** max(math.ceil(max(logs, default=0)), low + 1)


def _draw(axes: Axes, series: Series, color: str, along: _Limits | None, up: _Limits | None) -> None:
    x, y = _shown(series.x, along), _shown(series.y, up)
    if series.kind == "line":
        axes.plot(x, y, color=color, linewidth=1.7, label=series.name, marker="o" if len(x) < 9 else "")
    elif series.kind == "bars":
        axes.stairs(y, x, fill=True, color=color, label=series.name)
    elif series.kind == "steps":
        axes.stairs(y, x, color=color, linewidth=1.7, label=series.name)
    elif series.kind == "points":
        axes.plot(x, y, "o", color=color, markersize=5, alpha=0.55, markeredgewidth=0, label=series.name)
    else:
        axes.plot(x, y, "|", color=color, markersize=13, markeredgewidth=2.2, label=series.name)


def _shown(values: Sequence[float], limits: _Limits | None) -> list[float]:
    if limits is None:
        return list(values)
    low, high = limits
    return [min(max(value, low), high) if value == value else high for value in values]  # NaN is not itself


def _set_axis(axes: Axes, axis: Axis, limits: _Limits | None, side: Literal["x", "y"]) -> None:
    axes.set(**{f"{side}label": axis.label})
    shown = axes.xaxis if side == "x" else axes.yaxis
    if limits is not None:
        axes.set(**{f"{side}scale": "log", f"{side}lim": limits})
        shown.set_major_locator(LogLocator(numticks=7))
        shown.set_major_formatter(_Powers())
        shown.set_minor_locator(NullLocator())
    ticks = axis.ticks or tuple((float(place), name) for place, name in enumerate(axis.rows))
    if ticks:
        shown.set_major_locator(FixedLocator([place for place, _ in ticks]))
        shown.set_major_formatter(FixedFormatter([name for _, name in ticks]))
    if axis.rows:
        axes.set_ylim(len(axis.rows) - 0.4, -0.6)
        shown.set_tick_params(labelcolor=PALETTE["text"][0])


class _Powers(LogFormatterSciNotation):
    """Ten to a power in superscript digits: matplotlib's own needs its mathematical fonts."""

    _DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def __call__(self, x: float, pos: int | None = None) -> str:  # noqa: ARG002
        power = round(math.log10(x))
        return "1" if power == 0 else "10" + str(power).translate(self._DIGITS)


def _finish(text: str, plot: Plot, *, standalone: bool) -> str:
    """Turn matplotlib's file into an element whose names are its own and whose colors follow the page."""
    body = text[text.index("<svg") :]
    _, _, body = body.partition(">")
    size = re.search(r'viewBox="([^"]*)"', text)
    assert size is not None
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", body, count=1, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)(\w+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{plot.key}-", body)
    body = body.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for name, (light, _) in PALETTE.items():
        body = body.replace(light, f"var(--{name})")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    style = f"<style>{style_variables()}</style>" if standalone else ""
    about = escape(f"{plot.title}. {plot.caption}".strip(". ") if plot.caption else plot.title)
    return (
        f'<svg {names if standalone else ""}viewBox="{size[1]}" role="img" aria-label="{about}">{style}{body}'
    )
