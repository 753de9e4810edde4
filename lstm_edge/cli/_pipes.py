"""Lines in and results out through file descriptors, without buffering, ended by a signal at any moment."""

import contextlib
import os
import select
import signal
from collections import deque
from collections.abc import Iterator

from lstm_edge_runtime.errors import InputError

__all__ = ["LONGEST", "LinePipe", "stopped_by_signals"]

LONGEST = 1 << 20
"""A line beyond this many bytes loses its end, so that memory stays bounded; it is still longer than this."""
_CHUNK = 1 << 16
_PATIENCE = 3600.0
"""The longest that one ``select`` waits, in seconds; it takes no number without end."""


class LinePipe:
    """Reads lines from one descriptor and writes results to another; POSIX only."""

    def __init__(self, source: int, sink: int, stop: int, frame: int = 0) -> None:
        """Take descriptors: ``stop`` becomes readable when it is time to end.

        With ``frame``, pieces of so many bytes stand for lines.
        """
        self._frame = frame
        self._source, self._sink, self._stop = source, sink, stop
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    def read(self, timeout: float | None) -> bytes | None:
        """Return the next line; ``b""`` where ``timeout`` seconds, or an hour, passed without one.

        None at the end of input, and as soon as it is time to end: lines that came before are left unread.

        Raises:
            InputError: the input can't be read.
        """
        if self._stopping():
            return None
        if timeout is not None:
            timeout = min(timeout, _PATIENCE)
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
        """Write all of ``data`` at once; False where nobody reads, for good or when it is time to end.

        Raises:
            InputError: it can't be written: a full disk.
        """
        while data:
            _, writable, _ = select.select([self._stop], [self._sink], [])
            if not writable:
                return False
            try:
                data = data[os.write(self._sink, data[: select.PIPE_BUF]) :]
            except BrokenPipeError:
                return False
            except OSError as error:
                raise InputError(f"standard output can't be written: {error.strerror}") from error
        return True

    def _fill(self) -> None:
        try:
            chunk = os.read(self._source, _CHUNK)
        except OSError as error:
            raise InputError(f"standard input can't be read: {error.strerror}") from error
        self._ended = not chunk
        if self._frame:
            whole = self._rest + chunk
            end = len(whole) - len(whole) % self._frame
            self._lines.extend(whole[at : at + self._frame] for at in range(0, end, self._frame))
            self._rest = whole[end:]
            if self._ended and self._rest:
                self._lines.append(self._rest)
            return
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[: LONGEST + 1]
        if self._ended and rest:
            lines.append(self._rest)
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
