"""Sizes: batches and lengths other than the traced ones, one and primes among them."""

from collections.abc import Iterator

from ...numerics.cases import GRID
from ..report import Check
from ..subject import Subject

__all__ = ["TITLE", "check"]

_OFFSET = 1000
TITLE = "Sizes"
_QUICK = (*GRID, (200, 2), (1, 1000))
_FULL = (*GRID, (1, 2), (2, 1), (7, 3), (1, 97), (16, 31), (13, 13), (64, 5), (2, 257), (300, 7), (1, 3000))
"""Beyond the export's own grid: a wide batch and a long sequence; in full also primes."""


def check(subject: Subject) -> Iterator[Check]:
    """Compare at each ``(N, L)``, from reset and from random states in turn."""
    manifest = subject.manifest
    grid = _QUICK if subject.config.quick else _FULL
    seen: set[str] = set()
    compared = False
    for place, (n, length) in enumerate(grid):
        sizes = {"N": n if manifest.batch else None, "L": length if manifest.sequence else None}
        name = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size) or "fixed sizes"
        if name in seen:
            continue
        seen.add(name)
        feeds = subject.draw(n, length, _OFFSET + place, at_reset=place % 3 == 0, full=place % 2 == 0)
        one = subject.check(f"{name}{', states at reset' if place % 3 == 0 else ''}", feeds)
        compared = compared or one.status != "skipped"
        yield one
    if not compared:
        below = subject.judge.coverage.below_noise
        about = f"{below} cases are below the reference's own noise, the others it refuses"
        yield Check("any size at all", "failed", about)
