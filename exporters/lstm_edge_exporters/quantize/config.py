"""Quantization options: the target device, and the accuracy that it may cost."""

import math
from dataclasses import dataclass, field
from functools import partial

from lstm_edge_runtime.errors import InputError

from ..options import check_options, option

_limit = partial(option, low=0, below=math.inf)


@dataclass(frozen=True)
class Budget:
    """Accuracy that a smaller file may lose compared with the float file.

    If targets are given, at most one more sample may be wrong.

    Raises:
        InputError: a value that is negative or not finite; an agreement above 1.
    """

    agreement: float = option(
        0.975,
        "Minimum fraction of equal labels.",
        flag="--min-agreement",
        low=0,
        high=1,
    )
    drift: float = _limit(
        0.1, "Maximum state drift over 1,000 steps.", flag="--max-drift"
    )
    change: float = _limit(
        0.25, "Maximum change of an output, relative to its range.", flag="--max-change"
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class QuantizeConfig:
    """How to make the file smaller.

    Raises:
        InputError: an unknown precision or target, or a pair that no device runs.
    """

    precision: str = option(
        "int8",
        "int8, or fp16: half the size on a CPU, half-precision arithmetic on a GPU.",
        choices=("int8", "fp16"),
    )
    target: str = option(
        "auto",
        "Target device; auto is this machine. x86 is without VNNI; gpu requires fp16.",
        choices=("auto", "x86-vnni", "x86", "arm", "gpu"),
        flag="--for",
    )
    weights_only: bool = option(
        False,
        "Store weights as int8 but compute in float32: a smaller file at the same"
        " speed.",
    )
    budget: Budget = field(default_factory=Budget)
    """Accuracy that the smaller file may lose."""

    def __post_init__(self) -> None:
        """Refuse options that exclude one another."""
        check_options(self)
        if self.precision == "int8" and self.target == "gpu":
            raise InputError(
                "onnxruntime has no int8 LSTM for GPUs; use precision fp16 with"
                " target gpu"
            )
        if self.precision == "fp16" and self.weights_only:
            raise InputError(
                "weights_only belongs to int8; fp16 for a CPU stores weights only as"
                " it is"
            )
