"""Read lines and write results through file descriptors, unbuffered, until a signal arrives at any moment.

One thread reads and another writes, so that neither an idle input nor a full output blocks the main thread
from ending. Windows can't wait for a pipe with ``select``.
"""

import contextlib
import errno
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

from lstm_edge_runtime.errors import InputError

_T = TypeVar("_T")
LONGEST = 1 << 20
"""Lines longer than this many bytes are truncated to one byte more, so that memory stays bounded."""
_CHUNK = 1 << 16
_AHEAD = 2
"""Number of chunks read ahead."""
_PATIENCE = 0.2 if os.name == "nt" else 3600.0
"""Longest wait in seconds; on Windows a signal is only noticed after it."""
_GRACE = 0.5
"""Seconds to wait for the last result to be written after a request to stop."""
_RETRY = 0.01
"""Seconds between attempts on a non-blocking descriptor."""


class Stop:
    """A request to stop that wakes waiting threads; ``give`` may be called from a signal handler."""

    def __init__(self) -> None:
        self.given = False
        self._woken: list[SimpleQueue[None]] = []

    def wake(self, *queues: "SimpleQueue[None]") -> None:
        """Put None into these queues on a request to stop."""
        self._woken += queues

    def give(self, *_: object) -> None:
        """Request to stop."""
        self.given = True
        for queue in self._woken:
            queue.put(None)


class LinePipe:
    """Read lines from one descriptor and write results to another."""

    def __init__(self, source: int, sink: int, stop: Stop, frame: int = 0) -> None:
        """Use these descriptors; with ``frame``, read records of that many bytes instead of lines."""
        self._frame, self._stop = frame, stop
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False
        self._room = threading.Semaphore(_AHEAD)
        self._chunks: SimpleQueue[bytes | OSError | None] = SimpleQueue()
        self._results: SimpleQueue[bytes] = SimpleQueue()
        self._written: SimpleQueue[OSError | bool | None] = SimpleQueue()
        stop.wake(self._chunks, self._written)  # type: ignore[arg-type]  # their values include None
        self._reader = threading.Thread(target=self._read_on, args=(source,), daemon=True)
        threading.Thread(target=self._write_on, args=(sink,), daemon=True).start()

    def read(self, timeout: float | None) -> bytes | None:
        """Return the next line; ``b""`` if none arrived within ``timeout`` seconds, or an hour.

        None at the end of input, and after a request to stop: earlier lines are left unread.

        Raises:
            InputError: the input can't be read.
        """
        if self._reader.ident is None:
            self._reader.start()
        while not self._stop.given and not self._lines:
            if self._ended:
                return None
            try:
                chunk = self._chunks.get(timeout=_PATIENCE if timeout is None else min(timeout, _PATIENCE))
            except Empty:
                return b""
            if isinstance(chunk, OSError):
                raise InputError(f"standard input can't be read: {chunk.strerror}") from chunk
            if chunk is not None:
                self._room.release()
                self._take(chunk)
        return None if self._stop.given else self._lines.popleft()

    def write(self, data: bytes) -> bool:
        """Write all of ``data``; return False on a broken pipe, or if nobody reads after a request to stop.

        Raises:
            InputError: the output can't be written, such as on a full disk.
        """
        self._results.put(data)
        while True:
            try:
                written = self._written.get(timeout=_GRACE if self._stop.given else _PATIENCE)
            except Empty:
                if self._stop.given:
                    return False
                continue
            if isinstance(written, OSError):
                raise InputError(f"standard output can't be written: {written.strerror}") from written
            if written is not None:
                return written

    def _read_on(self, source: int) -> None:
        chunk = b"more"
        while chunk:
            self._room.acquire()
            try:
                chunk = _until_done(lambda: os.read(source, _CHUNK))
            except OSError as error:
                self._chunks.put(error)
                return
            self._chunks.put(chunk)

    def _write_on(self, sink: int) -> None:
        while True:
            data = memoryview(self._results.get())
            try:
                while data:
                    data = data[_until_done(lambda: os.write(sink, data)) :]  # noqa: B023  called at once
            except OSError as error:
                gone = isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)
                self._written.put(False if gone else error)
                return
            self._written.put(True)

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


def _until_done(call: Callable[[], _T]) -> _T:
    """Call until a non-blocking descriptor is ready."""
    while True:
        try:
            return call()
        except BlockingIOError:  # noqa: PERF203
            time.sleep(_RETRY)


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
