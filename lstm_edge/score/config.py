"""Options of a scoring run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lstm_edge_runtime.errors import InputError

__all__ = ["ScoreConfig"]


@dataclass(frozen=True)
class ScoreConfig:
    """How to score a data set."""

    series: str | None = None
    """Column that tells series apart; None takes ``series``."""
    order: str | None = None
    """Column that a series is sorted by; None takes ``order``."""
    features: tuple[str, ...] = ()
    """Columns in the model's order; empty takes the names in its file."""
    by_window: bool = False
    """Each row is a whole window, scored from the reset state."""
    events: bool = False
    """Write changes of the label beside the rows."""
    hold: int | None = None
    """Steps for which a label must stay the same before it counts; None is the earlier run's, else 1."""
    reset_every: int | Literal["never"] | None = None
    """Steps after which a series starts again from reset; None is the earlier run's, else the training's."""
    skip_bad: bool = False
    """Leave out a file that can't be read, and count it."""
    since: Path | None = None
    """The output of an earlier run: its files are left out, and its states are where series go on."""
    engine: Literal["auto", "onnxruntime", "native"] = "auto"
    """What takes the steps."""
    workers: int | None = None
    """Processes on this machine; None takes one a core, or one where Ray is not installed."""
    address: str | None = None
    """A running Ray cluster to join."""
    rows_in_memory: int | None = None
    """Rows that a worker holds at once; None takes up to a million, fewer of wide ones."""

    def __post_init__(self) -> None:
        """Check the options against each other.

        Raises:
            InputError: options that exclude each other, or a number out of range.
        """
        if self.by_window and (self.events or self.since):
            other = "--events" if self.events else "--since"
            raise InputError(f"{other} goes with series; rows of --by-window are independent, leave one out")
        if self.hold and not self.events:
            raise InputError("--hold says which labels are events; give --events too, or leave it out")
        if self.by_window and self.reset_every is not None:
            raise InputError("each row of --by-window starts from reset; leave --reset-every out")
        if self.address is not None and self.workers is not None:
            raise InputError("a running cluster has its own workers; leave out --workers or --address")
        if any(n is not None and n < 1 for n in (self.rows_in_memory, self.workers, self.hold)):
            raise InputError("workers, rows_in_memory and hold are whole numbers from 1")
