"""Run recurrent ONNX files with numpy and onnxruntime, one sample at a time or for many
sources.

The names below are imported on first use, so that importing and loading take little
longer than with onnxruntime alone.
"""

import os as _os
import typing as _typing

from .lazy import lazy_names as _lazy_names

__version__ = "0.1.0"
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""onnxruntime reads this when it is imported, and torch.onnx and onnxscript import it
too: it is set before any other module of the three packages runs, unless the
environment says otherwise."""

if _typing.TYPE_CHECKING:
    from .batch import StreamBatch
    from .errors import LstmEdgeError
    from .model import Model, load
    from .results import Prediction
    from .state import State
    from .stream import Stream

__all__ = [
    "LstmEdgeError",
    "Model",
    "Prediction",
    "State",
    "Stream",
    "StreamBatch",
    "__version__",
    "load",
]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "LstmEdgeError": ".errors",
        "State": ".state",
        "Stream": ".stream",
        "StreamBatch": ".batch",
    }
    | {"Model": ".model", "Prediction": ".results", "load": ".model"},
)
