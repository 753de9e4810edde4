"""The options of every verb that reads data."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lstm_edge.data.config import LAYOUTS, MISSING

from ._options import NAMES

__all__ = ["data_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--series",
        metavar="COLUMN",
        help="Column that tells series apart.  [default: series, if there is one]",
    ),
    click.option(
        "--order",
        metavar="COLUMN",
        help="Column that a series is sorted by.  [default: order, if there is one]",
    ),
    click.option("--label", metavar="COLUMN", help="Column with the class.  [default: label; y of an .npz]"),
    click.option(
        "--features",
        type=NAMES,
        default=(),
        help="Columns that are features.  [default: the model's; for train all with no other meaning]",
    ),
    click.option(
        "--label-pattern",
        metavar="REGEX",
        help="For a folder: its group in each file's path is the class.  [default: the sub-folder]",
    ),
    click.option(
        "--missing",
        type=click.Choice(MISSING),
        default="error",
        show_default=False,
        help="What to do with missing features.  [default: error]",
    ),
    click.option("--group", metavar="COLUMN", help="Column with a subject or machine; it is no feature."),
    click.option(
        "--layout",
        type=click.Choice(LAYOUTS),
        help="Axes of x: samples, time, channels or samples, channels, time.  [default: NLC]",
    ),
)


def data_options(function: _F) -> _F:
    """Add the options that name what is in a data file, the fields of ``ReadConfig``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
