"""Say which extra a verb needs, in place of a traceback."""

import contextlib
import logging
from collections.abc import Iterator

from lstm_edge.extras import extra_modules
from lstm_edge_runtime.errors import MissingDependencyError, install_command

__all__ = ["needing_c", "needing_export", "needing_report"]


@contextlib.contextmanager
def needing_export(verb: str) -> Iterator[None]:
    """Import what a verb needs of torch and onnx inside this.

    Raises:
        MissingDependencyError: names the package that is missing and the extra that installs it.
    """
    with _needing(verb, "export"):
        yield
        # torch.onnx logs a line for every torchvision operator that it has no use for.
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


def needing_report(option: str) -> contextlib.AbstractContextManager[None]:
    """Import what an option needs of matplotlib and jinja2 inside this; raises as ``needing_export``."""
    return _needing(option, "report")


def needing_c(verb: str) -> contextlib.AbstractContextManager[None]:
    """Import what a verb needs of the generator of C inside this; raises as ``needing_export``."""
    return _needing(verb, "c")


@contextlib.contextmanager
def _needing(what: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in extra_modules(extra):
            raise
        raise MissingDependencyError(
            f"lstm-edge {what} needs {package}, which is not installed; {install_command(extra)}"
        ) from error
