"""int8 and fp16 files that are smaller, and verified to compute nearly what the float file does.

The names below are imported when they are first used: most need onnx.
"""

import typing as _typing

from lstm_edge_runtime.lazy import lazy_names as _lazy_names

if _typing.TYPE_CHECKING:
    from ..verify.samples import Samples
    from .config import Budget, QuantizeConfig
    from .pipeline import Quantized, quantize

__all__ = ["Budget", "QuantizeConfig", "Quantized", "Samples", "quantize"]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "Budget": ".config",
        "QuantizeConfig": ".config",
        "Quantized": ".pipeline",
        "Samples": "..verify.samples",
        "quantize": ".pipeline",
    },
)
