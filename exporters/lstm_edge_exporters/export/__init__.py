"""From a PyTorch module to an ONNX file: record, trace, lower, lift states, finalize, verify."""
