"""Debounce labels: a label is confirmed once it has stayed the same for some steps."""

NO_LABEL = (-1, -1, 0)
"""Value of ``Hold.saved`` before the first step."""


class Hold:
    """Debounces the label of a stream: one object per source."""

    def __init__(self, steps: int) -> None:
        """Confirm a label once it occurred ``steps`` times in a row."""
        self._steps = steps
        self.restore(*NO_LABEL)

    def restore(self, label: int, candidate: int, count: int) -> None:
        """Continue from the values of ``saved``; ``label`` is the confirmed class, -1 for none."""
        self.label, self._candidate, self._count = label, candidate, count

    def take(self, label: int, count: int = 1) -> int:
        """Process ``count`` steps of one label; return the number of steps before ``label`` is confirmed."""
        if label != self._candidate:
            self._candidate, self._count = label, 0
        before = 0 if label == self.label else min(count, max(0, self._steps - 1 - self._count))
        self._count = min(self._count + count, self._steps)
        if before < count:
            self.label = label
        return before

    @property
    def saved(self) -> tuple[int, int, int]:
        """The confirmed label, the candidate, and the number of consecutive steps of the candidate."""
        return self.label, self._candidate, self._count
