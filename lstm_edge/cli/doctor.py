"""``lstm-edge doctor``: check this machine and installation."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import click

from lstm_edge_runtime.errors import CheckFailedError, MissingDependencyError, install_command

from ._extras import extra_modules
from ._options import json_option
from ._output import echo_json, print_table

_EXTRAS = {
    "export": "for train, export, lift, validate and quantize",
    "native": "for several times faster steps",
    "report": "for pages and plots: validate --html, bench --html, train",
}
"""Extras and their purposes."""
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_INT8_FEATURES = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class _Finding:
    about: str
    found: str
    ok: bool = True
    advice: str = ""


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Check this machine: versions, working execution providers, processor, settings.

    Every execution provider of onnxruntime is tested with a small LSTM. Missing packages are listed with
    the command to install them. The exit code is 1 if no model can run.

    \b
    Example:
      lstm-edge doctor
    """  # noqa: D301
    findings = list(_examine())
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        rows = (("ok" if each.ok else "!", each.about, each.found, each.advice) for each in findings)
        print_table("lstm-edge doctor", ["", "item", "found", "advice"], rows)
    if not any(finding.about == _CPU and finding.ok for finding in findings):
        raise CheckFailedError(f"no model can run on this machine; {install_command('cpu')} in a new venv")


def _examine() -> Iterator[_Finding]:
    from lstm_edge.host import describe_host, describe_software

    for name, version in describe_software().items():
        if name != "onnxruntime":
            yield _Finding(name, version or "")
    yield from _onnxruntime()
    host = describe_host()
    yield _Finding("processor", f"{host['processor']} ({host['machine']})")
    fast = sorted(_INT8_FEATURES & set(host["features"]))
    yield _Finding(
        "features",
        " ".join(host["features"]) or "unknown",
        advice="" if fast else "no int8 dot products: int8 may not be faster; measure with lstm-edge bench",
    )
    yield _Finding("cores", f"{host['cores']} of {host['logical_cores']} available to this process")
    if host["governor"] not in (None, "performance"):
        yield _Finding("frequency governor", host["governor"], advice="for steady timings: performance")
    yield from _settings()
    yield from _native()
    yield from _packages()


def _onnxruntime() -> Iterator[_Finding]:
    from lstm_edge.host import onnxruntime_wheels, try_providers

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
    except MissingDependencyError as error:
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
    if Path("/proc/driver/nvidia/version").exists() and _CUDA not in providers:
        advice = f"pip uninstall {' '.join(wheels)}, then {install_command('cuda')}"
        yield _Finding("NVIDIA GPU", f"present, but this wheel has no {_CUDA}", ok=False, advice=advice)


def _settings() -> Iterator[_Finding]:
    telemetry, advice = os.environ.get("ORT_DISABLE_TELEMETRY", ""), ""
    if telemetry != "1":
        advice = f"ORT_DISABLE_TELEMETRY is {telemetry!r}: unset it, lstm-edge sets it to 1"
    yield _Finding("telemetry of onnxruntime", "may be on" if advice else "off", advice=advice)
    for name in _THREAD_VARIABLES:
        if name in os.environ:
            yield _Finding(name, os.environ[name], advice="onnxruntime uses threads= instead; unset it")


def _native() -> Iterator[_Finding]:
    from lstm_edge_runtime.errors import LstmEdgeError
    from lstm_edge_runtime.native.library import installed, library

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
        for name in known:
            if name not in missing:
                version = "of unknown version"
                with contextlib.suppress(metadata.PackageNotFoundError):
                    version = metadata.version(name.replace("_", "-"))
                yield _Finding(name, version)
        if missing:
            advice = f"{purpose}: {install_command(extra)}"
            yield _Finding(f"{extra} extra", f"{', '.join(missing)} not installed", advice=advice)
