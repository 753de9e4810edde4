"""The options of a validation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstm_edge_runtime.errors import InputError

from .samples import Samples

if TYPE_CHECKING:
    from ..quantization.config import Budget


@dataclass(frozen=True)
class ValidateConfig:
    """Options of one validation; the defaults are the full run."""

    seed: int = 0
    """Seed of everything that is drawn; the same seed gives the same report."""
    quick: bool = False
    """Fewer sizes, cuts and samples, and a long run of a tenth."""
    steps: int = 10_000
    """Time steps of the long run."""
    data: Samples | None = None
    """Real samples, and their labels or values where known."""
    budget: "Budget | None" = None
    """What an int8 or fp16 file may lose; None for what ``quantize`` allows by default."""

    def __post_init__(self) -> None:
        """Raise InputError for a negative seed, or a long run of no steps."""
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; expected 0 or more")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; expected 1 or more")
