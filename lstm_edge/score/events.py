"""Changes of the label: rows of one series become spans of one label."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.manifest import Array

from .job import Job, exact_order

__all__ = ["Span", "Spans", "event_table", "from_storage"]


class Span(NamedTuple):
    """Consecutive samples of one series that have one label."""

    label: int
    """The class; -1 while none counts yet."""
    start: int | float
    """The first sample's order."""
    end: int | float
    """The last sample's order."""
    total: float
    """The sum of the label's probability."""
    samples: int


class Spans:
    """The last span of each series, which its next samples make longer or end."""

    def __init__(self, hold: int) -> None:
        """Let a label count once it came ``hold`` times in a row."""
        self.holds: defaultdict[str, Hold] = defaultdict(lambda: Hold(hold))
        """By series."""
        self.last: dict[str, Span] = {}
        """By series."""

    def take(
        self, names: Sequence[str], counts: Array, order: Array, values: Array
    ) -> list[tuple[str, Span]]:
        """Take the next samples of some series; return the spans that ended, with their series.

        Args:
            names: of the series.
            counts: how many samples each has ``(K,)``, from 1.
            order: their order, one series after another ``(n,)``.
            values: the probabilities of the classes ``(n, C)``.
        """
        labels = values.argmax(axis=1)
        series = np.repeat(np.arange(len(counts)), counts)
        first = np.flatnonzero((np.diff(series, prepend=-1) != 0) | (np.diff(labels, prepend=-1) != 0))
        ended: list[tuple[str, Span]] = []
        for begin, end in zip(first.tolist(), [*first[1:].tolist(), len(labels)], strict=True):
            name = names[series[begin]]
            hold = self.holds[name]
            before = hold.label
            counted = begin + hold.take(int(labels[begin]), end - begin)
            for label, low, high in ((before, begin, counted), (hold.label, counted, end)):
                if low < high:
                    ended += self._extend(name, label, order[low:high], values[low:high, label])
        return ended

    def _extend(self, name: str, label: int, order: Array, shares: Array) -> Iterator[tuple[str, Span]]:
        old = self.last.get(name)
        if old is not None and old.label != label:
            yield name, old
            old = None
        start, total, samples = (old.start, old.total, old.samples) if old else (order[0].item(), 0.0, 0)
        # one after another, so that the sum does not depend on where the samples are cut
        total = float(np.cumsum(np.append(total, shares.astype(np.float64)))[-1])
        self.last[name] = Span(label, start, order[-1].item(), total, samples + len(shares))


def event_table(job: Job, found: Sequence[tuple[str, Span]], *, is_open: bool) -> pa.Table:
    """Return events with their series' names, sorted by series and start.

    Args:
        job: the run.
        found: spans and the names of their series.
        is_open: whether later samples may make them longer.
    """
    rows = sorted(found, key=lambda each: (each[0], each[1].start))
    names, spans = [name for name, _ in rows], [span for _, span in rows]
    columns = {
        str(job.columns.series): pa.array(names, pa.string()).cast(job.series_type),
        "start": from_storage(job, [span.start for span in spans]),
        "end": from_storage(job, [span.end for span in spans]),
        "label": pa.array([job.labels[span.label] for span in spans], pa.string()),
        "samples": pa.array([span.samples for span in spans], pa.int64()),
        "mean_probability": pa.array([span.total / span.samples for span in spans], pa.float64()),
        "open": pa.array([is_open] * len(spans), pa.bool_()),
    }
    return pa.table(columns)


def from_storage(job: Job, values: Sequence[int | float]) -> pa.Array:
    """Return orders as they were in the data set."""
    return pa.array(values, job.order_storage).cast(exact_order(job.order_type)).cast(job.order_type)
