"""``lstm-edge doctor``: check this machine and installation."""

import platform
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
from ._output import Report

_EXTRAS = {
    "export": (
        "for train, export, lift, validate and quantize",
        ("torch", "onnx", "onnxscript"),
    ),
    "native": ("for several times faster steps", ("lstm_edge_native",)),
    "report": ("for pages and plots: train, validate --html", ("jinja2", "matplotlib")),
    "parquet": ("for score, and for tables in Parquet", ("duckdb", "pyarrow")),
}
"""Purpose and packages of each extra."""


@verb("doctor")
def command() -> Report:
    """Check this machine: versions, execution providers, instruction set, and missing
    packages.

    Missing packages are listed with the command to install them. The exit code is 1 if
    no model can run.
    """
    from lstm_edge_exporters.cpu import describe_cpu

    cpu = describe_cpu()
    engines = {
        "onnxruntime": _onnxruntime(),
        "native engine": _native(),
    }
    facts = {
        "lstm-edge": (__version__, ""),
        "python": (platform.python_version(), ""),
        "processor": (
            f"{cpu['processor']} ({cpu['machine']}), {cpu['cores']} cores available",
            "",
        ),
    } | engines
    rows = [
        {"about": about, "found": text, "advice": advice}
        for about, (text, advice) in facts.items()
    ]
    for extra, (purpose, packages) in _EXTRAS.items():
        missing = ", ".join(name for name in packages if find_spec(name) is None)
        versions = (
            ""
            if missing
            else ", ".join(f"{name} {metadata.version(name)}" for name in packages)
        )
        advice = f"{purpose}: {install_command(extra)}" if missing else ""
        rows.append(
            {
                "about": extra,
                "found": versions or f"missing: {missing}",
                "advice": advice,
            }
        )
    failed = f"no model can run on this machine; {install_command('cpu')} in a new venv"
    works = any(not advice for _, advice in engines.values())
    return Report(
        rows, "lstm-edge doctor", error=None if works else CheckFailedError(failed)
    )


def _onnxruntime() -> tuple[str, str]:
    """Return version and providers, and what to do if it does not work."""
    from lstm_edge_runtime.ort import import_onnxruntime

    wheels = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    try:
        module = import_onnxruntime()
    except LstmEdgeError as error:
        problem, _, advice = str(error).partition("; ")
        return problem, advice
    twice = (
        f"they overwrite each other: pip uninstall {' '.join(wheels)}, then install one"
    )
    providers = ", ".join(module.get_available_providers())
    return f"{' and '.join(wheels)} {module.__version__}: {providers}", (
        twice if len(wheels) > 1 else ""
    )


def _native() -> tuple[str, str]:
    """Return the version and instruction set of the C library, and what to do if it
    does not work.
    """
    from lstm_edge_runtime.native import library

    try:
        opened = library()
        isa = opened.lstm_edge_isa()
    except LstmEdgeError as error:
        return first_line(error), install_command("native")
    advice = (
        ""
        if isa
        else "unset LSTM_EDGE_ISA: this machine does not have that instruction set"
    )
    return (
        (
            f"{opened.lstm_edge_version().decode()},"
            f" {isa.decode() if isa else 'no instruction set'}"
        ),
        advice,
    )
