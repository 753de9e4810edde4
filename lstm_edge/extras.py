"""The optional dependencies of the installed distribution, from its own metadata."""

import re
from importlib import metadata
from importlib.util import find_spec

__all__ = ["extra_modules", "missing_modules"]

_REQUIREMENT = re.compile(r"([\w.-]+).*;\s*extra\s*==\s*['\"]([\w-]+)['\"]")


def extra_modules(extra: str) -> tuple[str, ...]:
    """Return the modules that ``pip install "lstm-edge[extra]"`` adds, by their import names."""
    found = (_REQUIREMENT.match(each) for each in metadata.requires("lstm-edge") or ())
    return tuple(match[1].replace("-", "_").lower() for match in found if match and match[2] == extra)


def missing_modules(extra: str) -> tuple[str, ...]:
    """Return those modules of an extra that are not installed."""
    return tuple(name for name in extra_modules(extra) if find_spec(name) is None)
