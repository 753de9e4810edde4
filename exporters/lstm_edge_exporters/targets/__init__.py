"""Formats other than ONNX that a file is converted to, one module or package each."""
