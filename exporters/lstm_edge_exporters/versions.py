"""Which versions made or checked a file."""

from importlib import import_module

__all__ = ["versions"]

_MODULES = {"lstm-edge": "lstm_edge_runtime", "onnx-ir": "onnx_ir"}


def versions(*packages: str) -> dict[str, str]:
    """Return each package's version as its module states it, whichever wheel that came from.

    The distribution's name would not do: onnxruntime-gpu brings the module onnxruntime.
    """
    return {name: str(import_module(_MODULES.get(name, name)).__version__) for name in packages}
