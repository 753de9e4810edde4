"""This machine: processor, cores, memory, versions, and the execution providers that really run here."""

import base64
import contextlib
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lstm_edge_runtime import __version__
from lstm_edge_runtime.cpu import describe_cpu, read_cpuinfo
from lstm_edge_runtime.errors import MissingDependencyError, first_line
from lstm_edge_runtime.ort import SessionOptions, import_onnxruntime, open_session, run_by_name

_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
    "neon", "asimd", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Features that onnxruntime's kernels look for, by their names in Linux."""
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe_host() -> dict[str, Any]:
    """Return the result of ``describe_cpu``, and the processor's features, memory and frequency governor.

    Features are empty, memory and governor None if unknown.
    """
    fields = read_cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    memory = governor = None
    with contextlib.suppress(ValueError, OSError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        governor = _GOVERNOR.read_text(encoding="utf-8", errors="replace").strip()
    return {
        **describe_cpu(),
        "system": platform.system(),
        "features": [name for name in _FEATURES if name in flags],
        "logical_cores": os.cpu_count() or 1,
        "memory_bytes": memory,
        "governor": governor,
    }


def describe_software() -> dict[str, str | None]:
    """Return the versions of packages that run a model; None if not installed."""
    onnxruntime = None
    with contextlib.suppress(MissingDependencyError):
        onnxruntime = str(import_onnxruntime().__version__)
    return {
        "lstm-edge": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime,
    }


def onnxruntime_wheels() -> dict[str, str]:
    """Return every installed distribution that brings an ``onnxruntime`` package, with its version."""
    names = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    return {name: metadata.version(name) for name in names}


PROBE = base64.b64decode(
    "CAc6nQEKKAoBeAoBVwoBUhIAEgFoIgRMU1RNKhIKC2hpZGRlbl9zaXplGAGgAQISAXAqHQgBCAQIARABQgFXShAAAAA/AAAAPwAA"
    "AD8AAAA/Kh0IAQgECAEQAUIBUkoQAAAAPwAAAD8AAAA/AAAAP1oXCgF4EhIKEAgBEgwKAggBCgIIAQoCCAFiFwoBaBISChAIARIM"
    "CgIIAQoCCAEKAggBQgQKABAO"
)
"""An ONNX file with one LSTM of one unit, input ``x (1, 1, 1)``, output ``h``, every weight 0.5."""


def try_providers() -> dict[str, str]:
    """Run a small LSTM on every provider that the installed onnxruntime offers.

    Returns:
        By provider the error; empty if it is usable.

    Raises:
        MissingDependencyError: no onnxruntime.
    """
    return {name: _try(name) for name in import_onnxruntime().get_available_providers()}


def _try(name: str) -> str:
    gate = 1 / (1 + math.exp(-0.5))
    expected = gate * math.tanh(gate * math.tanh(0.5))
    try:
        session = open_session(PROBE, SessionOptions(providers=(name,)), cpu_fallback=False)
        found = run_by_name(session, {"x": np.ones((1, 1, 1), np.float32)}, ["h"])["h"].item()
    except Exception as error:  # noqa: BLE001  a provider's own library may raise anything
        return first_line(error)
    return "" if abs(found - expected) <= 1e-3 else f"computes {found:.6g}, expected {expected:.6g}"
