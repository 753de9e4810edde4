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
        if self.address is not None and self.workers is not None:
            raise InputError("a running cluster has its own workers; leave out --workers or --address")
        if any(number is not None and number < 1 for number in (self.rows_in_memory, self.workers)):
            raise InputError("workers and rows_in_memory are whole numbers from 1")
