"""Output of verbs: tables, JSON documents, and progress on standard error."""

import contextlib
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import InputError, counted, one_line, printable

if TYPE_CHECKING:
    from lstm_edge_runtime.manifest import Manifest, StateSpec


def check_onnx_target(target: Path) -> None:
    """Check early whether an .onnx file can be written there; raises as ``check_target``, and InputError."""
    from lstm_edge_runtime.files import check_target

    check_target(target)
    if target.suffix != ".onnx":
        raise InputError(f"{target} is not named .onnx; use -o {target.with_suffix('.onnx')}")


def echo_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


class Screen(Console):
    """A console: colors on a terminal, plain text in a pipe; markup and escape sequences have no effect."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        """Write to standard output or standard error; ``options`` as rich's ``Console``."""
        super().__init__(stderr=stderr, highlight=False, markup=False, soft_wrap=True, **options)
        self.soft_wrap = not self.is_terminal  # a terminal wraps inside of words

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
    text = one_line(text)
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    click.echo(text, err=True)


def note(text: str) -> None:
    """Print a note on standard error."""
    echo_prose(f"note: {text}")


def note_resets(every: int | None, consequence: str, *, sliding: bool = False) -> None:
    """Print a note for a network whose training windows each started from reset.

    Args:
        every: number of steps of the window; None if unknown.
        consequence: the resulting behavior, with a placeholder for the number of steps.
        sliding: True if the verb has --window.
    """
    if every is None:
        note(
            "each training sample started from reset; states are carried on anyway, unless --reset-every "
            "is given"
        )
    else:
        note(
            f"each training window started from reset, so "
            f"{consequence.format(counted(every, 'step'))}; --reset-every never carries states on"
            + (f", --window {every} gives a result at every step as in training" * sliding)
        )


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; title and cells are plain text: markup and escape sequences have no effect."""
    table = Table(title=Text(printable(title), style="bold"), title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Screen().print(table)


def print_interface(title: str, manifest: "Manifest", states: "Iterable[StateSpec]") -> None:
    """Print a table of a file's inputs, states and outputs."""
    rows = [("input", spec.name, spec.dtype, describe(spec.axes), "") for spec in manifest.inputs]
    rows += [
        (
            "state",
            f"{spec.input} -> {spec.output}",
            spec.dtype,
            describe(spec.axes),
            f"{spec.reset:g}" if isinstance(spec.reset, float) else "learned",
        )
        for spec in states
    ]
    rows += [("output", spec.name, spec.dtype, describe(spec.axes), "") for spec in manifest.outputs]
    print_table(title, ("", "name", "dtype", "axes", "reset"), rows)


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

    columns = (
        TextColumn("{task.percentage:3.0f} %"),
        BarColumn(bar_width=10),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    screen = Screen(stderr=True)
    with Progress(*columns, console=screen, transient=True, expand=True) as bar:
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
