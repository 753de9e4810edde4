"""``lstm-edge doctor``: check this machine and installation."""

import base64
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

import numpy as np

from lstm_edge_runtime import __version__
from lstm_edge_runtime.errors import CheckFailedError, LstmEdgeError, first_line, install_command

from ._extras import extra_modules
from ._options import verb
from ._output import Report

_EXTRAS = {
    "export": "for train, export, lift, validate and quantize",
    "native": "for several times faster steps",
    "report": "for pages and plots: train, validate --html",
}
"""Extras and their purposes."""
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROBE = base64.b64decode(
    "CAc6nQEKKAoBeAoBVwoBUhIAEgFoIgRMU1RNKhIKC2hpZGRlbl9zaXplGAGgAQISAXAqHQgBCAQIARABQgFXShAAAAA/AAAAPwAA"
    "AD8AAAA/Kh0IAQgECAEQAUIBUkoQAAAAPwAAAD8AAAA/AAAAP1oXCgF4EhIKEAgBEgwKAggBCgIIAQoCCAFiFwoBaBISChAIARIM"
    "CgIIAQoCCAEKAggBQgQKABAO"
)
"""An ONNX file with one LSTM of one unit, input ``x (1, 1, 1)``, output ``h``, every weight 0.5."""


@dataclass(frozen=True)
class _Finding:
    about: str
    found: str
    ok: bool = True
    advice: str = ""


@verb("doctor")
def command() -> Report:
    """Check this machine: versions, working execution providers, processor, settings.

    Every execution provider of onnxruntime is tested with a small LSTM. Missing packages are listed with
    the command to install them. The exit code is 1 if no model can run.

    \b
    Example:
      lstm-edge doctor
    """  # noqa: D301
    findings = list(_examine())
    error = None
    if not any(finding.about in (_CPU, "native engine") and finding.ok for finding in findings):
        error = CheckFailedError(f"no model can run on this machine; {install_command('cpu')} in a new venv")
    return Report(findings, "lstm-edge doctor", error=error)


def _examine() -> Iterator[_Finding]:
    from lstm_edge_exporters.cpu import describe_cpu

    yield _Finding("lstm-edge", __version__)
    yield _Finding("python", platform.python_version())
    yield _Finding("numpy", np.__version__)
    yield from _onnxruntime()
    cpu = describe_cpu()
    yield _Finding("processor", f"{cpu['processor']} ({cpu['machine']})")
    yield _Finding("cores", f"{cpu['cores']} of {os.cpu_count() or 1} available to this process")
    telemetry = os.environ.get("ORT_DISABLE_TELEMETRY", "")
    advice = f"ORT_DISABLE_TELEMETRY is {telemetry!r}: unset it, lstm-edge sets it to 1"
    off, item = telemetry == "1", "telemetry of onnxruntime"
    yield _Finding(item, "off" if off else "may be on", advice="" if off else advice)
    yield from _native()
    yield from _packages()


def _onnxruntime() -> Iterator[_Finding]:
    wheels, advice = onnxruntime_wheels(), ""
    if not wheels:
        advice = f"{install_command('cpu')}, or [cuda] for an NVIDIA GPU"
    elif len(wheels) > 1:
        advice = f"they overwrite each other: pip uninstall {' '.join(wheels)}, then install one"
    found = ", ".join(f"{name} {version}" for name, version in wheels.items()) or "none"
    yield _Finding("onnxruntime wheel", found, ok=not advice, advice=advice)
    if not wheels:
        return
    try:
        providers = try_providers()
    except LstmEdgeError as error:
        found, _, advice = str(error).partition("; ")
        yield _Finding("onnxruntime", found, ok=False, advice=advice)
        return
    for name, why in providers.items():
        if not why:
            yield _Finding(name, "usable")
        elif name in (_CPU, _CUDA):
            advice = "check its driver and libraries if you want to use it"
            yield _Finding(name, f"not usable: {why}", ok=False, advice=advice)
        else:
            yield _Finding(name, "included in the wheel, not usable on this machine; not needed")


def onnxruntime_wheels() -> dict[str, str]:
    """Return every installed distribution that brings an ``onnxruntime`` package, with its version."""
    names = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    return {name: metadata.version(name) for name in names}


def try_providers() -> dict[str, str]:
    """Run a small LSTM on every provider that the installed onnxruntime offers.

    Returns:
        The error of each provider by its name; empty if it is usable.

    Raises:
        MissingDependencyError: no onnxruntime.
    """
    from lstm_edge_runtime.ort import import_onnxruntime

    return {name: _try(name) for name in import_onnxruntime().get_available_providers()}


def _try(name: str) -> str:
    from lstm_edge_runtime.ort import open_session, run_by_name

    gate = 1 / (1 + math.exp(-0.5))
    expected = gate * math.tanh(gate * math.tanh(0.5))
    try:
        session = open_session(PROBE, (name,), cpu_fallback=False)
        h = run_by_name(session, {"x": np.ones((1, 1, 1), np.float32)}, ["h"])["h"].item()
    except Exception as error:  # noqa: BLE001  a provider's own library may raise anything
        return first_line(error)
    return "" if abs(h - expected) <= 1e-3 else f"computes {h:.6g}, expected {expected:.6g}"


def _native() -> Iterator[_Finding]:
    from lstm_edge_runtime.native import installed, library

    if not installed():
        return
    try:
        opened = library()
    except LstmEdgeError as error:
        yield _Finding("native engine", str(error), ok=False, advice="rebuild it: make native")
        return
    isa = opened.lstm_edge_isa()
    found = f"{opened.lstm_edge_version().decode()}, {isa.decode() if isa else 'no instruction set'}"
    advice = "" if isa else "LSTM_EDGE_ISA is an instruction set that this machine does not have; unset it"
    yield _Finding("native engine", found, ok=isa is not None, advice=advice)


def _packages() -> Iterator[_Finding]:
    for extra, purpose in _EXTRAS.items():
        known = extra_modules(extra)
        missing = [name for name in known if find_spec(name) is None]
        if not known:
            advice = f"reinstall lstm-edge: {install_command(extra)}"
            yield _Finding(f"{extra} extra", "not known to this installation", advice=advice)
        elif missing:
            advice = f"{purpose}: {install_command(extra)}"
            yield _Finding(f"{extra} extra", f"{', '.join(missing)} not installed", advice=advice)
        else:
            versions = (f"{name} {metadata.version(name)}" for name in known)
            yield _Finding(f"{extra} extra", ", ".join(versions))
