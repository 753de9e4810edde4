"""How far a long verb is, on standard error: a live line on a terminal, some lines in a pipe."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator

from lstm_edge_runtime.errors import printable

from ._output import Screen, echo

__all__ = ["progress"]

_LINES = 20
"""Lines in a pipe: one per 5 % of the work."""


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[float, str], None]]:
    """Yield a function to call with the fraction of the work that is done, and what is done now.

    A terminal shows one line, cut to its width, with the time left.

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
