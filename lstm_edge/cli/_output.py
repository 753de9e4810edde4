"""What verbs print: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_edge_runtime.errors import printable

__all__ = ["console", "echo_json", "json_option", "print_table"]

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(function: _F) -> _F:
    """Add ``--json``, received as ``as_json: bool``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document for programs.")(
        function
    )


def echo_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def console() -> Console:
    """Return a console on standard output: colors on a terminal, plain text in a pipe; no text is markup."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; title and cells are taken as text, never as markup or as what a terminal obeys."""
    table = Table(title=Text(printable(title), style="bold"), title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console().print(table)
