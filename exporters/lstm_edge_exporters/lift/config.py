"""The options of a lift."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from ..options import check_options, option, parse_axes, seed_option, stream_option


@dataclass(frozen=True)
class LiftConfig:
    """Options of one lift; the defaults serve a file whose inputs are ``(N, L, I)`` or
    ``(L, N, I)``.

    ``inputs`` are axes by input name, an int if fixed and a name if dynamic:
    ``{"x": ("N", "L", 8)}``.

    Raises:
        InputError: a value does not fit.
    """

    inputs: Mapping[str, Axes] = option(
        dict,
        "Axes of an input if those in the file are wrong.",
        flag="--input",
        metavar="x=N,L,8",
        parse=parse_axes,
    )
    constants: Mapping[str, float] = option(
        dict,
        "Constant for an input that selects a branch.",
        flag="--branch",
        metavar="sr=16000",
    )
    states: Mapping[str, str] = option(
        dict,
        "State input and output that the file already has, if not found by name.",
        flag="--state",
        metavar="INPUT=OUTPUT",
    )
    stream: bool = stream_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "LiftConfig":
        """Return the options that a lifted file records; raises InputError for others."""
        try:
            inputs = {name: tuple(axes) for name, axes in record["inputs"].items()}
            return cls(**{**record, "inputs": inputs})
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"the file records {record!r} as the options of its lift; lift it again"
            ) from error

    def record(self) -> dict[str, Any]:
        """Return the options for the manifest, with which a lift can be repeated."""
        return {
            "inputs": {name: list(axes) for name, axes in self.inputs.items()},
            "constants": dict(self.constants),
            "states": dict(self.states),
            "stream": self.stream,
        }
