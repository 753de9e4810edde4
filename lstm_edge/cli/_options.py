"""Declare a verb: its arguments, its options from the fields of configurations, and its
report.
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from lstm_edge.data.config import DATA_SUFFIXES, suffix_of
from lstm_edge.run_files import CHECKPOINT_SUFFIXES, is_run
from lstm_edge_exporters.options import check_options, option, option_fields
from lstm_edge_runtime.errors import InputError, MissingDependencyError, install_command
from lstm_edge_runtime.files import check_target

from ._output import print_output, progress
from ._sources import refuse_replacing, source_files

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PATH = click.Path(path_type=Path)
SCALE = "Scaling of the training: JSON or .npz with mean and std, or min and max."
"""Help of ``--scale``."""
Command = Callable[..., Any]


class _OutputPath(click.Path):
    """A file or folder that the verb writes."""


class _Source(click.types.StringParamType):
    """Text that names a file, a run folder, or ``package.module:factory``."""


OUTPUT = _OutputPath(path_type=Path)
SOURCE = _Source()


def verb(name: str, *, extra: str = "") -> Callable[[Command], click.Command]:
    """Return a decorator that makes a command with ``--json`` of a function which
    returns an ``Output``.

    The error of an import inside the function names ``extra``. A parameter ``show`` is
    that of ``progress``.
    """

    def decorate(function: Command) -> click.Command:
        """Make ``function`` the command of the verb, with the option ``--json``."""

        @functools.wraps(function)
        def command(*, as_json: bool, **arguments: Any) -> None:
            """Run the verb and print its output."""
            with needing(extra, name):
                if "show" in inspect.signature(function).parameters:
                    with progress(quiet=as_json) as show:
                        output = function(show=show, **arguments)
                else:
                    output = function(**arguments)
            print_output(output, as_json=as_json)

        with_json = click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON document."
        )
        return click.command(name, cls=VerbCommand)(with_json(command))

    return decorate


@contextlib.contextmanager
def needing(extra: str, verb: str) -> Iterator[None]:
    """Context whose error of a missing import names the extra of the distribution that
    installs it.
    """
    if (
        extra == "export"
    ):  # torch.onnx logs a line for every torchvision operator that it does not use
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(
            logging.ERROR
        )
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if not extra or not package or package.startswith("lstm_edge"):
            raise  # an installed one that fails to import
        raise MissingDependencyError(
            f"lstm-edge {verb} needs {package}, which is not installed;"
            f" {install_command(extra)}"
        ) from error


def options_of(
    **config_types: "type[DataclassInstance]",
) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of configurations, and passes these by
    their names.
    """

    def decorate(function: Command) -> Command:
        """Give ``function`` the options of all configurations."""

        @functools.wraps(function)
        def call(**arguments: Any) -> Any:
            """Build the checked configurations from the options that were given."""
            configs = {}
            for name, config_type in config_types.items():
                values = take_given(config_type, arguments)
                configs[name] = config_type(**values)
                check_options(configs[name])
            return function(**configs, **arguments)

        return field_options({"": tuple(config_types.values())})(call)

    return decorate


def take_given(
    config_type: "type[DataclassInstance]", arguments: dict[str, Any]
) -> dict[str, Any]:
    """Remove the options of a configuration from ``arguments``, and return those that were
    given.
    """
    values = {name: arguments.pop(name) for name in option_fields(config_type)}
    return {name: value for name, value in values.items() if value is not None}


def field_options(
    sections: "Mapping[str, tuple[type[DataclassInstance], ...]]",
) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for each field made with ``option``; None
    if it is not given.

    ``sections`` are configurations by the title of their options in the help; a field
    that a configuration inherits is in the section of the first one that has it.
    """
    options: dict[str, Callable[[Any], Any]] = {}
    for section, config_types in sections.items():
        for config_type in config_types:
            for name, entry in option_fields(config_type).items():
                if name not in options:
                    options[name] = _from_field(entry, section)

    def decorate(function: Command) -> Command:
        """Add the options in the order of the fields."""
        for add in reversed(options.values()):
            function = add(function)
        return function

    return decorate


class SectionOption(click.Option):
    """An option that stands under a title of its own in the help."""

    def __init__(self, *args: Any, section: str = "", **options: Any) -> None:
        """Take the title of the section next to click's own arguments."""
        super().__init__(*args, **options)
        self.section = section
        """The title; empty for the ordinary options."""


class VerbCommand(click.Command):
    """A command whose help lists options by their sections, and whose outputs replace
    none of the files that it reads.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Call the verb, unless an output is one of the files that it reads."""
        outputs: list[tuple[str, Path]] = []
        sources: list[Path] = []
        for param in self.get_params(ctx):
            value = ctx.params.get(param.name or "")
            for item in value if isinstance(value, tuple) else (value,):
                if item is None:
                    continue
                if isinstance(param.type, _OutputPath):
                    outputs.append((param.opts[0], item))
                elif isinstance(param.type, _Source):
                    sources += source_files(item)
                elif isinstance(param.type, click.Path):
                    sources.append(item)
        refuse_replacing(outputs, sources)
        return super().invoke(ctx)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write one list per section, the ordinary options last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                section = getattr(param, "section", "")
                sections.setdefault(section, []).append(record)
        ordinary = sections.pop("", [])
        for title, records in (*sections.items(), ("Options", ordinary)):
            with formatter.section(title):
                formatter.write_dl(records)


def _from_field(entry: "Field[Any]", section: str) -> Callable[[Any], Any]:
    """Return the decorator that adds the option of a field."""
    rule = entry.metadata["rule"]
    flag = rule.flag or f"--{entry.name.replace('_', '-')}"
    if entry.type is bool and entry.default:
        flag = f"{flag}/--no-{flag[2:]}"
    facts = {
        "metavar": rule.metavar or None,
        "help": _help_of(entry),
        "default": None,
        "show_default": False,
        "section": section,
        "cls": SectionOption,
        **_value_of(entry),
    }
    return click.option(flag, entry.name, **facts)


def _help_of(entry: "Field[Any]") -> str:
    """Return the help of a field, with its default if it is a number or text."""
    rule = entry.metadata["rule"]
    default = entry.default
    is_shown = isinstance(default, int | float | str) and not isinstance(default, bool)
    shown = rule.shown
    if not shown and is_shown:
        shown = f"{default}"
    text: str = rule.help
    if shown:
        text += f"  [default: {shown}]"
    if get_origin(entry.type) is Mapping:
        text += " Repeatable."
    return text


def _value_of(entry: "Field[Any]") -> dict[str, Any]:
    """Return how click reads the value of a field."""
    rule = entry.metadata["rule"]
    hint = entry.type
    if hint is bool:
        return {"is_flag": True}
    if get_origin(hint) is Mapping:
        is_number = get_args(hint)[1] is float
        read = rule.parse or (float if is_number else str)
        pairs = functools.partial(_read_pairs, read)
        return {"multiple": True, "callback": reader(pairs)}
    if rule.parse or get_origin(hint) is tuple:
        return {"callback": reader(rule.parse or read_names)}
    if rule.choices:
        return {"type": click.Choice(rule.choices)}
    if rule.role:
        return {"type": {"output": OUTPUT, "source": SOURCE}[rule.role]}
    return {"type": _type_of(hint)}


def _type_of(hint: Any) -> Any:
    """Return click's type for a hint such as ``int | None``."""
    types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for number_type in (int, float):
        if number_type in types:
            return number_type
    return PATH if Path in types else str


def reader(parse: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a callback that reads the text of an option, and names it in an error."""

    def read(_: click.Context, param: click.Parameter, value: Any) -> Any:
        """Parse the option's text; a ``ValueError`` becomes a message that names it."""
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            text = value if isinstance(value, str) else " ".join(value)
            raise InputError(f"{param.opts[0]} {text}: {error}") from error

    return read


def read_names(text: str) -> tuple[str, ...]:
    """Return the names of ``NAME,NAME``."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise InputError("a name is empty or given twice; expected NAME,NAME")
    return names


def _read_pairs(
    read: Callable[[str], Any], texts: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return the values of options of the form ``NAME=VALUE`` by name; None without
    any.
    """
    pairs = [text.partition("=")[::2] for text in texts]
    if not all(map(all, pairs)) or len(dict(pairs)) < len(pairs):
        raise InputError("expected NAME=VALUE, each name once")
    return {name: read(value) for name, value in pairs} or None


def _count_or_never(text: str) -> int | str:
    """Return a positive integer, or the word ``never``."""
    if text == "never":
        return "never"
    if not (text.isdecimal() and int(text)):
        raise InputError("neither 'never' nor a positive integer")
    return int(text)


@dataclass(frozen=True)
class ModelOptions:
    """How a verb opens a model; see ``lstm_edge_runtime.load``."""

    device: Literal["cpu", "cuda"] = option(
        "cpu",
        "Device to run on. An error is raised if it is unavailable.",
        choices=("cpu", "cuda"),
    )
    threads: int = option(1, "Number of threads per operator.", low=1)


def check_models(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Refuse a run folder, checkpoint or data file given as a model, and suggest the
    right command.
    """
    for path in value if isinstance(value, tuple) else (value,):
        if suffix_of(path) in DATA_SUFFIXES:
            raise InputError(
                f"{path} is a data file, expected an .onnx file; MODEL is the first"
                " argument"
            )
        description = ""
        name = path.name
        if is_run(path):
            description = "a run folder"
        elif path.suffix in CHECKPOINT_SUFFIXES:
            description = "a PyTorch checkpoint"
            name = path.stem
        if description:
            command = f"lstm-edge export {path} -o {name}.onnx"
            raise InputError(
                f"{path} is {description}, expected an .onnx file; run {command}"
            )
    return value


model_argument = click.argument("model", type=PATH, callback=check_models)
models_argument = click.argument(
    "models", nargs=-1, required=True, type=PATH, callback=check_models
)


def _check_output(_: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse outputs that can't be written or have another suffix."""
    suffixes = (".onnx", ".lep") if option.multiple else (".onnx",)
    for path in value if option.multiple else (value,):
        check_target(path)
        if path.suffix not in suffixes:
            raise InputError(
                f"{path} is not named {' or '.join(suffixes)}; use -o"
                f" {path.with_suffix('.onnx')}"
            )
    return value


_output = functools.partial(
    click.option, "-o", "--output", type=OUTPUT, required=True, callback=_check_output
)
output_option = _output(help="Output .onnx file.")
outputs_option = _output(
    "outputs", multiple=True, help="An .onnx file, or an .lep file; repeatable."
)
reset_every_option = click.option(
    "--reset-every",
    callback=reader(_count_or_never),
    metavar="N|never",
    help=(
        "Reset the state every N steps.  [default: every window if training did so,"
        " otherwise never]"
    ),
)
