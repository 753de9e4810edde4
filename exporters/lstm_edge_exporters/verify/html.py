"""A report as one HTML page: the verdict and advice, the groups, and the errors along a stream."""

from ..render import Axis, Plot, Series, render_page
from .report import MAX_CHECKS, Curve, Report


def to_html(report: Report) -> str:
    """Return ``report`` as an HTML document; everything that comes from a file is escaped."""
    plots = [_curve(report.steps)] if report.steps else []
    return render_page(__package__, "report.html.j2", report=report, plots=plots, most=MAX_CHECKS)


def _curve(curve: Curve) -> Plot:
    return Plot(
        "steps",
        "Error against step",
        (
            Series("limit", curve.steps, [curve.limit] * len(curve.steps), color="orange"),
            Series("this file", curve.steps, curve.error, color="blue"),
        ),
        Axis("time step"),
        Axis("absolute error", "log"),
        "One sample at a time, states carried by the file.",
    )
