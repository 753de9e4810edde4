"""A label that counts once it has stayed the same for some steps."""

__all__ = ["NO_LABEL", "Hold"]

NO_LABEL = (-1, -1, 0)
"""What ``Hold.saved`` gives before the first step."""


class Hold:
    """Keeps the label that counts while a stream's own label flickers: one such object a source."""

    def __init__(self, steps: int) -> None:
        """Let a label count once it came ``steps`` times in a row."""
        self._steps = steps
        self.restore(*NO_LABEL)

    def restore(self, label: int, candidate: int, count: int) -> None:
        """Go on from what ``saved`` gave."""
        self.label = label
        """The index of the class that counts; -1 before the first one does."""
        self._candidate, self._count = candidate, count

    def take(self, label: int, count: int = 1) -> int:
        """Take ``count`` steps of one label; return how many of them pass before ``label`` counts."""
        if label != self._candidate:
            self._candidate, self._count = label, 0
        before = 0 if label == self.label else min(count, max(0, self._steps - 1 - self._count))
        self._count = min(self._count + count, self._steps)
        if before < count:
            self.label = label
        return before

    @property
    def saved(self) -> tuple[int, int, int]:
        """The label that counts, the one that may be next, and how often that came in a row."""
        return self.label, self._candidate, self._count
