"""int8 and fp16 files that are smaller, and proven to compute nearly what the float file does."""

from ._config import Budget, QuantizeConfig, Samples
from ._quantize import Quantized, quantize

__all__ = ["Budget", "QuantizeConfig", "Quantized", "Samples", "quantize"]
