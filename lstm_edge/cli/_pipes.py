"""Read lines and write results through file descriptors, unbuffered, until a signal arrives at any moment.

A signal raises only while the process waits for its input or its output, so that no step is left half done.
"""

import contextlib
import errno
import os
import select
import signal
from collections import deque
from collections.abc import Iterator

from lstm_edge_runtime.errors import InputError

LONGEST = 1 << 20
"""Lines longer than this many bytes are truncated to one byte more, so that memory stays bounded."""
_CHUNK, _PIECE = 1 << 16, 4096
"""Bytes read at once, and written at once: a pipe that is ready takes a piece without blocking."""
_GRACE = 0.5
"""Seconds to wait for the last result to be written after a request to stop."""
_WINDOWS = os.name == "nt"
"""Windows can't wait for a pipe; reads and writes block there."""


class _Stopped(BaseException):
    """A request to stop that came while waiting."""


class Stop:
    """A request to stop; ``give`` is a signal handler."""

    def __init__(self) -> None:
        self.given = False
        self._waiting = False

    def give(self, *_: object) -> None:
        """Request to stop, and end the waiting."""
        self.given = True
        if self._waiting:
            raise _Stopped

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context for a call that waits; raises ``_Stopped`` there after a request to stop."""
        self._waiting = True
        try:
            if self.given:
                raise _Stopped
            yield
        finally:
            self._waiting = False


class LinePipe:
    """Read lines from one descriptor and write results to another."""

    def __init__(self, source: int, sink: int, stop: Stop, frame: int = 0) -> None:
        """Use these descriptors; with ``frame``, read records of that many bytes instead of lines."""
        self._source, self._sink, self._frame, self._stop = source, sink, frame, stop
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    def read(self, timeout: float | None) -> bytes | None:
        """Return the next line; ``b""`` if none arrived within ``timeout`` seconds.

        None at the end of input, and after a request to stop: earlier lines are left unread.

        Raises:
            InputError: the input can't be read.
        """
        try:
            while not self._lines and not self._ended:
                with self._stop.waiting():
                    if not _ready(self._source, timeout):
                        return b""
                    chunk = os.read(self._source, _CHUNK)
                self._take(chunk)
        except _Stopped:
            return None
        except OSError as error:
            raise InputError(f"standard input can't be read: {error.strerror}") from error
        return None if self._stop.given or not self._lines else self._lines.popleft()

    def write(self, data: bytes) -> bool:
        """Write all of ``data``; return False on a broken pipe, or if nobody reads after a request to stop.

        Raises:
            InputError: the output can't be written, such as on a full disk.
        """
        left = memoryview(data)
        try:
            while left:
                if not self._writable():
                    return False
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._sink, left[:_PIECE]) :]
        except OSError as error:
            if isinstance(error, BrokenPipeError) or (_WINDOWS and error.errno == errno.EINVAL):
                return False
            raise InputError(f"standard output can't be written: {error.strerror}") from error
        return True

    def _writable(self) -> bool:
        if _WINDOWS:
            return True
        try:
            with self._stop.waiting():
                return bool(select.select([], [self._sink], [])[1])
        except _Stopped:
            return bool(select.select([], [self._sink], [], _GRACE)[1])

    def _take(self, chunk: bytes) -> None:
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


def _ready(source: int, timeout: float | None) -> bool:
    if _WINDOWS:
        return True
    wait = None if timeout is None or timeout == float("inf") else timeout
    return bool(select.select([source], [], [], wait)[0])


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Yield a request to stop that SIGTERM, SIGINT and Windows' SIGBREAK make; they have no other effect."""
    stop = Stop()
    names = ("SIGTERM", "SIGINT", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, stop.give) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
