"""Declare a verb: its arguments, its options from the fields of configurations, and its report."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click

from lstm_edge_exporters.options import Rule, option_fields
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_target

from ._extras import needing
from ._model import check_model_path
from ._output import print_report, progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PATH = click.Path(path_type=Path)
SCALE = (
    "Scaling that a checkpoint was trained with, so that raw values go in: a JSON file or .npz with mean and "
    "std, or min and max."
)
"""Help of ``--scale``."""
Command = Callable[..., Any]


def verb(name: str, *, extra: str = "") -> Callable[[Command], click.Command]:
    """Return a decorator that makes a command of a function which returns a ``Report``.

    Args:
        name: of the verb.
        extra: of the distribution that it needs; imports inside the function name it if it is missing.

    The command has ``--json``. If the function has a parameter ``show``, it is called with it as with
    ``progress``.
    """

    def decorate(function: Command) -> click.Command:
        @functools.wraps(function)
        def command(*, as_json: bool, **given: Any) -> None:
            with needing(extra, name):
                if "show" in inspect.signature(function).parameters:
                    with progress(quiet=as_json) as show:
                        report = function(show=show, **given)
                else:
                    report = function(**given)
            print_report(report, as_json=as_json)

        added = click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.")
        vars(command).setdefault("__click_params__", []).insert(0, added)
        return click.command(name)(command)

    return decorate


def options_of(**kinds: "type[DataclassInstance]") -> Callable[[Command], Command]:
    """Return a decorator that adds the options of configurations, and passes these by their names."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def call(**given: Any) -> Any:
            made, own = {}, set[str]()
            for name, kind in kinds.items():
                entries = option_fields(kind)
                own |= entries.keys()
                made[name] = kind(**{each: given[each] for each in entries if given[each] is not None})
            return function(**made, **{name: value for name, value in given.items() if name not in own})

        return field_options(*kinds.values())(call)

    return decorate


def field_options(*kinds: "type[DataclassInstance]") -> Callable[[Command], Command]:
    """Return a decorator that adds an option for each field made with ``option``; None if it is not given."""
    entries = {name: entry for kind in kinds for name, entry in option_fields(kind).items()}
    options = [_from_field(entry) for entry in entries.values()]
    return lambda function: functools.reduce(lambda made, each: each(made), reversed(options), function)


def _from_field(entry: "Field[Any]") -> Callable[[Any], Any]:
    """Return the option of one field."""
    rule, hint = entry.metadata["rule"], entry.type
    flag = rule.flag or f"--{entry.name.replace('_', '-')}"
    plain = isinstance(entry.default, int | float | str) and not isinstance(entry.default, bool)
    shown = rule.shown or (f"{entry.default}" if plain else "")
    text = rule.help + (f"  [default: {shown}]" if shown else "")
    if hint is bool:
        flag = f"{flag}/--no-{flag[2:]}" if entry.default else flag
        return click.option(flag, entry.name, is_flag=True, default=None, show_default=False, help=text)
    several = get_origin(hint) is Mapping
    return click.option(
        flag,
        entry.name,
        type=None if several else _type_of(rule, hint),
        multiple=several,
        default=None,
        callback=_pairs(rule, get_args(hint)[1]) if several else None,
        show_default=False,
        metavar=rule.metavar or None,
        help=text + " Repeatable." * several,
    )


def _type_of(rule: Rule, hint: Any) -> Any:
    """Return click's type for the type of a field."""
    if rule.choices:
        return click.Choice(rule.choices)
    if rule.parse:
        return _Parsed(rule.parse)
    if get_origin(hint) is tuple:
        return _Parsed(_names)
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next(PATH if kind is Path else kind for kind in (int, float, Path, str) if kind in kinds)


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases alone
    """A type read by a function, whose InputError is shown as it is."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        try:
            return self._parse(value) if isinstance(value, str) else value
        except InputError as error:
            raise InputError(f"{param.opts[0] if param else ''} {value}: {error}") from error


def _names(text: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise InputError(f"{text!r} contains an empty name; expected NAME,NAME")
    return found


def _pairs(rule: Rule, kind: Any) -> Callable[..., dict[str, Any] | None]:
    """Return the callback of a repeatable option ``NAME=VALUE``; values of ``kind``, or read by the rule."""
    read: Callable[[str], Any] = rule.parse or (float if kind is float else str)

    def convert(_: click.Context, param: click.Parameter, entries: tuple[str, ...]) -> dict[str, Any] | None:
        found = {}
        for entry in entries:
            name, mark, value = entry.partition("=")
            try:
                if not (name and mark and value) or name in found:
                    raise InputError(f"{name} is given twice" if name in found else "no value")
                found[name] = read(value)
            except ValueError as error:
                example = f"{param.opts[0]} {rule.metavar}"
                raise InputError(f"{param.opts[0]} {entry}: {error}; expected {example}") from error
        return found or None

    return convert


def count_or_never(text: str) -> int | str:
    """Read a positive integer or ``never``; raises InputError."""
    if text != "never" and not (text.isdecimal() and int(text)):
        raise InputError(f"{text!r} is neither 'never' nor a positive integer")
    return text if text == "never" else int(text)


def _checked_model(_: click.Context, __: click.Parameter, found: Any) -> Any:
    paths = found if isinstance(found, tuple) else (found,)
    for path in paths:
        check_model_path(path)
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a file is given twice; give each file once")
    return found


model_argument = click.argument("model", type=PATH, callback=_checked_model)
models_argument = click.argument("models", nargs=-1, required=True, type=PATH, callback=_checked_model)


def output_option(
    *suffixes: str, several: bool = False, text: str = "Output file."
) -> Callable[[Command], Command]:
    """Return ``-o``: a file with one of these suffixes; ``outputs`` if it is repeatable."""

    def check(_: click.Context, __: click.Parameter, found: Any) -> Any:
        for path in found if several else (found,):
            check_target(path)
            if suffixes and path.suffix not in suffixes:
                wanted = path.with_suffix(suffixes[0])
                raise InputError(f"{path} is not named {' or '.join(suffixes)}; use -o {wanted}")
        return found

    name = "outputs" if several else "output"
    return click.option(
        "-o", "--output", name, type=PATH, required=True, multiple=several, callback=check, help=text
    )


reset_every_option = click.option(
    "--reset-every",
    type=_Parsed(count_or_never),
    metavar="N|never",
    help="Reset the state every N steps.  [default: every window if training did so, otherwise never]",
)
json_lines_option = click.option("--json", "as_json", is_flag=True, help="Write JSON Lines instead of CSV.")


def is_factory(source: str) -> bool:
    """Return True if ``source`` is ``package.module:factory``, rather than a path."""
    module, mark, name = source.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    return bool(mark) and dotted and name.isidentifier() and not Path(source).exists()
