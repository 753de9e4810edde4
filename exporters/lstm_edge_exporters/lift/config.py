"""What a lift may be told, and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lstm_edge_runtime.manifest import Axes, StateSpec

from ._chunks import ChunkRun
from ._equality import Equality
from .states import LeftAlone

__all__ = ["LiftConfig", "LiftReport"]


@dataclass(frozen=True)
class LiftConfig:
    """Options of one lift; the defaults serve a file whose inputs are ``(N, L, I)`` or ``(L, N, I)``."""

    inputs: Mapping[str, Axes] = field(default_factory=dict)
    """Axes by input name in the place of those declared, an int where fixed and a name where free:
    ``{"x": ("N", "L", 8)}``."""
    states: Mapping[str, str] = field(default_factory=dict)
    """Input name to output name of states that the file already has and that names do not tell."""
    skip_reverse: bool = False
    """Leave nodes that read time backwards as they are and lift the rest, instead of refusing the file."""
    seed: int = 0
    """Seed of the random data that the proof and the golden case use."""


@dataclass(frozen=True)
class LiftReport:
    """What a lift did and what was proven."""

    lifted: tuple[StateSpec, ...]
    """States that became inputs and outputs."""
    recognized: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""
    left: tuple[LeftAlone, ...]
    """States left in the graph, and why."""
    freed: tuple[str, ...]
    """Axes (``batch``, ``sequence``) that were fixed and are free now."""
    equality: Equality
    """Where the lifted file with its states at reset is the original."""
    chunks: ChunkRun | None
    """How chunks with the states carried compare with the whole; None where one call has fixed steps."""
    unstreamable: str
    """Why chunks do not equal the whole; empty where they do."""
