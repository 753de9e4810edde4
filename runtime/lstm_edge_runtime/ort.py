"""Opening an onnxruntime session so that it does what was asked, and nothing beside it."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import ContractError, FileFormatError, InputError, MissingDependencyError, ProviderError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = [
    "AUTO_THREADS_BYTES",
    "CPU",
    "CUDA",
    "Provider",
    "SessionOptions",
    "auto_threads",
    "import_onnxruntime",
    "open_session",
    "run_failed",
    "wanted_providers",
]

AUTO_THREADS_BYTES = 8 * 1024 * 1024
"""``threads="auto"`` takes one thread below this size of weights, every physical core from it on."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_EXACT = {CUDA: {"use_tf32": "0"}}
"""By default float32 is float32: TF32 keeps 10 bits of a factor, past any tolerance for float32."""
_CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
"""Left out: on the CPU, onnxruntime 1.32 ends the process where it meets a float16 product behind an LSTM."""

Provider = str | tuple[str, Mapping[str, Any]]
"""A provider's name, or its name and options, as onnxruntime takes them."""


class SessionOptions(NamedTuple):
    """Everything that is told to onnxruntime when a session opens."""

    providers: tuple[Provider, ...] = (CPU,)
    threads: int = 1
    """Threads that share one operator's work (intra-op), the calling thread among them."""
    spinning: bool = False
    """Whether idle threads spin; faster for one busy stream, a wasted core for all else."""
    arena: bool = False
    """Whether CPU memory comes from onnxruntime's arena; a small step is about 1 us quicker without."""
    memory_pattern: bool = False
    """Whether plans of memory are kept per input shape; they grow with every new chunk length."""
    optimization: str = "ALL"
    """The graph optimization level: ``DISABLE_ALL``, ``BASIC``, ``EXTENDED`` or ``ALL``."""


def open_session(source: str | bytes, options: SessionOptions) -> "InferenceSession":
    """Open a session on a path or on a file's bytes.

    Raises:
        FileFormatError: onnxruntime can't read the file.
        ProviderError: a provider is not offered by this wheel, or is not in use once the session is open.
        MissingDependencyError: no onnxruntime.
    """
    ort = import_onnxruntime()
    names = [provider if isinstance(provider, str) else provider[0] for provider in options.providers]
    for name in names:
        if name not in ort.get_available_providers():
            raise ProviderError(_not_in_use(name, ort.get_available_providers(), "is not in this wheel"))
    level = (
        "ORT_DISABLE_ALL" if options.optimization == "DISABLE_ALL" else f"ORT_ENABLE_{options.optimization}"
    )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = options.arena
    settings.enable_mem_pattern = options.memory_pattern
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)  # numpy 2.2 and older look once, and warn where they find denormals flushed
    for pool in ("intra_op", "inter_op"):
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(options.spinning)))
    providers = [
        (name, _EXACT.get(name, {})) if isinstance(name, str) else (name[0], dict(name[1]))
        for name in options.providers
    ]
    try:
        session = ort.InferenceSession(source, settings, providers=providers, disabled_optimizers=_CRASHING)
    except Exception as error:
        what = source if isinstance(source, str) else "the model"
        raise FileFormatError(
            f"{what} can't be opened by onnxruntime {ort.__version__}: {_first_line(error)}; "
            "export it again, or for a lower opset"
        ) from error
    for name in names:
        if name not in session.get_providers():
            raise ProviderError(_not_in_use(name, session.get_providers(), "did not start"))
    return session  # type: ignore[no-any-return]


def import_onnxruntime() -> Any:
    """Import onnxruntime, with its telemetry off unless the environment already says otherwise.

    Raises:
        MissingDependencyError: it is not installed, or does not start.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  what pip leaves of two wheels is an empty package
    except Exception as error:  # a broken wheel may raise anything
        install = 'pip install "lstm-edge[cpu]", or "lstm-edge[cuda]" for a GPU'
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise MissingDependencyError(f"onnxruntime is missing ({error}); {install}") from error
        raise MissingDependencyError(
            f"onnxruntime does not start ({_first_line(error)}); "
            f"pip uninstall onnxruntime onnxruntime-gpu, then {install}"
        ) from error
    return onnxruntime


def wanted_providers(device: str, providers: Sequence[Provider] | None) -> tuple[Provider, ...]:
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
    if device not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected 'auto', 'cpu' or 'cuda'; or give providers=")
    return (CPU,) if device == "cpu" else (CUDA, CPU)


def run_failed(error: Exception) -> ContractError:
    """Return the error for a call that onnxruntime refused."""
    return ContractError(f"onnxruntime could not run the file: {_first_line(error)}; no state has changed")


def auto_threads(weights: int) -> int:
    """Return the thread count for ``weights`` bytes: one, or the physical cores open to this process."""
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


def _not_in_use(name: str, offered: Sequence[str], why: str) -> str:
    wheel = "lstm-edge[cuda]" if name == CUDA else "lstm-edge[cpu]"
    hint = f'pip install "{wheel}" in place of the other onnxruntime wheel, and check its drivers'
    return f"{name} {why}; available: {', '.join(offered)}; {hint}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
