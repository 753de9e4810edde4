"""Checking what JSON holds: a field is of the type that it should have, or there is an error."""

import math
from typing import Any

__all__ = ["finite", "number", "text", "text_or_none", "texts"]


def finite(digits: str) -> float:
    """Return the number that JSON writes so; ``ValueError`` for NaN, infinity and what a float can't hold."""
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits:.60} is no finite number")
    return value


def text(raw: Any) -> str:
    """Return ``raw`` if it is a text; ``TypeError`` else."""
    if not isinstance(raw, str):
        raise TypeError(f"{raw!r:.60}, expected a text")
    return raw


def text_or_none(raw: Any) -> str | None:
    """Return ``raw`` if it is a text or None; ``TypeError`` else."""
    return None if raw is None else text(raw)


def texts(raw: Any) -> tuple[str, ...]:
    """Return a list of texts; ``TypeError`` for all else."""
    if not isinstance(raw, list):
        raise TypeError(f"{raw!r:.60}, expected a list of texts")
    return tuple(map(text, raw))


def number(raw: Any) -> float:
    """Return a number as a float; ``TypeError`` for all else, ``OverflowError`` if a float can't hold it."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise TypeError(f"{raw!r:.60}, expected a number")
    return float(raw)
