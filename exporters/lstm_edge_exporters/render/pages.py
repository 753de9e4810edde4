"""Pages: one HTML file each, without scripts and without anything to fetch."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .plots import Plot, draw_plot, style_variables


def render_page(package: str, template: str, **values: Any) -> str:
    """Return a page from a template that extends ``base.html.j2``; every value is escaped.

    Args:
        package: the package with the template, as ``__package__``.
        template: its file name.
        values: its variables. The filter ``figure`` prints a number with two digits, and ``draw`` a ``Plot``
            as inline SVG; ``parts.html.j2`` has macros for figures and tables.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__package__, ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "draw": _draw}
    environment.globals["style_variables"] = Markup(style_variables())  # noqa: S704
    return environment.get_template(template).render(**values)


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def _draw(plot: Plot) -> Markup:
    return Markup(draw_plot(plot))  # noqa: S704  matplotlib escapes the texts of a plot
