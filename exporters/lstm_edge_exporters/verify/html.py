"""A report as one HTML page: the verdict and advice, then the groups."""

from ..render import render_page
from .report import Report


def to_html(report: Report) -> str:
    """Return ``report`` as an HTML document; everything that comes from a file is escaped."""
    return render_page(__package__, "report.html.j2", report=report)
