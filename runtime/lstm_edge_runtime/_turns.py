"""One caller at a time: a second one is refused at once, and never made to wait."""

from .errors import StateError

__all__ = ["Turns"]


class Turns:
    """A context that only one thread can be in.

    ``token`` holds one item while nobody is in it. ``list.pop`` is atomic and takes half the time of a
    lock, so a hot path may take and give the token by hand.
    """

    def __init__(self, what: str) -> None:
        """``what`` names the thing for the message: ``stream``."""
        self.token = [None]
        self._what = what

    def refusal(self) -> StateError:
        """Return the error for the caller that comes second."""
        return StateError(
            f"another thread is using this {self._what}; give each thread its own, or take turns"
        )

    def __enter__(self) -> None:
        try:
            self.token.pop()
        except IndexError:
            raise self.refusal() from None

    def __exit__(self, *error: object) -> None:
        self.token.append(None)
