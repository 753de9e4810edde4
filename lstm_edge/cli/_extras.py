"""Extras of the installed distribution, and an error that names the missing one."""

import contextlib
import logging
import re
from collections.abc import Iterator
from importlib import metadata

from lstm_edge_runtime.errors import MissingDependencyError, install_command

_REQUIREMENT = re.compile(r"([\w.-]+).*;\s*extra\s*==\s*['\"]([\w-]+)['\"]")


def extra_modules(extra: str) -> tuple[str, ...]:
    """Return the modules that ``pip install "lstm-edge[extra]"`` adds, by their import names.

    Empty if the installation does not know the extra: it is older than the code, or there is none.
    """
    try:
        required = metadata.requires("lstm-edge") or ()
    except metadata.PackageNotFoundError:
        return ()
    found = map(_REQUIREMENT.match, required)
    return tuple(match[1].replace("-", "_").lower() for match in found if match and match[2] == extra)


@contextlib.contextmanager
def needing(extra: str, verb: str) -> Iterator[None]:
    """Context for a verb, or one of its options, that needs an extra.

    Raises:
        MissingDependencyError: names the package that is missing and the extra that installs it.
    """
    if extra == "export":  # torch.onnx logs a line for every torchvision operator that it does not use
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if (
            not extra or not package or package.startswith("lstm_edge")
        ):  # an installed one that fails to import
            raise
        raise MissingDependencyError(
            f"lstm-edge {verb} needs {package}, which is not installed; {install_command(extra)}"
        ) from error
