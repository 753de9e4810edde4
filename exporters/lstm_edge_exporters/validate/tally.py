"""What a validation has compared so far, in numbers."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.tolerance import distance

from ..numerics.cases import Feeds, case_size
from ..numerics.compare import FEW_DRAWS, Agreement, Equality, Measured, Strength, fixed_axes, reduce_free
from .report import Channel, Coverage, Figures, Histogram

_EDGES = np.arange(-20.0, 4.01, 0.25)


class Tally:
    """Counts cases, channels and errors."""

    def __init__(self, manifest: Manifest, values: Mapping[str, int], *, modeled: bool) -> None:
        """Take the manifest, how many values an input of indices has, and whether limits are noise floors."""
        self._manifest, self._values, self._modeled = manifest, values, modeled
        self._fixed = fixed_axes(manifest)
        self._errors, self._exact = np.zeros(len(_EDGES) - 1, np.int64), 0
        self._channels: dict[tuple[str, tuple[int, ...]], Channel] = {}
        self._compared: list[tuple[int, int]] = []
        """Rows and steps of every case."""
        self._tokens: dict[str, set[int]] = {}
        self._overflows: Counter[str] = Counter()
        self._strength = Strength()
        self.equality = Equality()
        """How equal the graph and its reference are in float64."""
        self.figures = Figures()
        """Filled by the groups."""

    def add_agreement(self, feeds: Feeds, found: Agreement) -> None:
        """Count one case in float64."""
        self._count_inputs(feeds)
        self.equality = self.equality.with_case(found)

    def add_measured(self, feeds: Feeds, measured: Measured) -> None:
        """Count one case in float32."""
        self._count_inputs(feeds)
        if measured.overflow:
            self._overflows[measured.overflow] += 1
            return
        if self._modeled:
            self._strength.add(measured, self._fixed)
        for name, array in measured.known.ref64.items():
            if measured.got[name].shape == array.shape:
                errors = distance(measured.got[name], array)
                self._count_channels(name, measured, errors)
                self._count_errors(errors[np.isfinite(errors)])

    def results(self) -> dict[str, Any]:
        """Return the fields of a report that this gives, by name."""
        self.figures.histogram = Histogram(
            tuple(map(float, _EDGES)), tuple(map(int, self._errors)), self._exact
        )
        return {
            "equality": self.equality if self.equality.cases else None,
            "figures": self.figures,
            "channels": tuple(self._channels.values()),
            "coverage": self.coverage,
        }

    @property
    def coverage(self) -> Coverage:
        """What was compared."""
        weakest, unverified = self._strength.found()
        return Coverage(
            cases=len(self._compared),
            draws=FEW_DRAWS,
            overflows=dict(self._overflows),
            rows=sum(rows for rows, _ in self._compared),
            steps=sum(rows * steps for rows, steps in self._compared),
            sizes=tuple(sorted({*self._compared})),
            tokens={name: (len(used), self._values.get(name)) for name, used in self._tokens.items()},
            channels=dict(Counter(name for name, _ in self._channels)),
            weakest=weakest,
            unverified=unverified,
        )

    def _names(self, output: str, place: tuple[int, ...]) -> list[str]:
        """Return the label and the unit that the task gives a channel."""
        task = self._manifest.task
        if task is None or output != task.output or not place:
            return []
        return ["".join(names[place[-1] :][:1]) for names in (task.labels, task.units)]

    def _count_inputs(self, feeds: Feeds) -> None:
        self._compared.append(case_size(self._manifest, feeds))
        for spec in self._manifest.data_inputs:
            if np.dtype(spec.dtype).kind in "iu":
                self._tokens.setdefault(spec.name, set()).update(np.unique(feeds[spec.name]).tolist())

    def _count_channels(self, name: str, measured: Measured, errors: Array) -> None:
        floors = measured.known.floors[name]
        kept = [axis for axis, size in enumerate(floors.shape) if size > 1]
        errors = reduce_free(errors, [axis - errors.ndim for axis in kept])
        limits, floors = (np.broadcast_to(each, errors.shape) for each in (measured.limits[name], floors))
        state = any(name == each.output for each in self._manifest.states)
        for index in np.ndindex(errors.shape):
            place = tuple(index[axis] for axis in kept)
            error, floor, limit = (float(each[index]) for each in (errors, floors, limits))
            key = (name, place[:-1] if state else place)  # of a layer's units the worst
            known = self._channels.get(key)
            if known is None or error * known.limit > known.error * limit:
                names = self._names(name, place)
                self._channels[key] = Channel(name, place, error, floor, limit, *names)

    def _count_errors(self, errors: Array) -> None:
        seen = errors >= 10.0 ** _EDGES[0]
        self._exact += int((~seen).sum())
        self._errors += np.histogram(np.minimum(np.log10(errors[seen]), _EDGES[-1]), _EDGES)[0]
