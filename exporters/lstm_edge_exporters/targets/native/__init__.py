"""Compile an ONNX file to a native program."""

from typing import TYPE_CHECKING

from lstm_edge_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .convert import to_native

__all__ = ["to_native"]

__getattr__, __dir__ = lazy_names(__name__, {"to_native": ".convert"})
"""Training imports ``blocks`` without the compiler."""
