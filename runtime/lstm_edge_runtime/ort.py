"""The one place that opens onnxruntime: its options, its workarounds, and what its errors become.

Every session of the three packages is opened here. Sessions are quiet: what onnxruntime would print about a
file or a call it also raises, and what it only prints (a provider that did not start) is checked here.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import (
    ContractError,
    FileFormatError,
    InputError,
    MissingDependencyError,
    ProviderError,
    first_line,
    install_command,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

from .manifest import Array

AUTO_THREADS_BYTES = 8 * 1024 * 1024
"""``threads="auto"`` takes one thread below this size of weights, every physical core from it on."""
MAX_THREADS = 1024
"""More than any machine has use for; onnxruntime would start them all."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_EXACT = {CUDA: {"use_tf32": "0"}}
"""By default float32 is float32: TF32 keeps 10 bits of a factor, past any tolerance for float32."""
_CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
"""Left out: on the CPU, onnxruntime 1.32 ends the process where it meets a float16 product behind an LSTM."""
_SILENT = 4
"""onnxruntime's severity for what ends the process; all below it is not logged."""

Provider = str | tuple[str, Mapping[str, Any]]
"""A provider's name, or its name and options, as onnxruntime takes them."""


class SessionOptions(NamedTuple):
    """Session options."""

    providers: tuple[Provider, ...] = (CPU,)
    threads: int = 1
    """Number of threads per operator (intra-op), including the calling thread."""
    optimization: str = "ALL"
    """The graph optimization level: ``DISABLE_ALL``, ``BASIC``, ``EXTENDED`` or ``ALL``."""


DEFAULT_OPTIONS = SessionOptions()
"""One thread on the CPU."""


def open_session(
    source: str | bytes,
    options: SessionOptions = DEFAULT_OPTIONS,
    *,
    name: str = "the model",
    cpu_fallback: bool = True,
) -> "InferenceSession":
    """Open a session on a path or on a file's bytes.

    Args:
        source: the path, or the content.
        options: session options.
        name: what to call the file in messages where ``source`` is its content.
        cpu_fallback: whether the CPU may take nodes that the given providers do not.

    Raises:
        FileFormatError: onnxruntime can't read the file.
        ProviderError: a provider is not offered by this wheel, or is not in use once the session is open.
        MissingDependencyError: no onnxruntime.
    """
    ort = import_onnxruntime()
    names = [provider if isinstance(provider, str) else provider[0] for provider in options.providers]
    for provider in names:
        if provider not in ort.get_available_providers():
            raise _not_in_use(provider, ort.get_available_providers(), "is not in this wheel")
    providers = [
        (each, _EXACT.get(each, {})) if isinstance(each, str) else (each[0], dict(each[1]))
        for each in options.providers
    ]
    try:
        session = ort.InferenceSession(
            source,
            _settings(ort, options, cpu_fallback),
            providers=providers,
            disabled_optimizers=_CRASHING,
            enable_fallback=0,  # onnxruntime's own prints, and goes on without the provider
        )
    except Exception as error:
        if names != [CPU]:
            open_session(source, options._replace(providers=(CPU,)), name=name)  # raises if the file is bad
            raise _not_in_use(names[0], [CPU], f"did not start ({first_line(error)})") from error
        what = source if isinstance(source, str) else name
        raise FileFormatError(
            f"{what} can't be opened by onnxruntime {ort.__version__}: {first_line(error)}; "
            "export it again, or for a lower opset"
        ) from error
    for provider in names:
        if provider not in session.get_providers():
            raise _not_in_use(provider, session.get_providers(), "did not start")
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # kept for set_providers alone, which nothing here calls
    return session  # type: ignore[no-any-return]


def _settings(ort: Any, options: SessionOptions, cpu_fallback: bool) -> Any:
    """Return ``options`` as onnxruntime's own object."""
    level = (
        "ORT_DISABLE_ALL" if options.optimization == "DISABLE_ALL" else f"ORT_ENABLE_{options.optimization}"
    )
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = False  # a small step is about 1 us quicker without
    settings.enable_mem_pattern = False  # plans that grow with every new chunk length
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)  # numpy 2.2 and older look once, and warn where they find denormals flushed
    for pool in ("intra_op", "inter_op"):  # a spinning thread wastes a core
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    if not cpu_fallback and options.providers != (CPU,):
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return settings


def run_by_name(
    session: "InferenceSession", feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Run once and return the outputs by name: ``outputs``, or all of them.

    onnxruntime's own exceptions pass through; ``run_error`` turns one into ours.
    """
    names = [output.name for output in session.get_outputs()] if outputs is None else list(outputs)
    return dict(zip(names, map(np.asarray, session.run(names, dict(feeds))), strict=True))


def import_onnxruntime() -> Any:
    """Import onnxruntime; its telemetry is off since this package was imported.

    Raises:
        MissingDependencyError: it is not installed, or does not start.
    """
    first = "onnxruntime" not in sys.modules
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  what pip leaves of two wheels is an empty package
        if first:  # what it can't do it raises as well; who imports it first may want its log
            onnxruntime.set_default_logger_severity(_SILENT)
    except Exception as error:  # a broken wheel may raise anything
        install = f"{install_command('cpu')}, or [cuda] for a GPU"
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise MissingDependencyError(f"onnxruntime is missing ({error}); {install}") from error
        raise MissingDependencyError(
            f"onnxruntime does not start ({first_line(error)}); "
            f"pip uninstall onnxruntime onnxruntime-gpu, then {install}"
        ) from error
    return onnxruntime


def resolve_providers(device: str, providers: Sequence[Provider] | None) -> tuple[Provider, ...]:
    """Return the providers that ``device`` or an explicit list asks for.

    Raises:
        InputError: an unknown device, or an empty list.
    """
    if providers is not None:
        if isinstance(providers, str) or not providers:
            raise InputError(f"providers is {providers!r}, expected a list such as ['{CPU}']")
        return tuple(providers)
    if device == "auto":
        return (CUDA, CPU) if CUDA in import_onnxruntime().get_available_providers() else (CPU,)
    return (CPU,) if device == "cpu" else (CUDA, CPU)


def run_error(error: Exception) -> ContractError:
    """Return the exception to raise when onnxruntime rejects a call."""
    return ContractError(f"onnxruntime could not run the file: {first_line(error)}; no state has changed")


def auto_threads(weights: int) -> int:
    """Return the number of threads for ``weights`` bytes: one, or the available physical cores."""
    return _physical_cores() if weights >= AUTO_THREADS_BYTES else 1


def _physical_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    from pathlib import Path

    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii"))
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _not_in_use(name: str, available: Sequence[str], why: str) -> ProviderError:
    install = install_command("cuda" if name == CUDA else "cpu")
    return ProviderError(
        f"{name} {why}; available: {', '.join(available)}; "
        f"{install} instead of the other onnxruntime wheel, and check its drivers"
    )
