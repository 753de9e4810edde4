"""Options of a run over a data set."""

from dataclasses import dataclass

from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import InputError


@dataclass(frozen=True)
class ScoreConfig:
    """Options of a run; ``make_plan`` finds features, ``reset_every`` and ``partitions`` if
    they are not given.
    """

    series: str = option(
        "series",
        "Series id: a column, or a key in paths (device=17/).",
        metavar="COLUMN",
    )
    order: str = option("order", "Column to sort each series by.", metavar="COLUMN")
    features: tuple[str, ...] = option(
        (), "Feature columns.", metavar="NAMES", shown="the model's"
    )
    events: bool = option(False, "Also write changes of the label to OUTPUT/_events.")
    hold: int = option(
        1, "For --events: steps until a new label counts.", low=1, metavar="STEPS"
    )
    window: int | None = option(
        None, "Run the last N samples from reset at every step.", low=1, metavar="N"
    )
    since: str | None = option(
        None, "Continue an earlier run: take its states.", metavar="OUTPUT"
    )
    skip_bad: bool = option(False, "Skip and name files that can't be read.")
    reset_every: int | str | None = None
    """Number of steps after which a series is reset, or ``"never"``."""
    partitions: int = 0
    """Number of partitions; 0 to choose it."""

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)
        if self.window and (self.since or self.reset_every):
            raise InputError("--window has no state; remove --since and --reset-every")
        if self.hold > 1 and not self.events:
            raise InputError("--hold confirms the labels of events; give --events too")
