"""int8 and fp16 files that are smaller, and verified to compute nearly what the float file does."""

from ..numerics.samples import Samples
from .config import Budget, QuantizeConfig
from .quantize import Quantized, quantize

__all__ = ["Budget", "QuantizeConfig", "Quantized", "Samples", "quantize"]
