"""Output of verbs: text or JSON, notes, and progress on standard error."""

import contextlib
import json
import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from lstm_edge_runtime.errors import counted, printable, shortened

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True)
class Output:
    """The result of a verb: a document for programs, and lines for people."""

    document: Any
    """What ``--json`` prints: a mapping whose keys are stable and in snake_case, or the
    rows of one table. Values may also be paths, arrays, and classes with fields.
    ``docs/json-schema.json`` describes it."""
    lines: Mapping[str, Any] | None = None
    """What the text shows, by label; None for the entries of the document."""
    title: str = ""
    """First line of the text."""
    next: Sequence[Sequence[object]] = ()
    """Arguments of commands of ``lstm-edge`` to go on with, for the text."""
    error: BaseException | None = None
    """Raised after the output has been printed."""


Show = Callable[[float, str], None]
"""Called with the fraction of the work done, and a description of the current step."""
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_bar: ContextVar["Progress | None"] = ContextVar("_bar", default=None)
"""The line of a terminal that shows progress."""
_LONGEST_WORD = 12
"""Characters of a word in a table that is never broken."""
_NARROWEST = 80
"""Columns that a table may fill in a narrower terminal, too."""


def print_output(output: Output, *, as_json: bool) -> None:
    """Print an output; raises its error."""
    if as_json:
        click.echo(json.dumps(json_value(output.document), indent=2, allow_nan=False))
    else:
        _print_text(output)
    if output.error is not None:
        raise output.error


def relabel(
    document: Mapping[str, Any], key: str, lines: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the entries of a document with ``lines`` instead of ``key``."""
    replaced: dict[str, Any] = {}
    for name, value in document.items():
        replaced |= lines if name == key else {name: value}
    return replaced


def equality(float64: float, cases: int, max_abs: float, ratio: float) -> str:
    """Return in words how close a file is to its original."""
    return (
        f"at {counted(cases, 'size')} in float64 to {to_text(float64)}; onnxruntime"
        f" differs by {to_text(max_abs)}, {to_text(ratio)} of its limit"
    )


def json_value(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are not finite as None, classes with
    fields as mappings.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _print_text(output: Output) -> None:
    """Print lists of mappings as tables, and other entries that are not empty as
    lines.
    """
    entries = json_value(output.document if output.lines is None else output.lines)
    if not isinstance(entries, dict):
        entries = {output.title: entries}
    if output.title and output.title not in entries:
        _echo_wrapped(output.title)
    for key, value in entries.items():
        if value not in _EMPTY:
            _print_entry(key, value)
    for command in output.next:
        echo(f"next: lstm-edge {shlex.join(map(str, command))}")


def _print_entry(key: str, value: Any) -> None:
    """Print an entry as a table, or as one line per note or per part."""
    name = key.replace("_", " ")
    if isinstance(value, list) and isinstance(value[0], dict):
        _print_table(name, value)
    elif key == "notes":
        for item in value:
            _echo_wrapped(f"note: {to_text(item)}")
    elif isinstance(value, dict) and not all(map(_is_number, value.values())):
        for label, entry in value.items():
            if entry not in _EMPTY:
                _echo_wrapped(f"{name} {label}: {to_text(entry)}")
    else:
        _echo_wrapped(f"{name}: {to_text(value)}")


def _is_number(value: Any) -> bool:
    """Return True for integers and floats."""
    return isinstance(value, int | float)


def to_text(value: Any) -> str:
    """Return a plain value in one line."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {to_text(item)}"
            for name, item in value.items()
            if item is not None
        )
    if isinstance(value, list):
        if any(isinstance(item, list) for item in value):
            return "an array"
        texts = list(map(to_text, value))
        mark = "; " if any(", " in text for text in texts) else ", "
        return mark.join(texts)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        value = value if abs(value) > 1e-30 else 0.0  # a limit far below float32
        is_long = 100 <= abs(value) < 1e6
        return f"{value:,.1f}".removesuffix(".0") if is_long else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table, without empty columns."""
    from rich.console import Console
    from rich.table import Table

    columns: list[list[str]] = []
    table = Table(
        title=printable(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
    )
    for name in _used_columns(rows):
        header = printable(name.replace("_", " "))
        cells = [printable(to_text(row.get(name))) for row in rows]
        is_word = all(" " not in text for text in [header, *cells])
        is_short = max(map(len, [header, *cells])) <= _LONGEST_WORD
        table.add_column(header, overflow="fold", no_wrap=is_word and is_short)
        columns.append(cells)
    for row_cells in zip(*columns, strict=True):
        table.add_row(*row_cells)
    width = 500  # not wrapped in a pipe
    if sys.stdout.isatty():
        width = max(_NARROWEST, shutil.get_terminal_size().columns)
    screen = Console(highlight=False, markup=False, emoji=False, width=width)
    with screen.capture() as captured:
        screen.print(table)
    click.echo(captured.get(), nl=False)


def _used_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that are not empty in every row, in the order of the rows."""
    used: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            used[name] = used.get(name, False) or value not in _EMPTY
    return [name for name, is_used in used.items() if is_used]


def echo(text: str, *, err: bool = False) -> None:
    """Print a line on standard output or standard error, with escape sequences
    escaped, above the line that shows progress.
    """
    bar = _bar.get()
    if bar is not None:
        bar.stop()
    click.echo(printable(text), err=err)
    if bar is not None:
        bar.start()


def _echo_wrapped(text: str) -> None:
    """Print an entry on standard output."""
    echo(_wrapped(printable(text), sys.stdout))


def echo_prose(text: str) -> None:
    """Print a note or an error on standard error."""
    text = shortened(printable(" ".join(str(text).split())))
    echo(_wrapped(text, sys.stderr), err=True)


def _wrapped(text: str, stream: TextIO) -> str:
    """Return a line wrapped at spaces for a terminal, unchanged for a pipe."""
    if not stream.isatty():
        return text
    return textwrap.fill(
        text,
        shutil.get_terminal_size().columns,
        break_long_words=False,
        break_on_hyphens=False,
    )


def note(text: str) -> None:
    """Print a note on standard error."""
    echo_prose(f"note: {text}")


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Show]:
    """Yield a function that shows progress.

    A terminal shows one line with the remaining time, a pipe gets a line per 5 %, or
    none if ``quiet``.
    """
    if not sys.stderr.isatty():
        printed = [-1]

        def show(done: float, what: str) -> None:
            """Print a line whenever another 5 % is done."""
            if not quiet and (now := math.floor(done * 20 + 1e-9)) > printed[-1]:
                printed.append(now)
                echo(what, err=True)

        yield show
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TimeRemainingColumn

    columns = "{task.percentage:3.0f} %", "{task.description}", TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        previous = _bar.set(bar)
        try:
            yield lambda done, what: bar.update(
                task, completed=done, description=escape(printable(what))
            )
        finally:
            _bar.reset(previous)
