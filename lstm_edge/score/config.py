"""Options of a scoring run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lstm_edge_runtime.errors import InputError


@dataclass(frozen=True)
class ScoreConfig:
    """How to score a data set."""

    series: str | None = None
    """Column with the series id; None for ``series``."""
    order: str | None = None
    """Column that each series is sorted by; None for ``order``."""
    features: tuple[str, ...] = ()
    """Columns in the model's order; empty for the names in its file."""
    by_window: bool = False
    """Each row is a whole window, scored from the reset state."""
    events: bool = False
    """Also write changes of the label."""
    hold: int | None = None
    """Number of equal labels in a row that confirm a label; None for the earlier run's, or 1."""
    reset_every: int | Literal["never"] | None = None
    """Steps after which a series is reset; None for the earlier run's value, or that of the training."""
    skip_bad: bool = False
    """Skip and count files that can't be read."""
    since: Path | None = None
    """Output of an earlier run: its files are skipped, and series continue from its states."""
    workers: int | None = None
    """Number of processes on this machine; None for one per core, or one if Ray is not installed."""
    address: str | None = None
    """A running Ray cluster to join."""
    rows_in_memory: int | None = None
    """Rows in a worker's memory at once; None for a million, fewer of wide ones."""

    def __post_init__(self) -> None:
        """Check the options against each other.

        Raises:
            InputError: options that exclude each other, or a number out of range.
        """
        if self.by_window and (self.events or self.since):
            other = "--events" if self.events else "--since"
            raise InputError(f"{other} goes with series; rows of --by-window are independent, leave one out")
        if self.hold and not self.events:
            raise InputError("--hold confirms the labels of events; give --events too, or leave it out")
        if self.by_window and self.reset_every is not None:
            raise InputError("each row of --by-window starts from reset; leave out --reset-every")
        if self.address is not None and self.workers is not None:
            raise InputError("a running cluster has its own workers; leave out --workers or --address")
        if any(n is not None and n < 1 for n in (self.rows_in_memory, self.workers, self.hold)):
            raise InputError("expected positive integers for workers, rows_in_memory and hold")
