"""``lstm-edge doctor``: check this machine and installation."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from lstm_edge_runtime import __version__
from lstm_edge_runtime.errors import (
    CheckFailedError,
    LstmEdgeError,
    first_line,
    install_command,
)

from ._options import verb
from ._output import Output

_EXTRAS = {
    "export": (
        "for train, export, lift, validate and quantize",
        ("torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "jinja2"),
    ),
    "native": ("for several times faster steps", ("lstm_edge_native",)),
    "report": ("for pages and plots: train, validate --html", ("jinja2", "matplotlib")),
    "parquet": ("for score, and for tables in Parquet", ("duckdb", "pyarrow")),
    "spark": ("for score --spark", ("pyspark",)),
}
"""Purpose and packages of each extra."""


@dataclass(frozen=True)
class _Finding:
    """A row of the report."""

    about: str
    """What was looked for."""
    found: str
    """Its version and facts, or the problem."""
    advice: str = ""
    """What to do; empty if nothing."""
    works: bool = True
    """False if it can't be used."""


@verb("doctor")
def command() -> Output:
    """Check this machine: versions, execution providers, instruction set, and missing
    packages.

    Missing packages are listed with the command to install them. The exit code is 1 if
    no model can run.

    \b
    Example:
      lstm-edge doctor
    """  # noqa: D301
    engines = [_onnxruntime(), _native()]
    findings = [
        _Finding("lstm-edge", __version__),
        _Finding("python", platform.python_version()),
        _Finding("processor", _processor()),
        *engines,
        *(_extra(name, *entry) for name, entry in _EXTRAS.items()),
    ]
    rows = [
        {"about": item.about, "found": item.found, "advice": item.advice}
        for item in findings
    ]
    error = None
    if not any(engine.works for engine in engines):
        error = CheckFailedError(
            f"no model can run on this machine; {install_command('cpu')} in a new venv"
        )
    return Output(rows, title="lstm-edge doctor", error=error)


def _processor() -> str:
    """Describe the processor and its available cores."""
    from lstm_edge_exporters.cpu import describe_cpu

    cpu = describe_cpu()
    return f"{cpu['processor']} ({cpu['machine']}), {cpu['cores']} cores available"


def _extra(name: str, purpose: str, packages: Sequence[str]) -> _Finding:
    """Return the versions of an extra's packages, or the missing ones."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        advice = f"{purpose}: {install_command(name)}"
        return _Finding(name, f"missing: {', '.join(missing)}", advice)
    versions = [f"{package} {metadata.version(package)}" for package in packages]
    return _Finding(name, ", ".join(versions))


def _onnxruntime() -> _Finding:
    """Return version and providers, and what to do if it does not work."""
    from lstm_edge_runtime.ort import import_onnxruntime

    about = "onnxruntime"
    wheels = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    try:
        module = import_onnxruntime()
    except LstmEdgeError as error:
        return _Finding(about, first_line(error), install_command("cpu"), works=False)
    providers = ", ".join(module.get_available_providers())
    installed = f"{' and '.join(wheels)} {module.__version__}: {providers}"
    if len(wheels) > 1:
        names = " ".join(wheels)
        advice = f"they overwrite each other: pip uninstall {names}, then install one"
        return _Finding(about, installed, advice)
    return _Finding(about, installed)


def _native() -> _Finding:
    """Return the version and instruction set of the C library, and what to do if it
    does not work.
    """
    from lstm_edge_runtime.native import library

    about = "native engine"
    try:
        opened = library()
        isa = opened.lstm_edge_isa()
    except LstmEdgeError as error:
        return _Finding(
            about, first_line(error), install_command("native"), works=False
        )
    version = opened.lstm_edge_version().decode()
    if not isa:
        return _Finding(
            about,
            f"{version}, no instruction set",
            "unset LSTM_EDGE_ISA: this machine does not have that instruction set",
            works=False,
        )
    return _Finding(about, f"{version}, {isa.decode()}")
