"""Changes of the label, debounced, over series whose rows arrive in pieces."""

from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.manifest import Array

NONE = -1
"""In place of a label before the first one is confirmed."""


@dataclass
class Spans:
    """The current event of each series, as arrays ``(series,)``.

    ``label`` was confirmed at order ``start``, ``samples`` rows ago; ``candidate`` is the label of the last
    ``count`` rows; ``end`` and ``last`` are the orders of the last row with a label, and of any row.
    """

    label: Array
    candidate: Array
    count: Array
    start: Array
    samples: Array
    end: Array
    last: Array

    @classmethod
    def empty(cls, size: int, order: np.dtype) -> "Spans":
        """Return the spans of series without rows."""
        label, count, start = np.full(size, NONE), np.zeros(size, np.int64), np.zeros(size, order)
        return cls(label, label.copy(), count, start, count.copy(), start.copy(), start.copy())

    def extend(self, series: Array, counts: Array, order: Array, labels: Array, hold: int) -> list[Array]:
        """Add the next rows of some series; return the events that ended: series, start, end, label, samples.

        ``series (K,)`` are their numbers, ``counts (K,)`` the number of rows of each, from 1; ``order`` and
        ``labels (sum of counts,)`` are those of the rows, one series after another.
        """
        ends = np.cumsum(counts)
        firsts = ends - counts
        owners = np.repeat(np.arange(len(counts)), counts)
        begins = np.flatnonzero((np.diff(owners, prepend=-1) != 0) | (np.diff(labels, prepend=NONE) != 0))
        lengths, owner, label = np.diff(begins, append=len(labels)), owners[begins], labels[begins]
        before = np.where(
            (begins == firsts[owner]) & (self.candidate[series[owner]] == label), self.count[series[owner]], 0
        )
        confirms = before + lengths >= hold
        change = begins + np.maximum(hold - before, 1) - 1
        is_last = np.diff(owner, append=-1) != 0
        self.candidate[series], self.count[series] = labels[ends - 1], (before + lengths)[is_last]
        ended, since = self._change(series, firsts, order, owner[confirms], label[confirms], change[confirms])
        self.samples[series] += ends - since
        self.end[series] = order[ends - 1]
        return ended

    def _change(
        self, series: Array, firsts: Array, order: Array, owner: Array, label: Array, change: Array
    ) -> tuple[list[Array], Array]:
        """Begin the events of confirmed labels, of each series in order.

        Returns the events that they end, and the first row of each series' last event ``(K,)``.
        """
        previous = np.where(np.diff(owner, prepend=-1) != 0, self.label[series[owner]], np.roll(label, 1))
        new = label != previous
        owner, label, change, previous = owner[new], label[new], change[new], previous[new]
        own, first, before = series[owner], firsts[owner], np.roll(change, 1)
        is_first, is_last = np.diff(owner, prepend=-1) != 0, np.diff(owner, append=-1) != 0
        start = np.where(is_first, self.start[own], order[before])
        samples = np.where(is_first, self.samples[own] + change - first, change - before)
        end = np.where(change > first, order[change - 1], self.end[own])
        since = firsts.copy()
        since[owner[is_last]] = change[is_last]
        final = own[is_last]
        self.label[final], self.start[final], self.samples[final] = label[is_last], order[change[is_last]], 0
        return [values[previous != NONE] for values in (own, start, end, previous, samples)], since

    def open_events(self) -> list[Array]:
        """Return the events that later rows may extend, as ``extend``."""
        own = np.flatnonzero(self.label != NONE)
        return [own, self.start[own], self.end[own], self.label[own], self.samples[own]]
