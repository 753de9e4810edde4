"""What options of several verbs take: rates (50, 50Hz, 1kHz), lists of names (a,b,c), pairs (h=h_n)."""

import math
import re
from typing import Any

import click

from lstm_edge_runtime.errors import InputError

__all__ = ["RATE", "parse_pair", "split_names"]


class _Rate(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(k?)(?:hz)?", value.strip(), re.IGNORECASE)
        rate = float(found[1]) * (1000 if found[2] else 1) if found else 0.0
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is no rate; write it as 100, 100Hz or 1kHz", param, ctx)
        return rate


RATE = _Rate()
"""The type of every ``--rate``, in Hertz."""


def split_names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the names in ``a,b,c``."""
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    if not all(names):
        raise click.BadParameter(f"{value!r} has an empty name in it; write NAME,NAME", ctx, param)
    return names


def parse_pair(option: str, entry: str, example: str) -> tuple[str, str]:
    """Return both sides of ``NAME=VALUE``.

    Raises:
        InputError: one of them is empty; the message shows ``option`` and ``example``.
    """
    name, mark, value = entry.partition("=")
    if not (name and mark and value):
        raise InputError(f"got {option} {entry!r}, expected {example}")
    return name, value
