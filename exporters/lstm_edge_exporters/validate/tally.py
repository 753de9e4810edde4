"""What a validation has compared so far, in numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Manifest

from ..numerics.cases import Feeds
from ..numerics.compare import Agreement, Equality, Measured, Strength, fixed_axes
from .report import Figures


class Tally:
    """Counts cases and the values of indices."""

    def __init__(self, manifest: Manifest, values: Mapping[str, int], *, modeled: bool) -> None:
        """Take the manifest, how many values an input of indices has, and whether limits are noise floors."""
        self._manifest, self._values, self._modeled = manifest, values, modeled
        self._fixed = fixed_axes(manifest)
        self._tokens: dict[str, set[int]] = {}
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
        if self._modeled and not measured.overflow:
            self._strength.add(measured, self._fixed)

    def results(self) -> dict[str, Any]:
        """Return the fields of a report that this gives, by name."""
        return {"equality": self.equality if self.equality.cases else None, "figures": self.figures}

    @property
    def unverified(self) -> dict[str, float]:
        """Channels whose limit in float32 was more than a tenth of them in a case, with the largest limit."""
        return self._strength.found()[1]

    @property
    def tokens(self) -> dict[str, tuple[int, int | None]]:
        """Of each input of indices: how many different ones were used, and of how many; None if unknown."""
        return {name: (len(used), self._values.get(name)) for name, used in self._tokens.items()}

    def _count_inputs(self, feeds: Feeds) -> None:
        for spec in self._manifest.data_inputs:
            if np.dtype(spec.dtype).kind in "iu":
                self._tokens.setdefault(spec.name, set()).update(np.unique(feeds[spec.name]).tolist())
