"""Fields of configurations: name, type, default, help and range, each written once.

The command line makes its options from them, and ``check_options`` checks values given
in Python.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DTYPES = (
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)
"""Dtypes of an input that ``--input`` describes."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Facts about a field apart from its name, type and default."""

    help: str
    """One or two sentences, with units."""
    low: float | None = None
    """Smallest value."""
    high: float | None = None
    """Largest value."""
    above: float | None = None
    """Values must be larger than this."""
    below: float | None = None
    """Values must be smaller than this."""
    choices: tuple[str, ...] = ()
    """The values that are allowed; empty for any."""
    flag: str = ""
    """Name of the command line's option, if it is not the field's."""
    metavar: str = ""
    """Placeholder for the value in the help."""
    shown: str = ""
    """Default in words, if it is None or empty."""
    parse: Callable[[str], Any] | None = None
    """Reads the text of the command line; raises InputError."""
    role: Literal["", "output", "source"] = ""
    """``output`` for a file that is written; ``source`` for text that names a file, a
    run or a factory."""

    @property
    def expected(self) -> str:
        """The values that fit, in words."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        bounds = (
            (self.low, "{:,g} or more"),
            (self.above, "more than {:,g}"),
            (self.high, "at most {:,g}"),
            (self.below, "less than {:,g}"),
        )
        texts = [text.format(bound) for bound, text in bounds if bound is not None]
        return ", ".join(texts)

    def fits(self, value: Any) -> bool:
        """Return True if a value is in the range, or one of the choices."""
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float):
            return False
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= value <= high:
            return False
        if self.above is not None and value <= self.above:
            return False
        return self.below is None or value < self.below


def option(default: Any, text: str, /, **rule: Any) -> Any:
    """Return a field of a dataclass with its default, its help text, and the other
    fields of ``Rule``.

    A function as default makes a new value each time, such as ``dict``.
    """
    parameter = "default_factory" if callable(default) else "default"
    return dataclasses.field(
        **{parameter: default}, metadata={"rule": Rule(text, **rule)}
    )


def option_fields(
    config: "type[DataclassInstance] | DataclassInstance",
) -> "dict[str, dataclasses.Field[Any]]":
    """Return the fields that ``option`` made, by name; their rules are
    ``metadata["rule"]``.
    """
    return {
        entry.name: entry
        for entry in dataclasses.fields(config)
        if "rule" in entry.metadata
    }


def check_options(config: "DataclassInstance") -> None:
    """Check every option of a configuration; None is never checked.

    Raises:
        InputError: a value does not fit.
    """
    for name, entry in option_fields(config).items():
        value = getattr(config, name)
        rule = entry.metadata["rule"]
        if value is not None and rule.expected and not rule.fits(value):
            raise InputError(f"{name} is {value!r}, expected {rule.expected}")


def stream_option() -> Any:
    """Return the field of ``--stream``."""
    return option(
        False,
        "Write the file that streams a network which looks ahead or has strides:"
        " outputs lag by a delay.",
    )


def seed_option() -> Any:
    """Return the field of ``--seed``."""
    return option(0, "Random seed of the verification data.", low=0)


def is_axis_name(text: str) -> bool:
    """Return True if an axis may be called ``text``: an identifier, and not ``None``."""
    return text.isidentifier() and not iskeyword(text)


def parse_axes(text: str) -> Axes:
    """Read axes such as ``N,L,8``: numbers, and names of dynamic axes.

    Raises:
        InputError: one is neither.
    """
    axes: list[int | str] = []
    for part in text.split(","):
        axis = part.strip()
        is_size = _is_count(axis)
        if not is_size and not is_axis_name(axis):
            raise InputError(
                f"axis {axis!r} is neither a positive number nor a valid name;"
                " expected, for example, N,L,8"
            )
        axes.append(int(axis) if is_size else axis)
    return tuple(axes)


def _is_count(text: str) -> bool:
    """Return True for a positive integer."""
    return text.isdecimal() and int(text) > 0


@dataclasses.dataclass(frozen=True)
class DeclaredInput:
    """An input of ``forward`` in the notation of ``--input``."""

    axes: Axes
    """An int if fixed, a name if dynamic."""
    sizes: Mapping[str, int]
    """Sizes of dynamic axes in the example."""
    dtype: str
    """One of ``DTYPES``; empty for the dtype of the parameters."""


def parse_input(text: str) -> DeclaredInput:
    """Read an input: axes such as ``N,L,8``, a name with its size in the example as in
    ``N,L:500,8``, and a dtype at the end as in ``N,L:int64``.

    Raises:
        InputError: the text is not in this notation.
    """
    before, mark, last = text.rpartition(":")
    dtype = last.strip() if mark and last.strip() in DTYPES else ""
    names: list[str] = []
    sizes: dict[str, int] = {}
    for part in (before if dtype else text).split(","):
        axis, mark, size = (word.strip() for word in part.partition(":"))
        if mark and not (is_axis_name(axis) and _is_count(size)):
            raise InputError(
                f"{part.strip()!r} is not an axis; expected N,L,8, or N,L:500,8 for an"
                " example of 500 steps, or N,L:int64 with a dtype of"
                f" {', '.join(DTYPES)}"
            )
        if mark:
            sizes[axis] = int(size)
        names.append(axis)
    return DeclaredInput(parse_axes(",".join(names)), sizes, dtype)
