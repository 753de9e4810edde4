"""Turn recurrent PyTorch modules and ONNX files into verified ONNX artifacts.

Importing this needs neither torch nor onnx: what does is imported when it is first
used.
"""

import typing as _typing

from lstm_edge_runtime.lazy import (
    lazy_names as _lazy_names,
)  # first: it switches telemetry off

from .export import export
from .quantize import quantize

if _typing.TYPE_CHECKING:
    from .export.config import ExportConfig
    from .export.pipeline import Artifact
    from .quantize.config import QuantizeConfig

__all__ = ["Artifact", "ExportConfig", "QuantizeConfig", "export", "quantize"]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "Artifact": ".export.pipeline",
        "ExportConfig": ".export.config",
        "QuantizeConfig": ".quantize.config",
    },
)
