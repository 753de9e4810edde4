"""Arguments and options shared by several verbs, their types, and the configurations made from them."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import click

from lstm_edge_runtime.errors import InputError

from ..options import Rule, rule_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _C = TypeVar("_C", bound=DataclassInstance)

PATH = click.Path(path_type=Path)


def rate(text: str) -> float:
    """Read a rate in Hertz, ``50``, ``50Hz`` or ``1kHz``: the type of every ``--rate``."""
    found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(k?)(?:hz)?", text.strip(), re.IGNORECASE)
    value = float(found[1]) * (1000 if found[2] else 1) if found else 0.0
    if not 0 < value < math.inf:
        raise click.BadParameter(f"{text!r} is not a rate; expected, for example, 100, 100Hz or 1kHz")
    return value


def names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """Read names of the form ``a,b,c``; the option's default must be ``()``."""
    found = text if isinstance(text, tuple) else tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise click.BadParameter(f"{text!r} contains an empty name; expected NAME,NAME")
    return found


def count_or(word: str) -> Callable[[str], int | str]:
    """Return a type that reads ``word`` or a positive integer."""

    def read(text: str) -> int | str:
        if text == word:
            return text
        if text.isdecimal() and int(text):
            return int(text)
        raise click.BadParameter(f"{text!r} is neither {word!r} nor a positive integer.")

    return read


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
stream_option = click.option(
    "--stream",
    is_flag=True,
    help="Write the file that streams a network which looks ahead or has strides: outputs lag by a delay.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, help="Random seed of the verification data."
)
scale_option = click.option(
    "--scale",
    type=PATH,
    metavar="FILE",
    help="Scaling that a checkpoint was trained with, so that raw values go in: a JSON file or .npz with "
    "mean and std, or min and max.",
)
reset_every_option = click.option(
    "--reset-every",
    type=count_or("never"),
    metavar="N|never",
    help="Reset the state every N steps.  [default: every window if training did so, otherwise never]",
)


def combined(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds several options, in this order."""
    return lambda function: reduce(lambda made, option: option(made), reversed(options), function)


def config_options(*kinds: "type[DataclassInstance]") -> Callable[[Any], Any]:
    """Return a decorator that adds an option for each field of configurations made with ``option``."""
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    entries = {entry.name: entry for kind in kinds for entry in fields(kind)}
    return combined(*(_from_field(entry, hints[name]) for name, entry in entries.items()))


def _from_field(entry: Field[Any], hint: Any) -> Callable[[Any], Any]:
    """Return the option of one field."""
    rule = rule_of(entry)
    flag = rule.flag or f"--{entry.name.replace('_', '-')}"
    shown = rule.shown or ("" if entry.default in (None, ()) or hint is bool else f"{entry.default}")
    text = rule.help + (f"  [default: {shown}]" if shown else "")
    if hint is bool:
        return click.option(flag, entry.name, is_flag=True, help=text)
    kind: Any = click.Choice(rule.choices) if rule.choices else _type_of(rule, hint)
    return click.option(
        flag,
        entry.name,
        type=kind,
        default=entry.default,
        show_default=False,
        metavar=rule.metavar or None,
        help=text,
    )


def _type_of(rule: Rule, hint: Any) -> Any:
    if rule.metavar == "RATE":
        return rate
    if get_origin(hint) is tuple:
        return names
    return next(kind for kind in (int, float, str) if kind in (hint, *get_args(hint)))


def data_options(function: Any) -> Any:
    """Add the options that describe a data file: the fields of ``ReadConfig``."""
    from lstm_edge.data.config import ReadConfig

    return config_options(ReadConfig)(function)


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
