"""A report as one HTML file: no scripts, no fetches, plots drawn inline."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import _plots
from .report import Report

__all__ = ["to_html"]


def to_html(report: Report) -> str:
    """Return ``report`` as an HTML document; everything that comes from a file is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    return environment.get_template("report.html.j2").render(
        report=report,
        plots=_plots.draw_plots(report),
        width=_plots.WIDTH,
        left=_plots.LEFT,
        right=_plots.RIGHT,
        top=_plots.TOP,
        foot=_plots.BOTTOM,
    )


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"
