"""Turn recurrent PyTorch modules and ONNX files into proven ONNX artefacts."""

from .export.artefact import Artefact
from .export.config import ExportConfig
from .export.pipeline import export
from .quantization import QuantizeConfig, quantize

__all__ = ["Artefact", "ExportConfig", "QuantizeConfig", "export", "quantize"]
