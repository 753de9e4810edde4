"""Compile an ONNX file to a native program."""

from .convert import to_native

__all__ = ["to_native"]
