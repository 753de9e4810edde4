"""onnxruntime in a separate process, which a foreign file may end, fill or block.

``isolated()`` starts one child and keeps it for the next; inside, ``open_isolated`` opens its sessions there.
Messages are a line of JSON and the arrays' bytes: nothing that a file computes is unpickled.
"""

import contextlib
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from lstm_edge_runtime import errors
from lstm_edge_runtime.errors import FileFormatError, LstmEdgeError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.ort import (
    CPU,
    import_onnxruntime,
    open_session,
    run_by_name,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_SECONDS = 600
"""Longest time that opening a file, or one call, may take."""
_START = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"
_HEADER = struct.Struct("<I")


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Let ``open_isolated`` open its sessions in another process, one for each thread.

    Raises:
        FileFormatError: onnxruntime ended there, whatever else came of it.
    """
    if _CURRENT.get() is not None:
        yield
        return
    child = _child_of(os.getpid(), threading.get_ident())
    child.ended = ""
    token = _CURRENT.set(child)
    try:
        yield
    except Exception as error:
        if child.ended:
            raise FileFormatError(child.ended) from error
        raise
    finally:
        _CURRENT.reset(token)
    if child.ended:
        raise FileFormatError(child.ended)


def open_isolated(
    source: str | bytes, providers: Sequence[str] = (CPU,), threads: int = 1, name: str = "the model"
) -> "InferenceSession":
    """Open a session as ``open_session`` does; in another process inside of ``isolated()``.

    Raises:
        FileFormatError: onnxruntime can't read the file, or ended.
        ProviderError, MissingDependencyError: as ``open_session``.
    """
    child = _CURRENT.get()
    if child is None:
        return open_session(source, providers, threads, name=name)
    return cast("InferenceSession", _Session(child, source, (providers, threads), name))


class _Entry(NamedTuple):
    name: str
    type: str
    shape: list[int | str | None]


class _Session:
    """The part of an ``InferenceSession`` that is used, of a session in another process."""

    def __init__(self, child: "_Child", source: str | bytes, options: Any, name: str) -> None:
        self._child, self._name = child, name if isinstance(source, bytes) else source
        content = [np.frombuffer(source, np.uint8)] if isinstance(source, bytes) else []
        path = None if isinstance(source, bytes) else str(Path(source).absolute())
        self._number = next(child.numbers)
        asked = {"open": path, "options": options, "name": name}
        told, _ = child.ask(asked | {"number": self._number}, content, f"it opened {self._name}")
        self._process = child.process
        self._sides = [[_Entry(*entry) for entry in side] for side in told["sides"]]
        weakref.finalize(self, child.forgotten.append, self._number).atexit = False

    def get_inputs(self) -> list[_Entry]:
        return self._sides[0]

    def get_outputs(self) -> list[_Entry]:
        return self._sides[1]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        if self._process is not self._child.process:
            raise FileFormatError(
                f"onnxruntime ended on another file while {self._name} was open; open it again"
            )
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        asked = {"number": self._number, "outputs": list(outputs), "inputs": list(arrays)}
        return self._child.ask(asked, list(arrays.values()), f"it ran {self._name} on {shapes}")[1]


class _Child:
    """A process that opens and runs files; started when it is first asked, and again after its end."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = ""
        """How it ended; nothing is asked any more then."""
        self.numbers = itertools.count()
        """Of sessions."""
        self.forgotten: list[int] = []
        """Sessions that nobody has any more."""

    def ask(
        self, message: dict[str, Any], arrays: Sequence[Array], doing: str
    ) -> tuple[dict[str, Any], list[Array]]:
        """Send a message and return the answer.

        Raises:
            FileFormatError: the process ended; ``doing`` is what it did.
            LstmEdgeError, RuntimeError: what was raised there.
        """
        if self.ended:
            raise FileFormatError(self.ended)
        process = self.process = self.process or self.start()
        forgotten, self.forgotten[:] = self.forgotten[:], []
        limit = threading.Timer(_SECONDS, process.kill)
        limit.start()
        try:
            _send(process.stdin, message | {"close": forgotten}, arrays)
            told, found = _receive(process.stdout)
        except (OSError, EOFError):
            how = f"did not come back within {_SECONDS} s" if limit.finished.is_set() else ""
            how = how or f"ended ({_end_of(process.wait())})"
            self.process, self.ended = None, f"onnxruntime {how} while {doing}; it would end any process so"
            _stop(process, os.getpid())
            raise FileFormatError(self.ended) from None
        finally:
            limit.cancel()
        if "error" in told:
            kind = getattr(errors, told["error"], RuntimeError)
            raise (kind if issubclass(kind, LstmEdgeError) else RuntimeError)(told["text"])
        return told, found

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the process and return it."""
        code = _START.format(path=sys.path, module=__name__)
        process = subprocess.Popen(  # noqa: S603  our own interpreter and program
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        weakref.finalize(self, _stop, process, os.getpid())
        self.forgotten = []
        return process


_CURRENT: ContextVar[_Child | None] = ContextVar("_CURRENT", default=None)


@cache
def _child_of(process: int, thread: int) -> _Child:  # noqa: ARG001  a fork has one of its own
    return _Child()


def _stop(process: "subprocess.Popen[bytes]", owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def _end_of(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def serve() -> None:
    """Answer a parent's messages until its end."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    _limit_memory()
    with contextlib.suppress(errors.MissingDependencyError):  # which opening a file will say
        import_onnxruntime()
    sessions: dict[int, InferenceSession] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            message, arrays = _receive(asked)
            for number in message["close"]:
                sessions.pop(number, None)
            found: list[Array] = []
            try:
                told, found = _answer(message, arrays, sessions)
            except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
                told = {"error": type(error).__name__, "text": str(error)}
            _send(answers, told, found)


def _answer(
    message: Mapping[str, Any], arrays: Sequence[Array], sessions: "dict[int, InferenceSession]"
) -> tuple[dict[str, Any], list[Array]]:
    number = message["number"]
    if "open" not in message:
        feeds = dict(zip(message["inputs"], arrays, strict=True))
        outputs = list(run_by_name(sessions[number], feeds, message["outputs"]).values())
        if any(array.dtype.hasobject for array in outputs):
            raise TypeError("an output contains text; only numbers can be compared")
        return {}, outputs
    source = message["open"] if message["open"] is not None else arrays[0].tobytes()
    session = sessions[number] = open_session(source, *message["options"], name=message["name"])
    sides = [
        [(entry.name, entry.type, entry.shape) for entry in side]
        for side in (session.get_inputs(), session.get_outputs())
    ]
    return {"sides": sides}, []


def _limit_memory() -> None:
    """Let a file allocate what the machine has, so that asking for more is an error and not its end."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # no such thing on Windows
        import resource

        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _send(pipe: IO[bytes] | None, message: Mapping[str, Any], arrays: Sequence[Array]) -> None:
    assert pipe is not None
    kinds = [(array.dtype.str, array.shape) for array in arrays]
    text = json.dumps({**message, "arrays": kinds}).encode()
    pipe.write(_HEADER.pack(len(text)) + text)
    for array in arrays:
        pipe.write(array.tobytes())
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> tuple[dict[str, Any], list[Array]]:
    assert pipe is not None
    message = json.loads(_read(pipe, *_HEADER.unpack(_read(pipe, _HEADER.size))))
    arrays = []
    for kind, shape in message.pop("arrays"):
        size = np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(_read(pipe, size), kind).reshape(shape))
    return message, arrays


def _read(pipe: IO[bytes], size: int) -> bytearray:
    content = bytearray(pipe.read(size))
    if len(content) < size:
        raise EOFError
    return content
