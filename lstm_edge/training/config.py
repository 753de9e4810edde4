"""What training may be told."""

import math
from dataclasses import dataclass

from lstm_edge_runtime.errors import InputError

__all__ = ["DataConfig", "TrainConfig"]

_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class DataConfig:
    """How to read and part the data."""

    window: int | None = None
    """Time steps of a sample; None takes every series whole."""
    stride: int | None = None
    """Time steps from one window of a series to the next; None is the window, so that none overlap."""
    series: str = "series"
    """CSV column that tells series apart; without it the file is one series."""
    order: str = "order"
    """CSV column that a series is sorted by; without it the file's own order counts."""
    label: str | None = None
    """CSV column with the class; None takes ``label`` where nothing else is asked for."""
    targets: tuple[str, ...] = ()
    """CSV columns with the values to predict."""
    forecast: tuple[str, ...] = ()
    """CSV columns whose next value is to be predicted; they are features as well."""
    features: tuple[str, ...] = ()
    """CSV columns to learn from; empty takes all that are not named otherwise."""
    units: tuple[str, ...] = ()
    """The unit of each predicted value, kept for the artifact."""
    sampling_rate: float | None = None
    """Hertz, kept for the artifact; None takes what a ``.npz`` says."""
    validation: float = 0.2
    """Share of the series that decides when to stop."""
    test: float = 0.2
    """Share of the series that only the summary sees; unused where a ``.npz`` names its own parts."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InputError: a size or share out of range, or more than one task.
        """
        for name, size in (("window", self.window), ("stride", self.stride)):
            if size is not None and size < 1:
                raise InputError(f"{name} is {size}, expected 1 or more")
        if self.stride is not None and self.window is None:
            raise InputError("a stride goes with a window; give --window too")
        asked = [name for name in ("label", "targets", "forecast") if getattr(self, name)]
        if len(asked) > 1:
            raise InputError(f"{' and '.join(asked)} were given together; choose one task")
        if self.forecast and self.window is None:
            raise InputError("a forecast needs a window; give --window, the steps to look back")
        for name, share in (("validation", self.validation), ("test", self.test)):
            if not 0 <= share < 1:
                raise InputError(f"{name} is {share}, expected a share from 0 to below 1")
        if self.sampling_rate is not None and not 0 < self.sampling_rate < math.inf:
            raise InputError(f"sampling_rate is {self.sampling_rate}, expected a positive number of Hertz")
        if self.validation == 0 or self.validation + self.test >= 1:
            raise InputError(
                f"validation {self.validation} and test {self.test} must leave data to train on and stop by; "
                "give shares over 0 and together below 1"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the network's sizes and the optimization's."""

    hidden_size: int = 32
    num_layers: int = 1
    dropout: float = 0.0
    """Probability of dropout between layers."""
    epochs: int = 200
    """The most passes over the training part."""
    patience: int = 40
    """Epochs without a lower validation loss before training stops."""
    batch_size: int = 16
    learning_rate: float = 5e-3
    """Adam's."""
    clip: float = 1.0
    """The largest norm of the gradient."""
    crop: float | None = None
    """The shortest random crop, as a share of a sample: training on parts of every length lets a stream be
    recognized before its window is full. 1 trains on whole samples. None is 0.2 for classes, 1 for values."""
    label_smoothing: float = 0.05
    """Share of every class's target that is spread over all classes; keeps probabilities from running off to
    0 and 1, and logits small. Without effect on values."""
    seed: int = 0
    """Of the parting, the parameters, the order and the crops."""
    device: str = "cpu"
    """Where to train: ``cpu`` (repeatable) or ``cuda``."""

    def __post_init__(self) -> None:
        """Refuse what can't be trained with.

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
            raise InputError(f"crop is {self.crop}, expected a share over 0, up to 1")
