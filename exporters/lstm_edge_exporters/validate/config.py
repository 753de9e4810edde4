"""The options of a validation."""

from dataclasses import dataclass

from ..options import check_options, option, seed_option
from ..quantize.config import Budget
from ..verify.samples import Samples


@dataclass(frozen=True)
class ValidateConfig:
    """Options of one validation; the defaults are the full run."""

    quick: bool = option(False, "Fewer sizes and samples.")
    seed: int = seed_option()
    data: Samples | None = None
    """Real samples, and their labels or values if known."""
    budget: Budget | None = None
    """Budget of an int8 or fp16 file; None for the default of ``quantize``."""

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)
