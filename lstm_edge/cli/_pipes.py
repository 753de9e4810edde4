"""Lines in and results out through file descriptors, without buffering, ended by a signal at any moment.

A thread reads and another writes, so that neither a quiet input nor a full output keeps the main thread from
ending. Windows can't wait for a pipe with ``select``.
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

__all__ = ["LONGEST", "LinePipe", "Stop", "stopped_by_signals"]

_T = TypeVar("_T")
LONGEST = 1 << 20
"""A line beyond this many bytes loses its end, so that memory stays bounded; it is still longer than this."""
_CHUNK = 1 << 16
_AHEAD = 2
"""Chunks that are read before they are asked for."""
_PATIENCE = 0.2 if os.name == "nt" else 3600.0
"""The longest wait in seconds; on Windows a signal is seen only after it."""
_GRACE = 0.5
"""Seconds that an output gets for the last result when it is time to end."""
_RETRY = 0.01
"""Seconds between tries of a descriptor that does not block."""


class Stop:
    """The wish to end; it wakes who waits. ``give`` may be called from a signal handler or any thread."""

    def __init__(self) -> None:
        self.given = False
        self._woken: list[SimpleQueue[None]] = []

    def wake(self, *queues: "SimpleQueue[None]") -> None:
        """Put None into these queues when it is time to end."""
        self._woken += queues

    def give(self, *_: object) -> None:
        """Say that it is time to end."""
        self.given = True
        for queue in self._woken:
            queue.put(None)


class LinePipe:
    """Reads lines from one descriptor and writes results to another."""

    def __init__(self, source: int, sink: int, stop: Stop, frame: int = 0) -> None:
        """Take descriptors; with ``frame``, pieces of so many bytes stand for lines."""
        self._frame, self._stop = frame, stop
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False
        self._room = threading.Semaphore(_AHEAD)
        self._chunks: SimpleQueue[bytes | OSError | None] = SimpleQueue()
        self._results: SimpleQueue[bytes] = SimpleQueue()
        self._written: SimpleQueue[OSError | bool | None] = SimpleQueue()
        stop.wake(self._chunks, self._written)  # type: ignore[arg-type]  # None is among what they hold
        self._reader = threading.Thread(target=self._read_on, args=(source,), daemon=True)
        threading.Thread(target=self._write_on, args=(sink,), daemon=True).start()

    def read(self, timeout: float | None) -> bytes | None:
        """Return the next line; ``b""`` where ``timeout`` seconds, or an hour, passed without one.

        None at the end of input, and as soon as it is time to end: lines that came before are left unread.

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
        """Write all of ``data`` at once; False where nobody reads, for good or when it is time to end.

        Raises:
            InputError: it can't be written: a full disk.
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
    """Call until a descriptor that does not block takes it."""
    while True:
        try:
            return call()
        except BlockingIOError:  # noqa: PERF203
            time.sleep(_RETRY)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Yield a wish to end that SIGTERM, SIGINT and Windows' SIGBREAK give; they do nothing else meanwhile."""
    stop = Stop()
    names = ("SIGTERM", "SIGINT", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, stop.give) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
