"""Turn recurrent PyTorch modules and ONNX files into verified ONNX artifacts.

Importing this needs neither torch nor onnx: what does is imported when it is first
used.
"""

import typing as _typing

from lstm_edge_runtime.lazy import (
    lazy_names as _lazy_names,
)  # first: it switches telemetry off

from .export import export
from .lift import lift
from .quantize import quantize
from .validate import validate

if _typing.TYPE_CHECKING:
    from .artifact import Artifact
    from .export.config import ExportConfig
    from .lift.config import LiftConfig
    from .quantize.config import QuantizeConfig
    from .validate.config import ValidateConfig

__all__ = [
    "Artifact",
    "ExportConfig",
    "LiftConfig",
    "QuantizeConfig",
    "ValidateConfig",
    "export",
    "lift",
    "quantize",
    "validate",
]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "Artifact": ".artifact",
        "ExportConfig": ".export.config",
        "LiftConfig": ".lift.config",
        "QuantizeConfig": ".quantize.config",
        "ValidateConfig": ".validate.config",
    },
)
