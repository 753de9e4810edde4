"""Output of verbs: a report as text or JSON, notes, and progress on standard error."""

import contextlib
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_edge_runtime.errors import counted, printable, shortened


@dataclass(frozen=True)
class Report:
    """The result of a verb. Its text and its JSON are made from one document."""

    document: Any
    """A mapping, or the rows of one table. Values may also be paths, arrays, and classes with fields."""
    title: str = ""
    hidden: Collection[str] = ()
    """Entries of the document that the text does not have."""
    next: Sequence[str] = ()
    """Commands to go on with, for the text."""
    error: BaseException | None = None
    """Raised after the report has been printed."""


_EMPTY: tuple[Any, ...] = (None, "", [], {})


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a report; raises its error."""
    document = plain(report.document)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print_text(report, document if isinstance(document, dict) else {report.title: document})
    if report.error is not None:
        raise report.error


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are not finite as None, classes with fields as mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _print_text(report: Report, document: Mapping[str, Any]) -> None:
    """Print lists of mappings as tables, and other entries that are not empty as lines."""
    if report.title and report.title not in document:
        Screen().print(report.title, style="bold")
    for key, value in document.items():
        name = key.replace("_", " ")
        if key in report.hidden or value in _EMPTY:
            continue
        if isinstance(value, list) and isinstance(value[0], dict):
            print_table(name, value)
            continue
        lines = {name: value}
        if isinstance(value, dict) and not all(isinstance(entry, int | float) for entry in value.values()):
            lines = {f"{name} {part}": entry for part, entry in value.items() if entry not in _EMPTY}
        for what, entry in [("note", each) for each in value] if key == "notes" else lines.items():
            echo(f"{what}: {to_text(entry)}")
    for command in report.next:
        echo(f"next: {command}")


def to_text(value: Any) -> str:
    """Return a plain value in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {to_text(each)}".strip() for name, each in value.items())
    if isinstance(value, list):
        texts = list(map(to_text, value))
        mark = "; " if any(", " in text for text in texts) else ", "
        return "an array" if any(isinstance(each, list) for each in value) else mark.join(texts)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.1f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table, without empty columns; markup and escape sequences have no effect."""
    used = {name for row in rows for name, value in row.items() if value not in _EMPTY}
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name in used]
    table = Table(title=Text(printable(title), style="bold"), title_justify="left", header_style="bold")
    for name in names:
        table.add_column(Text(printable(name.replace("_", " "))), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(to_text(row.get(name)))) for name in names))
    Screen().print(table)


_WIDE = 500
"""Columns of a pipe, so that no cell is wrapped."""


class Screen(Console):
    """A console: colors on a terminal, plain text in a pipe; markup and escape sequences have no effect."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        """Write to standard output or standard error; ``options`` as rich's ``Console``."""
        super().__init__(stderr=stderr, highlight=False, markup=False, soft_wrap=True, **options)
        self.soft_wrap = not self.is_terminal  # a terminal wraps inside of words
        if not self.is_terminal:
            self.width = _WIDE

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich's ``Console``, with escape sequences in texts escaped."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)

    def on_broken_pipe(self) -> None:
        """Let ``cli.run`` handle a broken pipe; rich would exit with 1."""
        raise BrokenPipeError


def echo(text: str, *, err: bool = False) -> None:
    """Print a line on standard output or standard error, with escape sequences escaped."""
    click.echo(printable(text), err=err)


def echo_prose(text: str) -> None:
    """Print a note or an error on standard error, as one line in a pipe, wrapped at spaces on a terminal."""
    text = shortened(printable(" ".join(str(text).split())))
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    click.echo(text, err=True)


def note(text: str) -> None:
    """Print a note on standard error."""
    echo_prose(f"note: {text}")


def note_resets(every: int | None, consequence: str) -> None:
    """Print a note for a network whose training windows each started from reset.

    Args:
        every: number of steps of the window; None if unknown.
        consequence: the resulting behavior, with a placeholder for the number of steps.
    """
    if every is None:
        note(
            "training samples started from reset; states are carried on anyway, unless --reset-every is given"
        )
    else:
        found = consequence.format(counted(every, "step"))
        note(f"each training window started from reset, so {found}; --reset-every never carries states on")


_LINES = 20
"""Number of lines in a pipe: one per 5 % of the work."""


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[float, str], None]]:
    """Yield a function to call with the fraction of the work done, and a description of the current step.

    A terminal shows one line, cut to its width, with the remaining time.

    Args:
        quiet: print nothing in a pipe.
    """
    if not sys.stderr.isatty():
        yield _line_printer(quiet=quiet)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    cut = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        TextColumn("{task.percentage:3.0f} %"),
        BarColumn(bar_width=10),
        TextColumn("{task.description}", markup=False, table_column=cut),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Screen(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda done, what: bar.update(task, completed=done, description=printable(what))


def _line_printer(*, quiet: bool) -> Callable[[float, str], None]:
    printed = -1

    def show(done: float, what: str) -> None:
        nonlocal printed
        now = math.floor(done * _LINES + 1e-9)
        if not quiet and now > printed:
            printed = now
            echo(what, err=True)

    return show
