"""Options of verbs that read data."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lstm_edge.data.config import LAYOUTS, MISSING

from ._options import NAMES

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--series",
        metavar="COLUMN",
        help="Column with the series id.  [default: series, if it exists]",
    ),
    click.option(
        "--order",
        metavar="COLUMN",
        help="Column to sort each series by.  [default: order, if it exists]",
    ),
    click.option("--label", metavar="COLUMN", help="Column with the class.  [default: label; y of an .npz]"),
    click.option(
        "--features",
        type=NAMES,
        default=(),
        help="Feature columns.  [default: the model's; for train, all remaining columns]",
    ),
    click.option(
        "--label-pattern",
        metavar="REGEX",
        help="For a folder: regex whose group in each file's path is the class.  [default: the subfolder]",
    ),
    click.option(
        "--missing",
        type=click.Choice(MISSING),
        default="error",
        show_default=False,
        help="How to handle missing features.  [default: error]",
    ),
    click.option(
        "--group", metavar="COLUMN", help="Column with a subject or machine; not used as a feature."
    ),
    click.option(
        "--layout",
        type=click.Choice(LAYOUTS),
        help="Axes of x: samples, time, channels or samples, channels, time.  [default: NLC]",
    ),
)


def data_options(function: _F) -> _F:
    """Add the options that describe a data file, the fields of ``ReadConfig``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
