"""Providers, threads and engines: every way this machine can run the file."""

from collections.abc import Iterator

from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError, first_line
from lstm_edge_runtime.native.library import installed
from lstm_edge_runtime.ort import CPU, import_onnxruntime

from ..report import Check
from ..subject import Subject

__all__ = ["TITLE", "check"]

_OFFSET = 7000
TITLE = "Providers and threads"
_REMOTE = ("AzureExecutionProvider",)
"""Providers that call a service instead of running here."""
_THREADS = (1, 2)
_SIZES = ((1, 1), (3, 20), (8, 64))


def check(subject: Subject) -> Iterator[Check]:
    """Compare on each provider that really starts, with one and two threads, and on the native engine."""
    for provider in import_onnxruntime().get_available_providers():
        if provider in _REMOTE:
            continue
        chain = (provider,) if provider == CPU else (provider, CPU)
        for threads in _THREADS:
            name = f"{provider}, {threads} thread{'s' if threads > 1 else ''}"
            try:
                run = subject.file.runner(threads, chain)
            except LstmEdgeError as error:
                yield Check(name, "skipped", f"not usable here: {first_line(error)}")
                continue
            for place, (n, length) in enumerate(_SIZES):
                feeds = subject.draw(n, length, _OFFSET + place)
                yield subject.check(f"{name}, N={n}, L={length}", feeds, run=run)
    engine = subject.config.engine
    if engine != "onnxruntime" and (installed() or engine == "native"):
        yield from _native(subject, required=engine == "native")


def _native(subject: Subject, *, required: bool) -> Iterator[Check]:
    try:
        run = subject.file.native_runner()
    except UnsupportedError as error:
        yield Check("native engine", "failed" if required else "skipped", f"not covered: {first_line(error)}")
        return
    except LstmEdgeError as error:
        yield Check("native engine", "failed", first_line(error))
        return
    for place, (n, length) in enumerate(_SIZES):
        feeds = subject.draw(n, length, _OFFSET + place)
        yield subject.check(f"native engine, N={n}, L={length}", feeds, run=run)
