"""The extras of the installed distribution, and which one a verb needs, in place of a traceback."""

import contextlib
import logging
import re
from collections.abc import Iterator
from importlib import metadata

from lstm_edge_runtime.errors import MissingDependencyError, install_command

__all__ = ["extra_modules", "needing_c", "needing_export", "needing_parquet", "needing_report"]

_REQUIREMENT = re.compile(r"([\w.-]+).*;\s*extra\s*==\s*['\"]([\w-]+)['\"]")


def extra_modules(extra: str) -> tuple[str, ...]:
    """Return the modules that ``pip install "lstm-edge[extra]"`` adds, by their import names.

    None where the installation does not know the extra: it is older than the code, or there is none.
    """
    try:
        required = metadata.requires("lstm-edge") or ()
    except metadata.PackageNotFoundError:
        return ()
    found = map(_REQUIREMENT.match, required)
    return tuple(match[1].replace("-", "_").lower() for match in found if match and match[2] == extra)


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


def needing_parquet(verb: str) -> contextlib.AbstractContextManager[None]:
    """Import what a verb needs of pyarrow inside this; raises as ``needing_export``."""
    return _needing(verb, "parquet")


@contextlib.contextmanager
def _needing(what: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package.startswith("lstm_edge"):  # ours, or one that is there and does not start
            raise
        raise MissingDependencyError(
            f"lstm-edge {what} needs {package}, which is not installed; {install_command(extra)}"
        ) from error
