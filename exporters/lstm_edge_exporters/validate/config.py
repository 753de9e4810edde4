"""The options of a validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError

from ..numerics.samples import Samples

if TYPE_CHECKING:
    from ..quantization.config import Budget


@dataclass(frozen=True)
class ValidateConfig:
    """Options of one validation; the defaults are the full run."""

    seed: int = 0
    """Seed of everything that is drawn; the same seed gives the same report."""
    quick: bool = False
    """Fewer sizes, cuts and samples, and a long run of a tenth."""
    rtol: float | None = None
    """With ``atol``, an override of the policy: ``limit = atol + rtol * max |reference|``."""
    atol: float | None = None
    """See ``rtol``; either alone counts the other as 0."""
    steps: int = 10_000
    """Time steps of the long run."""
    data: Samples | None = None
    """Real samples, and their labels or values where known."""
    golden: Path | None = None
    """A folder of golden vectors to replay besides the case in the file itself."""
    engine: str = "auto"
    """``native`` requires that the native engine covers the file, ``onnxruntime`` leaves that engine out;
    ``auto`` compares on both where it does."""
    budget: "Budget | None" = None
    """What an int8 or fp16 file may lose; None for what ``quantize`` allows by default."""

    def __post_init__(self) -> None:
        """Raise InputError for a negative seed or tolerance, or a long run of no steps."""
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; expected 0 or more")
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}; expected 0 or more")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; expected 1 or more")

    @property
    def overridden(self) -> bool:
        """Whether ``rtol`` or ``atol`` replaces the policy."""
        return self.rtol is not None or self.atol is not None

    def own_limit(self, expected: npt.NDArray[Any] | float) -> float:
        """Return the override's limit for outputs like ``expected``, or of that size."""
        scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        return (self.atol or 0.0) + (self.rtol or 0.0) * scale
