"""Engines in processes of their own: other onnxruntimes, and the native engine's instruction sets.

The process runs this file: a request on its standard input holds a file and calls, the result on its standard
output has the outputs of each, or why there are none. It needs numpy and onnxruntime of any version, or the
native engine and ``lstm_edge_runtime``.
"""

import io
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

__all__ = ["INSTRUCTION_SETS", "Engine", "EngineError", "open_engines"]

INSTRUCTION_SETS = {
    "x86_64": ("avx512vnni", "avx512", "avx2", "sse2"),
    "aarch64": ("neon-dotprod", "neon"),
}.get(platform.machine(), ("generic",))
"""The kernels of the native engine on this machine's architecture."""
Arrays = Mapping[str, Any]
Run = Callable[[Arrays], Arrays]


class EngineError(Exception):
    """An engine gave no outputs."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        """The name of its own error's class."""


class Engine:
    """One engine in a process of its own."""

    def __init__(self, name: str, python: str, kind: str, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            name: in tables.
            python: the interpreter.
            kind: ``onnxruntime`` or ``native``.
            environment: variables to set.
        """
        self.name = name
        self._process = subprocess.Popen(
            [python, __file__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    def run(self, content: bytes, calls: Sequence[Arrays]) -> list[Arrays]:
        """Return the outputs of each call of a file.

        Raises:
            EngineError: the engine doesn't run it.
        """
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        _send(target, _flat(calls) | {"model": np.frombuffer(content, np.uint8)})
        reply = _receive(source)
        if reply is None:
            raise EngineError("EOFError", f"{self.name} ended with {self._process.wait()}")
        if "why" in reply:
            raise EngineError(str(reply["kind"]), str(reply["why"]))
        return _nested(reply)

    def close(self) -> None:
        """End it."""
        self._process.communicate()  # which closes its pipes


def open_engines(pythons: Sequence[str]) -> list[Engine]:
    """Start onnxruntime of each interpreter and of this one, and the native engine for each set."""
    found = []
    for python in (*pythons, sys.executable):
        ask = [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"]
        version = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
        found.append(Engine(f"onnxruntime {version}", python, "onnxruntime", {}))
    for name in INSTRUCTION_SETS:
        found.append(Engine(f"native, {name}", sys.executable, "native", {"LSTM_EDGE_ISA": name}))
    return found


def _flat(calls: Sequence[Arrays]) -> dict[str, Any]:
    return {f"{place}/{name}": each for place, call in enumerate(calls) for name, each in call.items()}


def _nested(arrays: Arrays) -> list[Arrays]:
    """Return the calls that ``_flat`` took."""
    calls: list[dict[str, Any]] = []
    for key, array in arrays.items():
        place, _, name = key.partition("/")
        calls += [{} for _ in range(int(place) + 1 - len(calls))]
        calls[int(place)][name] = array
    return list(calls)


def _send(target: BinaryIO, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)
    target.write(struct.pack("<Q", len(content.getvalue())) + content.getvalue())
    target.flush()


def _receive(source: BinaryIO) -> dict[str, Any] | None:
    """Return the arrays that were sent; None at the end."""
    if not (header := source.read(8)):
        return None
    with np.load(io.BytesIO(source.read(struct.unpack("<Q", header)[0]))) as arrays:
        return dict(arrays)


def _open_onnxruntime(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def _open_native(content: bytes) -> Run:
    """Open a file in the native engine; the instruction set comes from the environment."""
    from lstm_edge_exporters.targets.native import to_native
    from lstm_edge_runtime import load
    from lstm_edge_runtime.model import runner

    return runner(load(to_native(content)))


def _serve(open_file: Callable[[bytes], Run]) -> None:
    """Answer until standard input ends."""
    while (request := _receive(sys.stdin.buffer)) is not None:
        try:
            run = open_file(request.pop("model").tobytes())
            reply = _flat([run(feeds) for feeds in _nested(request)])
        except Exception as error:  # noqa: BLE001  sent to the one that asked
            reply = {"kind": np.array(type(error).__name__), "why": np.array(str(error)[:500])}
        _send(sys.stdout.buffer, reply)


if __name__ == "__main__":
    _serve(_open_native if sys.argv[1] == "native" else _open_onnxruntime)
