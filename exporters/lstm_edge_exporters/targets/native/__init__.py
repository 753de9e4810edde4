"""Program files (``.lep``) for the C library of ``lstm-edge-native``, compiled from ONNX graphs."""

from .convert import to_native, uncovered

__all__ = ["to_native", "uncovered"]
