"""Options for training."""

import math
from dataclasses import dataclass

from lstm_edge_runtime.errors import InputError

__all__ = ["TrainConfig"]

_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the sizes of the network, and the optimization."""

    hidden_size: int = 32
    num_layers: int = 1
    dropout: float = 0.0
    """Probability of dropout between layers."""
    epochs: int = 200
    """Maximum number of passes over the training set."""
    patience: int = 40
    """Epochs without a lower validation loss before training stops."""
    batch_size: int = 16
    learning_rate: float = 5e-3
    """Adam's."""
    clip: float = 1.0
    """Maximum norm of the gradient."""
    crop: float | None = None
    """Shortest random crop, as a fraction of a sample: training on stretches of every length lets a stream be
    recognized before its window is full. 1 trains on whole samples. None is 0.2 for classes, 1 for values."""
    label_smoothing: float = 0.05
    """Fraction of every class's target that is spread over all classes; keeps probabilities from running off
    to 0 and 1, and logits small. Without effect on values."""
    seed: int = 0
    """Of the split, the parameters, the order and the crops."""
    device: str = "cpu"
    """Where to train: ``cpu`` (repeatable) or ``cuda``."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: a number out of range.
        """
        for name in ("hidden_size", "num_layers", "epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}, expected a positive number")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 to below 1")
        if self.device not in _DEVICES:
            raise InputError(f"device is {self.device!r}, expected {' or '.join(_DEVICES)}")
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout acts between layers; give two layers or more, or no dropout")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InputError(f"crop is {self.crop}, expected a fraction above 0, up to 1")
