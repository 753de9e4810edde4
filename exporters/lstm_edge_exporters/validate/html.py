"""A report as one HTML page, without scripts and without anything to fetch."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from .report import Report


def to_html(report: Report) -> str:
    """Return ``report`` as an HTML document; everything that comes from a file is
    escaped.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["figure"] = lambda value: "0" if value == 0 else f"{value:.2g}"
    return environment.get_template("report.html.j2").render(report=report)
