"""Saying which extra a verb needs, in place of a traceback."""

import contextlib
import logging
from collections.abc import Iterator

from lstm_edge_runtime.errors import MissingDependencyError

__all__ = ["needing_export"]

_EXPORT = {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "jinja2"}


@contextlib.contextmanager
def needing_export(verb: str) -> Iterator[None]:
    """Import what a verb needs of torch and onnx inside this.

    Raises:
        MissingDependencyError: names the package that is missing and the extra that installs it.
    """
    try:
        yield
        # torch.onnx logs a line for every torchvision operator that it has no use for.
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXPORT:
            raise
        raise MissingDependencyError(
            f'lstm-edge {verb} needs {package}, which is not installed; pip install "lstm-edge[export]"'
        ) from error
