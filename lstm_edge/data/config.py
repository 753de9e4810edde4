"""Options for reading and splitting data files."""

import math
import re
from dataclasses import dataclass

from lstm_edge_runtime.errors import FieldRules, InputError, check_fields

DATA_SUFFIXES = (".npz", ".npy", ".csv", ".parquet")
LAYOUTS = ("NLC", "NCL")
"""Orders of the axes of ``x``: samples, time, channels; or samples, channels, time."""
MISSING = ("error", "interpolate", "drop-row")
"""Refuse missing features; interpolate linearly in time; or drop those steps."""

_READ_RULES: FieldRules = {
    "layout": (LAYOUTS.__contains__, " or ".join(LAYOUTS)),
    "missing": (MISSING.__contains__, ", ".join(MISSING)),
    "sampling_rate": (lambda rate: 0 < rate < math.inf, "a positive number of Hertz"),
}
_DATA_RULES: FieldRules = {
    **dict.fromkeys(("window", "stride"), (lambda size: size >= 1, "1 or more")),
    **dict.fromkeys(("validation", "test"), (lambda share: 0 <= share < 1, "a fraction from 0 to below 1")),
    "folds": (lambda folds: folds >= 0 and folds != 1, "2 or more, or 0 for none"),
}


@dataclass(frozen=True)
class ReadConfig:
    """How to read a data file. Names must be columns, or arrays of an ``.npz``."""

    series: str | None = None
    """Column with the series id; None uses ``series`` if it exists."""
    order: str | None = None
    """Column to sort each series by; None uses ``order`` if it exists."""
    label: str | None = None
    """Column or array with the class; None uses ``label`` (tables) or ``y`` (arrays)."""
    targets: tuple[str, ...] = ()
    """Columns or arrays with values to predict."""
    forecast: tuple[str, ...] = ()
    """Columns whose next value is to be predicted; they are also features."""
    features: tuple[str, ...] = ()
    """Feature columns; empty uses all remaining columns."""
    group: str | None = None
    """Column or array with a subject, machine or the like; a group is never in two sets."""
    label_pattern: str | None = None
    """For a folder: a regular expression whose group is the class, searched in each file's relative path."""
    missing: str = "error"
    """How to handle missing features: one of ``MISSING``."""
    sampling_rate: float | None = None
    """Hertz, stored in the artifact; timestamps of another rate are resampled. None uses the data's rate."""
    layout: str | None = None
    """One of ``LAYOUTS``; None uses ``NLC`` and refuses a shape that looks like ``NCL``."""

    def __post_init__(self) -> None:
        """Check the options against each other.

        Raises:
            InputError: more than one task, or an unknown layout.
        """
        given = [name for name in ("label", "targets", "forecast") if getattr(self, name)]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} were both given; choose one task")
        check_fields(self, _READ_RULES)
        if self.label_pattern is not None:
            try:
                groups = re.compile(self.label_pattern).groups
            except re.error as error:
                raise InputError(f"label_pattern {self.label_pattern!r}: {error}") from error
            if groups != 1 or self.label:
                raise InputError(
                    f"label_pattern is {self.label_pattern!r}, expected one group in parentheses and no label"
                )


@dataclass(frozen=True)
class DataConfig(ReadConfig):
    """How to read, window and split the training data."""

    window: int | None = None
    """Time steps of a window; None makes every series one sample."""
    stride: int | None = None
    """Time steps from one window of a series to the next; None is the window (no overlap)."""
    units: tuple[str, ...] = ()
    """Unit of each predicted value, stored in the artifact."""
    forecast_difference: bool | None = None
    """Whether a forecast's network predicts the difference from now, to which the exported file adds what is
    now; None if persistence is hard to beat (``training.baselines.persists``)."""
    validation: float = 0.2
    """Fraction of the series in the validation set."""
    test: float = 0.2
    """Fraction of the series in the test set; without effect if the file defines its sets."""
    validation_data: str | None = None
    """A separate file with the validation set."""
    test_data: str | None = None
    """A separate file with the test set."""
    folds: int = 0
    """Number of cross-validation folds, in addition to the run; 0 for none."""

    def __post_init__(self) -> None:
        """Check the options against each other.

        Raises:
            InputError: a size or fraction out of range, or options that exclude each other.
        """
        super().__post_init__()
        check_fields(self, _DATA_RULES)
        if self.stride is not None and self.window is None:
            raise InputError("a stride requires a window; also give --window")
        if self.forecast and self.window is None:
            raise InputError("a forecast requires a window; also give --window")
        if self.forecast_difference is not None and not self.forecast:
            raise InputError("--forecast-difference is about a forecast; also give --forecast")
        if self.folds and (self.validation_data or self.test_data):
            raise InputError("--folds splits the data itself; remove --validation-data and --test-data")
        if self.validation == 0 or self.validation + self.test >= 1:
            raise InputError(
                f"validation {self.validation} and test {self.test} must leave data to train and validate; "
                "give fractions above 0 that sum to less than 1"
            )
