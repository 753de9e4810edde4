"""The options of a validation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..options import check_options, option, seed_option
from .samples import Samples

if TYPE_CHECKING:
    from ..quantize.config import Budget


@dataclass(frozen=True)
class ValidateConfig:
    """Options of one validation; the defaults are the full run."""

    quick: bool = option(False, "Fewer sizes and samples.")
    seed: int = seed_option()
    data: Samples | None = None
    """Real samples, and their labels or values where known."""
    budget: "Budget | None" = None
    """What an int8 or fp16 file may lose; None for what ``quantize`` allows by default."""

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)
