"""Engines in processes of their own: other onnxruntimes, and the native engine's instruction sets."""

import os
import platform
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proof.engine_worker import pack, unpack

__all__ = ["INSTRUCTION_SETS", "Engine", "EngineError", "open_engines"]

INSTRUCTION_SETS = {
    "x86_64": ("avx512vnni", "avx512", "avx2", "sse2"),
    "aarch64": ("neon-dotprod", "neon"),
}.get(platform.machine(), ("generic",))
"""The kernels of the native engine on this machine's architecture."""


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
            [python, str(Path(__file__).with_name("engine_worker.py")), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    def run(self, content: bytes, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the outputs of each call of a file.

        Raises:
            EngineError: the engine doesn't run it.
        """
        arrays = {"model": np.frombuffer(content, np.uint8)}
        for place, feeds in enumerate(calls):
            arrays |= {f"{place}/{name}": array for name, array in feeds.items()}
        request = pack(arrays)
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        target.write(struct.pack("<Q", len(request)) + request)
        target.flush()
        header = source.read(8)
        if not header:
            raise EngineError("EOFError", f"{self.name} ended with {self._process.wait()}")
        reply = unpack(source.read(struct.unpack("<Q", header)[0]))
        if "why" in reply:
            raise EngineError(str(reply["kind"]), str(reply["why"]))
        found: list[dict[str, Any]] = [{} for _ in calls]
        for key, array in reply.items():
            place, _, name = key.partition("/")
            found[int(place)][name] = array
        return found

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
