"""Options for reading and splitting data files."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import InputError

TABLE_SUFFIXES = (".csv", ".parquet", ".wav")
"""Suffixes of files with one row per time step."""
DATA_SUFFIXES = (".npz", ".npy", *TABLE_SUFFIXES)


def suffix_of(path: Path) -> str:
    """Return the suffix of a data file, in lower case: ``.csv`` also of ``LOG.CSV``."""
    return path.suffix.lower()


def parse_rate(text: str) -> float:
    """Read a rate in Hertz: ``50``, ``50Hz`` or ``1kHz``; raises InputError."""
    match = re.fullmatch(
        r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(k?)(?:hz)?", text.strip(), re.IGNORECASE
    )
    value = float(match[1]) * (1000 if match[2] else 1) if match else 0.0
    if not 0 < value < math.inf:
        raise InputError(
            f"{text!r} is not a rate; expected, for example, 100, 100Hz or 1kHz"
        )
    return value


@dataclass(frozen=True)
class ReadConfig:
    """How to read a data file. Names must be columns of a table, or arrays of an
    ``.npz``.
    """

    series: str = option(
        "series", "Column with the series id, if it exists.", metavar="COLUMN"
    )
    order: str = option(
        "order",
        "Column to sort by, numbers or ISO times, if it exists.",
        metavar="COLUMN",
    )
    label: str | None = option(
        None,
        "Column of the class.",
        metavar="COLUMN",
        shown="label, y or the subfolder",
    )
    targets: tuple[str, ...] = option(
        (), "Columns with values to predict.", flag="--target", metavar="NAMES"
    )
    forecast: tuple[str, ...] = option(
        (), "Features whose next value to predict.", metavar="NAMES"
    )
    features: tuple[str, ...] = option(
        (),
        "Feature columns.",
        metavar="NAMES",
        shown="those of the model if there is one, else all others",
    )
    group: str = option(
        "group",
        "Column with a subject, never in two sets, if it exists.",
        metavar="COLUMN",
    )
    missing: str = option(
        "error", "Treatment of missing features.", choices=("error", "interpolate")
    )
    sampling_rate: float | None = option(
        None,
        "Rate to resample to, such as 50Hz.",
        above=0,
        flag="--rate",
        metavar="RATE",
        parse=parse_rate,
    )
    encoding: str = option(
        "utf-8", "Encoding of CSV files, such as latin-1.", metavar="NAME"
    )

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit, or more than one task."""
        check_options(self)
        if bool(self.label) + bool(self.targets) + bool(self.forecast) > 1:
            raise InputError("give only one of label, targets and forecast")
        if self.forecast and self.missing == "interpolate":
            raise InputError(
                "interpolation fills a gap from the value after it, which forecast"
                " predicts; fill or remove gaps first"
            )


@dataclass(frozen=True)
class DataConfig(ReadConfig):
    """How to read, window and split the training data."""

    window: int | None = option(
        None, "Time steps of a window.", low=1, shown="every series is one sample"
    )
    stride: int | None = option(
        None, "Steps between windows from reset.", low=1, shown="the window"
    )
    units: tuple[str, ...] = option(
        (), "Units of the predicted values.", metavar="NAMES"
    )
    forecast_difference: bool = option(
        False,
        "Train on the difference to the current value; the exported model still outputs"
        " the value.",
    )
    validation: float = option(
        0.2, "Fraction of the series in the validation set.", above=0, below=1
    )
    test: float = option(
        0.2, "Fraction in the test set, if the data do not define sets.", low=0, below=1
    )
    validation_data: str | None = option(
        None, "Separate file with the validation set.", metavar="FILE"
    )
    test_data: str | None = option(
        None, "Separate file with the test set.", metavar="FILE"
    )
    folds: int = option(
        0, "Number of cross-validation folds, in addition to the run.", low=0
    )

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit, or options that exclude each
        other.
        """
        super().__post_init__()
        if (self.stride or self.forecast) and self.window is None:
            raise InputError(
                "a stride and a forecast require a window; give one, such as"
                " --window 50"
            )
        if self.forecast_difference and not self.forecast:
            raise InputError(
                "forecast_difference requires a forecast; also give --forecast"
            )
        if self.folds == 1 or (self.folds and (self.validation_data or self.test_data)):
            raise InputError(
                "--folds takes 2 or more, without --validation-data and --test-data"
            )
        if self.validation + self.test >= 1:
            raise InputError(
                "validation and test leave no data to train on; give smaller fractions"
            )
