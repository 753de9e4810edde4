"""Sizes: batches and lengths other than the traced ones, one and primes among them."""

from collections.abc import Iterator

from ...numerics.cases import GRID
from .._subject import Subject
from ..report import Check

__all__ = ["TITLE", "check"]

_SALT = 1000
TITLE = "Sizes"
_FULL = (*GRID, (1, 2), (2, 1), (7, 3), (1, 97), (16, 31), (13, 13), (64, 5), (2, 257), (1, _SALT))
"""Beyond the export's own grid: primes, a wide batch, long sequences."""


def check(subject: Subject) -> Iterator[Check]:
    """Compare at each ``(N, L)``, from reset and from random states in turn."""
    contract = subject.contract
    grid = GRID if subject.config.quick else _FULL
    seen: set[str] = set()
    compared = False
    for place, (n, length) in enumerate(grid):
        sizes = {"N": n if contract.batch else None, "L": length if contract.sequence else None}
        name = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size) or "fixed sizes"
        if name in seen:
            continue
        seen.add(name)
        feeds = subject.draw(n, length, _SALT + place, fresh=place % 3 == 0, full=place % 2 == 0)
        one = subject.check(f"{name}{', states at reset' if place % 3 == 0 else ''}", feeds)
        compared = compared or one.status != "skipped"
        yield one
    if not compared:
        yield Check("any size at all", "failed", "the reference itself runs at no size of the grid")
