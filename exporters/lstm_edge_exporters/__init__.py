"""Turn recurrent PyTorch modules and ONNX files into proven ONNX artefacts."""

__all__: list[str] = []
