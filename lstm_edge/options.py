"""Fields of configurations: default, help, range and choices, each written once.

The command line makes its options from them, and ``check_options`` checks values given in Python.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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
    flag: str = ""
    """Name of the command line's option, if it is not the field's."""
    metavar: str = ""
    shown: str = ""
    """Default in words, if it is None or empty."""

    @property
    def expected(self) -> str:
        """The values that fit, in words."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        bounds = (
            (self.low, "{:,g} or more"), (self.above, "more than {:,g}"),
            (self.high, "at most {:,g}"), (self.below, "less than {:,g}"),
        )  # fmt: skip
        return ", ".join(text.format(bound) for bound, text in bounds if bound is not None)

    def fits(self, value: Any) -> bool:
        """Return True if a value is in the range, or one of the choices."""
        if self.choices:
            return value in self.choices
        return (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )


def option(default: Any, text: str, /, **rule: Any) -> Any:
    """Return a field of a dataclass with its default, its help text, and the other fields of ``Rule``."""
    return dataclasses.field(default=default, metadata={"rule": Rule(text, **rule)})


def rule_of(entry: "dataclasses.Field[Any]") -> Rule:
    """Return the rule of a field that ``option`` made."""
    rule: Rule = entry.metadata["rule"]
    return rule


def check_options(config: "DataclassInstance") -> None:
    """Check every field of a configuration; None is never checked.

    Raises:
        InputError: a value does not fit.
    """
    for entry in dataclasses.fields(config):
        value, rule = getattr(config, entry.name), rule_of(entry)
        if value is not None and rule.expected and not rule.fits(value):
            raise InputError(f"{entry.name} is {value!r}, expected {rule.expected}")


def only_one(config: "DataclassInstance", names: Sequence[str]) -> None:
    """Raise InputError if more than one of these fields has been given."""
    given = [name for name in names if getattr(config, name)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} were both given; choose one task")
