"""int8 and fp16 files that are smaller, and verified to compute nearly what the float file does.

The names below are imported when they are first used: most need onnx.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from ..numerics.samples import Samples
    from .config import Budget, QuantizeConfig
    from .pipeline import Quantized, quantize

__all__ = ["Budget", "QuantizeConfig", "Quantized", "Samples", "quantize"]

_HOMES = {
    "Budget": ".config",
    "QuantizeConfig": ".config",
    "Quantized": ".pipeline",
    "Samples": "..numerics.samples",
    "quantize": ".pipeline",
}


def __getattr__(name: str) -> object:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_importlib.import_module(_HOMES[name], __name__), name)
    return value
