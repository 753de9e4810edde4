"""Options for training."""

import math
from dataclasses import dataclass

from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import InputError

UPDATES = 4000
"""Steps of the optimizer if no number of epochs is given."""
_PATIENCE = 0.3
"""Patience as a fraction of the epochs."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the sizes of the network, and the optimization."""

    hidden_size: int = option(32, "Hidden size of the LSTM.", low=1, high=8192)
    num_layers: int = option(1, "Number of LSTM layers.", low=1, high=64, flag="--layers")
    dropout: float = option(0.0, "Dropout between layers.", low=0, below=1)
    bidirectional: bool = option(
        False, "Also read each sample backwards; such a network streams over sliding windows only."
    )
    carry: str = option(
        "on",
        "Carry states from window to window in half of the training, as a stream does.",
        choices=("on", "off"),
    )
    epochs: int | None = option(
        None, "Maximum number of epochs.", low=1, high=2**31 - 1, shown="4,000 optimizer steps"
    )
    patience: int | None = option(
        None,
        "Number of epochs without improvement before stopping.",
        low=1,
        high=2**31 - 1,
        shown="0.3 of --epochs",
    )
    batch_size: int = option(16, "Samples per optimizer step.", low=1, high=2**31 - 1)
    learning_rate: float = option(5e-3, "Learning rate of AdamW.", above=0, below=math.inf)
    weight_decay: float = option(0.05, "Weight decay of AdamW.", low=0, below=1)
    clip: float = option(1.0, "Maximum norm of the gradient.", above=0, below=math.inf)
    class_weight: str = option(
        "none",
        "Class weights in the loss; balanced gives all classes the same weight.",
        choices=("none", "balanced"),
    )
    seed: int = option(0, "Random seed.", low=0, high=2**32 - 1)
    device: str = option("cpu", "Device for training.", choices=("cpu", "cuda"))

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: a value does not fit, or dropout is given for one layer.
        """
        check_options(self)
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout is applied between layers; use two or more layers, or no dropout")

    @property
    def carries(self) -> bool:
        """True if training carries states; a bidirectional network can't."""
        return self.carry == "on" and not self.bidirectional

    def limits(self, updates: int) -> tuple[int, int]:
        """Return the number of epochs and the patience, for epochs of ``updates`` optimizer steps."""
        epochs = self.epochs or math.ceil(UPDATES / updates)
        return epochs, self.patience or math.ceil(_PATIENCE * epochs)
