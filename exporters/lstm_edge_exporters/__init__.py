"""Turn recurrent PyTorch modules and ONNX files into verified ONNX artifacts."""

from .export.artifact import Artifact
from .export.config import ExportConfig
from .export.pipeline import export
from .quantization import QuantizeConfig, quantize

__all__ = ["Artefact", "Artifact", "ExportConfig", "QuantizeConfig", "export", "quantize"]

Artefact = Artifact
"""The name that ``Artifact`` had at first; code that imports it keeps working."""
