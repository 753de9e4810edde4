"""The identity of a model file: the sha256 of its content, worked out when it is first needed."""

__all__ = ["Identity"]


class Identity:
    """Holds a file's content until its digest is asked for.

    hashlib's import is 3 ms of the time to load, and the digest 1 ms a megabyte. The content is a copy and
    no memory map: the file may be overwritten meanwhile.
    """

    def __init__(self, content: bytes) -> None:
        """Take the content."""
        self._content: bytes | None = content
        self._digest = ""

    @property
    def digest(self) -> str:
        """The sha256 in hex; the content is let go."""
        content = self._content
        if content is not None:
            import hashlib

            self._digest = hashlib.sha256(content).hexdigest()
            self._content = None  # last, for another thread that asks meanwhile
        return self._digest
