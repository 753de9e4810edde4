"""Public names of a package that are imported on first use (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package, whose names live in
    ``.module[:OTHER]``.
    """

    def find(name: str) -> object:
        """Import a public name; this is the package's ``__getattr__``."""
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, other = homes[name].partition(":")
        value: object = getattr(import_module(module, package), other or name)
        return value

    def names() -> list[str]:
        """Return all names of the package; this is its ``__dir__``."""
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
