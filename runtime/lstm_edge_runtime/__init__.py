"""Run recurrent ONNX files with numpy and onnxruntime, one sample at a time or for many sources."""

from ._loading import load
from ._version import __version__
from .batch import StreamBatch
from .errors import LstmEdgeError
from .model import Model, Prediction
from .state import State
from .stream import Stream

__all__ = ["LstmEdgeError", "Model", "Prediction", "State", "Stream", "StreamBatch", "__version__", "load"]
