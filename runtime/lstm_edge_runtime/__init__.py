"""Run recurrent ONNX files with numpy and onnxruntime, one sample at a time or for many sources.

The names below are imported on first use, so that importing and loading take little longer than with
onnxruntime alone.
"""

import importlib as _importlib
import os as _os
import typing as _typing

__version__ = "0.2.0"
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""onnxruntime reads this when it is imported, and torch.onnx and onnxscript import it too: it is set before
any other module of the three packages runs, unless the environment says otherwise."""

if _typing.TYPE_CHECKING:
    from .errors import LstmEdgeError
    from .model import Model, load
    from .prediction import Prediction
    from .state import State
    from .stream import Stream
    from .stream_batch import StreamBatch

__all__ = ["LstmEdgeError", "Model", "Prediction", "State", "Stream", "StreamBatch", "__version__", "load"]

_HOMES = {
    "LstmEdgeError": "errors",
    "Model": "model",
    "Prediction": "prediction",
    "State": "state",
    "Stream": "stream",
    "StreamBatch": "stream_batch",
    "load": "model",
}


def __getattr__(name: str) -> object:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
