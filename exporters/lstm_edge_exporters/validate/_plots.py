"""The geometry of the plots: what is where, in SVG units; the template draws it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lstm_edge_runtime.tolerance import MULTIPLE

from .report import Curve, Disagreement, Group, Histogram, Report

__all__ = ["BOTTOM", "HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "Plot", "draw_plots"]

WIDTH, HEIGHT = 440.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 20.0, 26.0, 46.0
"""Room around the plotting area for the axes' labels."""
_ROW = 40.0
"""Height of one group's row in the strip plot."""
_LEAST_SHARE = 0.0005
"""Bins at the ends of the histogram that hold less are left out."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class _Tick:
    at: float
    label: str


@dataclass(frozen=True)
class _Mark:
    """A dot, or a short upright line where ``kind`` is ``limit``."""

    x: float
    y: float
    kind: str
    about: str


@dataclass(frozen=True)
class _Bar:
    x: float
    y: float
    width: float
    height: float
    about: str


@dataclass(frozen=True)
class Plot:
    """One picture; coordinates grow to the right and downwards."""

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str = ""
    height: float = HEIGHT
    x_ticks: tuple[_Tick, ...] = ()
    y_ticks: tuple[_Tick, ...] = ()
    rows: tuple[_Tick, ...] = ()
    """Names of rows, in the place of a y axis."""
    lines: tuple[tuple[str, str], ...] = ()
    """Kind (``file``, ``reference`` or ``limit``) and SVG path data."""
    marks: tuple[_Mark, ...] = ()
    bars: tuple[_Bar, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    """Kind and what it is."""


def draw_plots(report: Report) -> tuple[Plot, ...]:
    """Return every plot that ``report`` has figures for."""
    figures = report.figures
    plots = [_ratios(report.groups)]
    if figures.steps:
        plots.append(
            _curve(
                "steps",
                "Error against step",
                figures.steps,
                "One sample at a time, states carried by the file.",
            )
        )
    if figures.histogram:
        plots.append(_histogram(figures.histogram))
    if figures.drift:
        plots.append(
            _curve(
                "drift",
                "Drift over a long run",
                figures.drift,
                "In chunks, states carried by the file itself.",
            )
        )
    if figures.margins:
        plots.append(_margins(figures.disagreements, figures.margins))
    return tuple(plots)


def _ratios(groups: Sequence[Group]) -> Plot:
    """One row a group, one dot a check: its error in noise floors."""
    measured = [
        (group, [check for check in group.checks if check.worst and check.worst.floor > 0])
        for group in groups
    ]
    measured = [(group, checks) for group, checks in measured if checks]
    values = [
        value
        for _, checks in measured
        for check in checks
        if check.worst
        for value in (check.worst.max_abs / check.worst.floor, check.worst.limit / check.worst.floor)
    ]
    scale, ticks = _log_scale([*values, 1.0, MULTIPLE], LEFT / 2, WIDTH - RIGHT)
    marks, rows = [], []
    for place, (group, checks) in enumerate(measured):
        y = TOP + _ROW * place + 20
        rows.append(_Tick(y, group.title))
        for check in checks:
            assert check.worst is not None
            ratio = check.worst.max_abs / check.worst.floor
            kind = "failed" if check.status == "failed" else "file"
            marks.append(_Mark(scale(ratio), y, kind, f"{check.name}: {ratio:.2g} floors"))
        least = min(c.worst.limit / c.worst.floor for c in checks if c.worst)
        marks.append(_Mark(scale(least), y, "limit", f"least limit: {least:.3g} floors"))
    return Plot(
        key="ratios",
        title="Error in noise floors, by group",
        caption="A dot a check. 1 is PyTorch's own float32 error on the same case; the bar is the group's "
        "least limit.",
        x_label="error ÷ noise floor",
        height=TOP + _ROW * max(len(measured), 1) + BOTTOM,
        x_ticks=ticks,
        rows=tuple(rows),
        marks=tuple(marks),
        legend=(("file", "a check"), ("limit", "limit")),
    )


def _curve(key: str, title: str, curve: Curve, caption: str) -> Plot:
    bottom = HEIGHT - BOTTOM
    y, y_ticks = _log_scale([*curve.error, *curve.floor], bottom, TOP)
    x, x_ticks = _linear_scale(0, max(curve.steps), LEFT, WIDTH - RIGHT)
    return Plot(
        key=key,
        title=title,
        caption=caption,
        x_label="time step",
        y_label="absolute error",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        lines=(
            ("reference", _path(zip(map(x, curve.steps), map(y, curve.floor), strict=True))),
            ("file", _path(zip(map(x, curve.steps), map(y, curve.error), strict=True))),
        ),
        legend=(("file", "this file"), ("reference", "reference in its own dtype (noise floor)")),
    )


def _histogram(histogram: Histogram) -> Plot:
    least = _LEAST_SHARE * max(sum(histogram.file), 1)
    counts = zip(histogram.file, histogram.reference, strict=True)
    filled = [index for index, pair in enumerate(counts) if max(pair) > least]
    first, last = (filled[0], filled[-1] + 1) if filled else (0, 1)
    edges = histogram.edges[first : last + 1]
    file = _shares(histogram.file[first:last], histogram.exact[0])
    reference = _shares(histogram.reference[first:last], histogram.exact[1])
    bottom = HEIGHT - BOTTOM
    x, x_ticks = _linear_scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT, decades=True)
    y, y_ticks = _linear_scale(0, max(*file, *reference, 1e-9) * 100, bottom, TOP, percent=True)
    bars = tuple(
        _Bar(
            x(left),
            y(share * 100),
            x(right) - x(left),
            bottom - y(share * 100),
            f"{share:.1%} of elements, {10**left:.2g} to {10**right:.2g}",
        )
        for left, right, share in zip(edges[:-1], edges[1:], file, strict=True)
        if share
    )
    steps = [
        point
        for left, right, share in zip(edges[:-1], edges[1:], reference, strict=True)
        for point in ((x(left), y(share * 100)), (x(right), y(share * 100)))
    ]
    total = sum(histogram.file) + histogram.exact[0]
    return Plot(
        key="histogram",
        title="Error histogram",
        caption=f"{total:,} compared elements; {histogram.exact[0] / max(total, 1):.1%} are exact.",
        x_label="absolute error against float64",
        y_label="share",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        lines=(("reference", _path(steps)),),
        bars=bars,
        legend=(("file", "this file"), ("reference", "reference in its own dtype")),
    )


def _margins(found: Sequence[Disagreement], margins: Sequence[float]) -> Plot:
    """A dot a sample: how sure the reference was; those that the file labels otherwise stand out."""
    bottom = HEIGHT - BOTTOM
    x, x_ticks = _linear_scale(0, max(len(margins) - 1, 1), LEFT, WIDTH - RIGHT)
    y, y_ticks = _log_scale(margins, bottom, TOP)
    wrong = {each.place: each for each in found}
    marks = []
    for place, margin in enumerate(margins):
        about = f"sample {place}: margin {margin:.3g}"
        if place in wrong:
            each = wrong[place]
            about = f"sample {each.sample}: {each.expected} became {each.got}, margin {margin:.3g}"
        marks.append(_Mark(x(place), y(margin), "failed" if place in wrong else "file", about))
    return Plot(
        key="disagreements",
        title="Samples that the two label differently",
        caption=f"{len(found) or 'None'} of {len(margins)}. The margin is how sure the reference was.",
        x_label="sample",
        y_label="margin",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        marks=tuple(sorted(marks, key=lambda mark: mark.kind == "failed")),
        legend=(("file", "labeled alike"), ("failed", "labeled differently")),
    )


def _shares(counts: Sequence[int], exact: int) -> list[float]:
    total = sum(counts) + exact
    return [count / total if total else 0.0 for count in counts]


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _log_scale(
    values: Iterable[float], start: float, end: float
) -> tuple[Callable[[float], float], tuple[_Tick, ...]]:
    """Return a scale over whole decades; what is zero or not finite stands at its ends."""
    logs = [math.log10(value) for value in values if 0 < value < math.inf]
    low = math.floor(min(logs, default=-1))
    high = max(math.ceil(max(logs, default=0)), low + 1)

    def place(value: float) -> float:
        log = math.log10(value) if 0 < value < math.inf else (high if value > 0 else low)
        return start + (end - start) * (min(max(log, low), high) - low) / (high - low)

    stride = max(1, math.ceil((high - low) / 6))
    ticks = [_Tick(place(10.0**power), _power(power)) for power in range(low, high + 1, stride)]
    if high - low == 1:
        ticks += [_Tick(place(part * 10.0**low), f"{part} · {_power(low)}") for part in (2, 5)]
    return place, tuple(ticks)


def _linear_scale(
    low: float, high: float, start: float, end: float, *, decades: bool = False, percent: bool = False
) -> tuple[Callable[[float], float], tuple[_Tick, ...]]:
    span = high - low or 1.0

    def place(value: float) -> float:
        return start + (end - start) * (value - low) / span

    stride = 10 ** math.floor(math.log10(span))
    stride = next(stride * part for part in (0.2, 0.5, 1, 2) if span / (stride * part) <= 6)
    if decades:
        stride = max(1, round(stride))
    first, last = math.ceil(low / stride), math.floor(high / stride)
    ticks = []
    for index in range(first, last + 1):
        value = index * stride
        label = _power(round(value)) if decades else f"{value:g}{' %' if percent else ''}"
        ticks.append(_Tick(place(value), label))
    return place, tuple(ticks)


def _power(power: int) -> str:
    return "1" if power == 0 else "10" + str(power).translate(_SUPERSCRIPTS)
