"""What verbs print: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_edge_runtime.errors import printable

__all__ = ["Screen", "echo", "echo_json", "json_option", "print_table"]

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(function: _F) -> _F:
    """Add ``--json``, received as ``as_json: bool``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document for programs.")(
        function
    )


def echo_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


class Screen(Console):
    """A console: colors on a terminal, plain text in a pipe; no text is markup or what a terminal obeys."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        """Write to standard output or standard error; ``options`` as rich's ``Console``."""
        super().__init__(stderr=stderr, highlight=False, markup=False, soft_wrap=True, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich's ``Console``, texts with what a terminal would obey escaped."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to ``_ending`` what becomes of a reader that left; rich would exit with 1."""
        raise BrokenPipeError


def echo(text: str, *, err: bool = False) -> None:
    """Print a line on standard output or standard error; what a terminal would obey is escaped."""
    click.echo(printable(text), err=err)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; title and cells are taken as text, never as markup or as what a terminal obeys."""
    table = Table(title=Text(printable(title), style="bold"), title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Screen().print(table)
