"""Progress of a long function, for display."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Progress = Callable[[float, str], None]
"""Called with the fraction of the work done, and a description of the current step."""
_T = TypeVar("_T")


def ignore(done: float, what: str) -> None:
    """Show nothing."""


def in_turn(
    items: Sequence[_T], show: Progress, what: str, start: float, end: float
) -> Iterator[_T]:
    """Yield ``items``, each after saying that it is next; together they are the work
    from start to end.
    """
    count = len(items)
    for index, item in enumerate(items):
        done = start + (end - start) * index / count
        show(done, f"{what} {index + 1}/{count}: {item}")
        yield item
