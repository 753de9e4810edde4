"""Turn recurrent PyTorch modules and ONNX files into verified ONNX artifacts.

Importing this needs neither torch nor onnx: what does is imported when it is first used.
"""

import importlib as _importlib
import typing as _typing

import lstm_edge_runtime as _lstm_edge_runtime  # noqa: F401  first: it switches onnxruntime's telemetry off

from .export import export

if _typing.TYPE_CHECKING:
    from .export.artifact import Artifact
    from .export.artifact import Artifact as Artefact
    from .export.config import ExportConfig
    from .quantization.config import QuantizeConfig
    from .quantization.pipeline import quantize

__all__ = ["Artefact", "Artifact", "ExportConfig", "QuantizeConfig", "export", "quantize"]

_HOMES = {
    "Artefact": ("export.artifact", "Artifact"),  # the name that Artifact had at first
    "Artifact": ("export.artifact", "Artifact"),
    "ExportConfig": ("export.config", "ExportConfig"),
    "QuantizeConfig": ("quantization.config", "QuantizeConfig"),
    "quantize": ("quantization.pipeline", "quantize"),
}


def __getattr__(name: str) -> object:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _HOMES[name]
    value: object = getattr(_importlib.import_module(f".{home}", __name__), attribute)
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
