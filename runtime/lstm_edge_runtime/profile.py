"""A profile: session options that were measured to serve a goal best, for one model on one kind of machine.

``lstm-edge tune`` writes it as a small JSON file; ``load(path, profile=...)`` uses it where its key matches.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import FileFormatError, NotFoundError
from .files import write_bytes
from .json_reader import malformed_as, read_json
from .ort import SessionOptions, import_onnxruntime

__all__ = ["Profile", "host_key", "read_cpuinfo"]

_FORMAT, _SCHEMA = "lstm-edge profile", 1
_FLAGS = ("spinning", "arena", "memory_pattern")
_LEVELS = ("DISABLE_ALL", "BASIC", "EXTENDED", "ALL")


@dataclass(frozen=True)
class Profile:
    """Session options and the key that says where they were measured."""

    model_sha256: str
    """Of the model file."""
    options: SessionOptions
    onnxruntime: str = field(default_factory=lambda: str(import_onnxruntime().__version__))
    host: Mapping[str, Any] = field(default_factory=lambda: host_key())
    engine: str = "onnxruntime"
    """What takes the steps: ``onnxruntime`` or ``native``."""
    goal: str = ""
    """What the options serve: ``latency``, ``p99``, ``throughput`` or ``energy``."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, for people."""

    def mismatch(self, model_sha256: str) -> str:
        """Return why the profile does not hold for a model on this machine; empty where it does."""
        if self.model_sha256 != model_sha256:
            return f"it is for the model {self.model_sha256[:12]}, this one is {model_sha256[:12]}"
        version = str(import_onnxruntime().__version__)
        if self.onnxruntime != version:
            return f"it was measured with onnxruntime {self.onnxruntime}, this one is {version}"
        here = host_key()
        if dict(self.host) != here:
            there = ", ".join(map(str, self.host.values()))
            return f"it was measured on {there}; this machine is {', '.join(map(str, here.values()))}"
        return ""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile, whole or not at all.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the file can't be written.
        """
        document = {
            "format": _FORMAT,
            "schema": _SCHEMA,
            "key": {
                "model_sha256": self.model_sha256,
                "onnxruntime": self.onnxruntime,
                "host": dict(self.host),
            },
            "options": self.options._asdict(),
            "engine": self.engine,
            "goal": self.goal,
            "measured": dict(self.measured),
        }
        write_bytes(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Profile":
        """Read what ``save`` wrote.

        Raises:
            NotFoundError: no such file.
            FileFormatError: not a profile, or of a newer schema.
        """
        if not Path(path).is_file():
            raise NotFoundError(f"{path} is not there; make it with lstm-edge tune")
        with malformed_as(FileFormatError, f"{path} is not a profile", "make it with lstm-edge tune"):
            return _decode(read_json(Path(path).read_bytes()))


def host_key() -> dict[str, Any]:
    """Return what timings depend on: the architecture, the processor, the cores open to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"machine": platform.machine(), "processor": _processor(), "cores": cores}


def read_cpuinfo() -> dict[str, str]:
    """Return the fields of Linux's ``/proc/cpuinfo``, of its last processor; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _processor() -> str:
    fields = read_cpuinfo()
    arm = " ".join(fields[key] for key in ("CPU implementer", "CPU part") if key in fields)
    return fields.get("model name") or fields.get("Model") or arm or platform.processor() or "unknown"


def _decode(raw: Mapping[str, Any]) -> Profile:
    if raw["format"] != _FORMAT or raw["schema"] != _SCHEMA:
        raise ValueError(f"format {raw['format']!r} {raw['schema']!r}")
    key = raw["key"]
    return Profile(
        model_sha256=str(key["model_sha256"]),
        options=_options(raw["options"], most_threads=int(key["host"]["cores"])),
        onnxruntime=str(key["onnxruntime"]),
        host=dict(key["host"]),
        engine=_engine(raw.get("engine", "onnxruntime")),
        goal=str(raw["goal"]),
        measured=dict(raw["measured"]),
    )


def _engine(name: Any) -> str:
    if name not in ("onnxruntime", "native"):
        raise ValueError(f"engine {name!r}")
    return str(name)


def _options(raw: Mapping[str, Any], most_threads: int) -> SessionOptions:
    threads, level = raw["threads"], raw["optimization"]
    if type(threads) is not int or not 1 <= threads <= most_threads or level not in _LEVELS:
        raise ValueError(f"threads {threads!r}, optimization {level!r}")
    if not raw["providers"] or not all(isinstance(raw[name], bool) for name in _FLAGS):
        raise ValueError(f"providers {raw['providers']!r}, or one of {', '.join(_FLAGS)} is not a bool")
    return SessionOptions(
        providers=tuple(
            name if isinstance(name, str) else (str(name[0]), dict(name[1])) for name in raw["providers"]
        ),
        threads=threads,
        optimization=level,
        **{name: raw[name] for name in _FLAGS},
    )
