"""The options of a lift."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes


@dataclass(frozen=True)
class LiftConfig:
    """Options of one lift; the defaults serve a file whose inputs are ``(N, L, I)`` or ``(L, N, I)``."""

    inputs: Mapping[str, Axes] = field(default_factory=dict)
    """Axes by input name that replace those declared, an int if fixed and a name if dynamic:
    ``{"x": ("N", "L", 8)}``."""
    states: Mapping[str, str] = field(default_factory=dict)
    """Input name to output name of states that the file already has and that names do not show."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Numbers by input name that replace inputs, such as the one that chooses a branch:
    ``{"sr": 16000}``."""
    skip_reverse: bool = False
    """Leave nodes that read time backwards as they are and lift the rest, instead of refusing the file."""
    stream: bool = False
    """Write the file that streams a network which looks ahead or has strides; see ``ExportConfig.stream``."""
    seed: int = 0
    """Seed of the random data for the verification and the golden case."""

    def __post_init__(self) -> None:
        """Refuse a seed below 0.

        Raises:
            InputError: it is.
        """
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected a whole number from 0")
