"""Options for training."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lstm_edge_runtime.errors import FieldRules, InputError, check_fields

CLASS_WEIGHTS = ("none", "balanced")
CARRY = ("auto", "on", "off")
_DEVICES = ("cpu", "cuda")
_MIN_UPDATES, _MIN_EPOCHS, _PATIENCE = 4000, 100, 0.3
"""Steps of the optimizer, epochs, patience as a fraction of the epochs (``benchmarks/strangers``)."""


def _up_to(most: int) -> tuple[Callable[[int], bool], str]:
    return lambda size: 1 <= size <= most, f"1 to {most:,}"


_RULES: FieldRules = {
    "hidden_size": _up_to(8192),
    "num_layers": _up_to(64),
    **dict.fromkeys(("epochs", "patience", "batch_size"), _up_to(2**31 - 1)),
    "seed": (lambda seed: 0 <= seed < 2**32, f"0 to {2**32 - 1:,}"),
    **dict.fromkeys(("learning_rate", "clip"), (lambda each: 0 < each < math.inf, "a positive number")),
    **dict.fromkeys(
        ("dropout", "label_smoothing", "weight_decay"), (lambda each: 0 <= each < 1, "0 to below 1")
    ),
    "class_weight": (CLASS_WEIGHTS.__contains__, " or ".join(CLASS_WEIGHTS)),
    "carry": (CARRY.__contains__, ", ".join(CARRY)),
    "device": (_DEVICES.__contains__, " or ".join(_DEVICES)),
    "crop": (lambda crop: 0 < crop <= 1, "a fraction above 0, up to 1"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the sizes of the network, and the optimization."""

    hidden_size: int = 32
    num_layers: int = 1
    dropout: float = 0.0
    """Probability of dropout between layers."""
    bidirectional: bool = False
    """Whether a second LSTM reads each sample backwards: for whole samples, no stream can run it."""
    carry: str = "auto"
    """Whether states are carried from window to window in training: ``on``, ``off`` (every window starts from
    reset), or ``auto``: on, unless the output needs the whole sample. That of a bidirectional network does;
    else the last third of the epochs trains whole samples from reset, and the validation set decides."""
    epochs: int | None = None
    """Maximum number of passes over the training set; None is enough for 4,000 steps of the optimizer, but at
    least 100."""
    patience: int | None = None
    """Epochs without a lower validation loss before training stops; None is 0.3 of ``epochs``."""
    batch_size: int = 16
    learning_rate: float = 5e-3
    """AdamW's."""
    weight_decay: float = 0.05
    """AdamW's; keeps the network from learning small sets by heart."""
    clip: float = 1.0
    """Maximum norm of the gradient."""
    crop: float = 1.0
    """Shortest random crop, as a fraction of a sample; 1 trains on whole samples. Crops of 0.2 or so let a
    network recognize a stream before its window is full, where any stretch of a sample tells its class."""
    label_smoothing: float = 0.05
    """Fraction of every class's target that is spread over all classes; keeps probabilities from running off
    to 0 and 1, and logits small. Without effect on values."""
    class_weight: str = "none"
    """``none``, or ``balanced``: in the loss, each class counts in inverse proportion to its samples."""
    seed: int = 0
    """Of the split, the parameters, the order and the crops."""
    device: str = "cpu"
    """Where to train: ``cpu`` (repeatable) or ``cuda``."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: a number out of range.
        """
        check_fields(self, _RULES)
        if self.carry == "on" and self.bidirectional:
            raise InputError(
                "a bidirectional network reads the whole sample, so no state can be carried; remove "
                "--carry on or --bidirectional"
            )
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout is applied between layers; use two or more layers, or no dropout")

    def resolved(self, samples: int) -> "TrainConfig":
        """Return the same with ``epochs`` and ``patience`` as numbers, for a training set of ``samples``."""
        enough = math.ceil(_MIN_UPDATES / math.ceil(samples / self.batch_size))
        epochs = self.epochs or max(_MIN_EPOCHS, enough)
        return replace(self, epochs=epochs, patience=self.patience or math.ceil(_PATIENCE * epochs))
