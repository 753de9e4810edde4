"""Arguments and options shared by several verbs, their types, and the configurations made from them."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _C = TypeVar("_C", bound=DataclassInstance)

PATH = click.Path(path_type=Path)


class _Rate(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(k?)(?:hz)?", value.strip(), re.IGNORECASE)
        rate = float(found[1]) * (1000 if found[2] else 1) if found else 0.0
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is not a rate; expected, for example, 100, 100Hz or 1kHz", param, ctx)
        return rate


class _Names(click.ParamType):  # type: ignore[type-arg]
    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(","))
        if not all(names):
            self.fail(f"{value!r} contains an empty name; expected NAME,NAME", param, ctx)
        return names


class _ResetEvery(click.ParamType):  # type: ignore[type-arg]
    name = "reset_every"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "int | Literal['never']":
        if value == "never":
            return "never"
        if not (str(value).isdecimal() and int(value)):
            self.fail(f"{value!r} is neither 'never' nor a positive integer.", param, ctx)
        return int(value)


RATE = _Rate()
"""The type of every ``--rate``, in Hertz: ``50``, ``50Hz`` or ``1kHz``."""
NAMES = _Names()
"""The type of an option of the form ``a,b,c``; its default must be ``()``."""


def _each_once(
    ctx: click.Context,  # noqa: ARG001
    param: click.Parameter,  # noqa: ARG001
    paths: tuple[Path, ...],
) -> tuple[Path, ...]:
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a file is given twice; give each file once")
    return paths


model_argument = click.argument("model", type=PATH)
models_argument = click.argument("models", nargs=-1, required=True, type=PATH, callback=_each_once)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
json_lines_option = click.option("--json", "as_json", is_flag=True, help="Write JSON Lines instead of CSV.")
rest_option = click.option(
    "--rest",
    is_flag=True,
    help="Start at the states that the network settles into on silence (zero inputs): no transient at start "
    "and reset.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, help="Random seed of the verification data."
)
reset_every_option = click.option(
    "--reset-every",
    type=_ResetEvery(),
    metavar="N|never",
    help="Reset the state every N steps.  [default: every window if training did so, otherwise never]",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "onnxruntime", "native"]),
    default="auto",
    help="Inference engine; native is an error if it does not support the file.",
)


def fill(config: "type[_C]", options: Mapping[str, Any]) -> "_C":
    """Return a configuration from the options of a verb that are fields of it."""
    return config(**{each.name: options[each.name] for each in fields(config) if each.name in options})


def is_factory(source: str) -> bool:
    """Return whether ``source`` is ``package.module:factory``, rather than a path."""
    module, mark, name = source.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    return bool(mark) and dotted and name.isidentifier() and not Path(source).exists()


def parse_pair(option: str, entry: str, example: str) -> tuple[str, str]:
    """Return both sides of ``NAME=VALUE``.

    Raises:
        InputError: one of them is empty; the message shows ``option`` and ``example``.
    """
    name, mark, value = entry.partition("=")
    if not (name and mark and value):
        raise InputError(f"got {option} {entry!r}, expected {example}")
    return name, value
