"""Options for training."""

from dataclasses import dataclass

from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import InputError

UPDATES = 4000
"""Steps of the optimizer if no number of epochs is given."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the sizes of the network, and the optimization."""

    hidden_size: int = option(32, "Hidden size of the LSTM.", low=1, high=8192)
    num_layers: int = option(
        1, "Number of LSTM layers.", low=1, high=64, flag="--layers"
    )
    dropout: float = option(0.0, "Dropout between layers.", low=0, below=1)
    bidirectional: bool = option(
        False, "Also read samples backwards; streams over sliding windows only."
    )
    carry: str = option(
        "on",
        "Carry states in half of the training, as streams do.",
        choices=("on", "off"),
    )
    epochs: int | None = option(
        None, "Maximum number of epochs.", low=1, shown=f"{UPDATES:,} optimizer steps"
    )
    patience: int | None = option(
        None,
        "Epochs without improvement before stopping.",
        low=1,
        shown="0.3 of --epochs",
    )
    batch_size: int = option(16, "Samples per optimizer step.", low=1, high=2**31 - 1)
    learning_rate: float = option(5e-3, "Learning rate of AdamW.", above=0, high=1e30)
    class_weight: str = option(
        "none", "Weights of classes in the loss.", choices=("none", "balanced")
    )
    density: float = option(
        1.0, "Fraction of the LSTM's blocks of weights that stay.", above=0, high=1
    )
    block: str = option(
        "16x1",
        "Rows and columns of a block: 8x4 for int8 arithmetic.",
        choices=("16x1", "8x4"),
    )
    seed: int = option(0, "Random seed.", low=0, high=2**32 - 1)
    device: str = option("cpu", "Device for training.", choices=("cpu", "cuda"))

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit, or dropout for one layer."""
        check_options(self)
        if self.dropout and self.num_layers == 1:
            raise InputError(
                "dropout is applied between layers; use two or more layers, or no"
                " dropout"
            )

        rows = int(self.block.split("x")[0])
        if self.is_pruned and self.hidden_size % rows:
            raise InputError(
                f"density {self.density:g} prunes blocks of {self.block}; expected a"
                f" hidden size that is a multiple of {rows}, got {self.hidden_size}"
            )

    @property
    def is_pruned(self) -> bool:
        """True if blocks of weights become zero."""
        return self.density < 1

    @property
    def carries(self) -> bool:
        """True if training carries states; a bidirectional network can't."""
        return self.carry == "on" and not self.bidirectional
