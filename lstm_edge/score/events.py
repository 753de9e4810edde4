"""Changes of the label: rows of one series become spans of one label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.manifest import Array

from .job import Job, exact_order

__all__ = ["Span", "event_table", "find_spans", "from_storage", "hold_labels"]


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


def find_spans(
    before: Sequence[Span | None], counts: Array, order: Array, labels: Array, shares: Array
) -> tuple[list[tuple[int, Span]], list[Span]]:
    """Cut samples into spans, the first of which may go on from an earlier one.

    Sums are taken one after another, so that they do not depend on where the samples are cut.

    Args:
        before: each series' last span so far, None for a new one.
        counts: how many samples each series has ``(K,)``, from 1.
        order: their order, one series after another ``(n,)``.
        labels: their classes ``(n,)``.
        shares: the probability of these ``(n,)``.

    Returns:
        The spans that ended, each with its series' place; and each series' last span.
    """
    starts = np.cumsum(counts) - counts
    series = np.repeat(np.arange(len(counts)), counts)
    new, first, last = _runs(counts, labels)
    span = np.cumsum(new) - 1
    goes_on = [
        old is not None and old.label == int(labels[start])
        for old, start in zip(before, starts.tolist(), strict=True)
    ]
    carried = {int(span[starts[k]]): before[k] for k in np.flatnonzero(goes_on).tolist()}
    sums = np.bincount(  # which adds in the order of its arguments
        np.concatenate([np.array(list(carried), dtype=np.int64), span]),
        weights=np.concatenate([[old.total for old in carried.values() if old], shares.astype(np.float64)]),
    )
    ended = [(k, old) for k, old in enumerate(before) if old is not None and not goes_on[k]]
    open_spans: list[Span] = []
    for index, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        old = carried.get(index)
        found = Span(
            int(labels[begin]),
            order[begin].item() if old is None else old.start,
            order[end].item(),
            float(sums[index]),
            end - begin + 1 + (0 if old is None else old.samples),
        )
        place = int(series[begin])
        if end == starts[place] + counts[place] - 1:
            open_spans.append(found)
        else:
            ended.append((place, found))
    return ended, open_spans


def hold_labels(holds: Sequence[Hold], counts: Array, labels: Array) -> Array:
    """Return the label that counts after each sample ``(n,)``, -1 while none does.

    Args:
        holds: each series' own, which goes on.
        counts: how many samples each series has ``(K,)``, from 1.
        labels: their classes, one series after another ``(n,)``.
    """
    held: Array = labels.copy()
    series = np.repeat(np.arange(len(counts)), counts)
    _, first, last = _runs(counts, labels)
    for begin, end in zip(first.tolist(), last.tolist(), strict=True):
        hold = holds[series[begin]]
        before = hold.label
        held[begin : begin + hold.take(int(labels[begin]), end - begin + 1)] = before
    return held


def _runs(counts: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return where one series' label changes ``(n,)``, and the first and last places of equal ones."""
    new = np.ones(len(labels), dtype=bool)
    new[1:] = labels[1:] != labels[:-1]
    new[np.cumsum(counts) - counts] = True
    first = np.flatnonzero(new)
    return new, first, np.append(first[1:], len(labels)) - 1


def event_table(job: Job, found: Sequence[tuple[str, Span]], *, is_open: bool) -> pa.Table:
    """Return events with their series' names, sorted by series and start.

    Args:
        job: the run.
        found: spans and the names of their series.
        is_open: whether later samples may make them longer.
    """
    rows = sorted(found, key=lambda each: (each[0], each[1].start))
    spans = [span for _, span in rows]

    def order(values: Sequence[int | float]) -> pa.Array:
        return from_storage(pa.array(values, job.order_storage), job.order_type)

    columns = {
        str(job.columns.series): pa.array([name for name, _ in rows], pa.string()).cast(job.series_type),
        "start": order([span.start for span in spans]),
        "end": order([span.end for span in spans]),
        "label": pa.array([job.labels[span.label] for span in spans], pa.string()),
        "samples": pa.array([span.samples for span in spans], pa.int64()),
        "mean_probability": pa.array([span.total / span.samples for span in spans], pa.float64()),
        "open": pa.array([is_open] * len(spans), pa.bool_()),
    }
    return pa.table(columns)


def from_storage(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return an order as it was in the data set."""
    return column.cast(exact_order(kind)).cast(kind)
