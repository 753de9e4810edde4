"""Turn recurrent PyTorch modules and ONNX files into proven ONNX artefacts."""

from .artefact import Artefact
from .config import ExportConfig
from .pipeline import export
from .quantization import QuantizeConfig, quantize

__all__ = ["Artefact", "ExportConfig", "QuantizeConfig", "export", "quantize"]
