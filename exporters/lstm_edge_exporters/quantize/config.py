"""Quantization options: the target device, and the accuracy that it may cost."""

import math
from dataclasses import asdict, dataclass, field

from lstm_edge_runtime.errors import InputError, check_fields

PRECISIONS = ("int8", "fp16")
TARGETS = ("auto", "x86-vnni", "x86", "arm", "gpu")


@dataclass(frozen=True)
class Budget:
    """Accuracy that a smaller file may lose compared with the float file.

    Raises:
        InputError: a figure that is negative or not finite.
    """

    agreement: float = 0.975
    """The least share of judged samples that keep their label, for classification. If the truth is given, at
    most one more sample may be wrong."""
    drift: float = 0.1
    """The root mean square of a state's difference in a 1,000-step run, as a share of the state's own."""
    change: float = 0.25
    """The largest difference of any other output, as a share of that output's range in the float file."""

    def __post_init__(self) -> None:
        rule = (lambda figure: 0 <= figure < math.inf, "a finite number from 0")
        check_fields(self, dict.fromkeys(asdict(self), rule))


@dataclass(frozen=True)
class QuantizeConfig:
    """How to make the file smaller.

    Raises:
        InputError: an unknown precision or target, or a pair that no device runs.
    """

    precision: str = "int8"
    """``int8`` or ``fp16``."""
    target: str = "auto"
    """The device's arithmetic: ``x86-vnni``, ``x86`` (without VNNI), ``arm``, ``gpu`` (fp16 only), or
    ``auto`` for the machine this runs on."""
    weights_only: bool = False
    """Store int8 weights and compute in float: as small, exactly as fast, more accurate, no less memory."""
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("target", self.target, TARGETS),
        ):
            if value not in known:
                raise InputError(f"{name} {value!r}; choose one of {', '.join(known)}")
        if self.precision == "int8" and self.target == "gpu":
            raise InputError("onnxruntime has no int8 LSTM for GPUs; use precision fp16 with target gpu")
        if self.precision == "fp16" and self.weights_only:
            raise InputError("weights_only belongs to int8; fp16 for a CPU stores weights only as it is")
