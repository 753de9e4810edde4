"""Run recurrent ONNX files with numpy and onnxruntime, one sample at a time or for many sources."""

from ._version import __version__
from .errors import LstmEdgeError

__all__ = ["LstmEdgeError", "__version__"]
