"""Which versions made or checked a file, and what the oldest onnxruntime that is
supported reads.
"""

from importlib import import_module

OLDEST_ONNXRUNTIME = "1.18"
"""The oldest onnxruntime that runs the files."""
OPSET = 18
"""The ONNX opset of files; 18 is read by onnxruntime 1.14 (February 2023) and later."""
LATEST_OPSET = 21
"""The latest ONNX opset that onnxruntime 1.18, built with onnx 1.16, reads."""
IR_VERSION = 8
"""The ONNX IR version of files; 8 is read by onnxruntime 1.14 and later."""
LATEST_IR_VERSION = 10
"""The latest ONNX IR version that onnxruntime 1.18 reads."""
MAKERS = ("lstm-edge", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")
"""Packages that take part in an export."""

_MODULES = {"lstm-edge": "lstm_edge_runtime", "onnx-ir": "onnx_ir"}


def versions(*packages: str) -> dict[str, str]:
    """Return each package's version as its module states it, whichever wheel that came
    from.

    The distribution's name would not do: onnxruntime-gpu brings the module onnxruntime.
    """
    return {
        name: str(import_module(_MODULES.get(name, name)).__version__)
        for name in packages
    }
