"""Lines in and results out through file descriptors, without buffering, ended by a signal at any moment."""

import contextlib
import os
import select
import signal
from collections import deque
from collections.abc import Iterator

__all__ = ["LinePipe", "stopped_by_signals"]

_CHUNK = 1 << 16
_LONGEST = 1 << 20
"""A line beyond this many bytes is handed on in pieces, so that memory stays bounded."""


class LinePipe:
    """Reads lines from one descriptor and writes results to another; POSIX only."""

    def __init__(self, source: int, sink: int, stop: int) -> None:
        """Take descriptors: ``stop`` becomes readable when it is time to end."""
        self._source, self._sink, self._stop = source, sink, stop
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    def read(self, timeout: float | None) -> bytes | None:
        """Give the next line; ``b""`` where ``timeout`` seconds passed without one.

        None at the end of input, and as soon as it is time to end: lines that came before are left unread.
        """
        if self._stopping():
            return None
        while not self._lines:
            if self._ended:
                return None
            ready, _, _ = select.select([self._source, self._stop], [], [], timeout)
            if self._stop in ready:
                return None
            if not ready:
                return b""
            self._fill()
        return self._lines.popleft()

    def write(self, data: bytes) -> bool:
        """Write all of ``data`` at once; False where it is time to end or nobody reads any more."""
        while data:
            ready, writable, _ = select.select([self._stop], [self._sink], [])
            if ready:
                return False
            if writable:
                try:
                    data = data[os.write(self._sink, data[: select.PIPE_BUF]) :]
                except BrokenPipeError:
                    return False
        return True

    def _fill(self) -> None:
        chunk = os.read(self._source, _CHUNK)
        self._ended = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST or (self._ended and self._rest):
            lines.append(self._rest)
            self._rest = b""
        self._lines.extend(line + b"\n" for line in lines)

    def _stopping(self) -> bool:
        return bool(select.select([self._stop], [], [], 0)[0])


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[int]:
    """Yield a descriptor that becomes readable on SIGTERM or SIGINT, which do nothing else meanwhile."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)

    def tell(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writable, b"!")

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield readable
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
