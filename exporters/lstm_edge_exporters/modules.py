"""Names of modules that make a network, ``package.module:factory``, and their files."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

from lstm_edge_runtime.errors import InputError


def is_factory(source: str) -> bool:
    """Return True if ``source`` is ``package.module:factory``, rather than a path."""
    module, mark, name = source.partition(":")
    dotted = all(word.isidentifier() for word in module.split("."))
    return bool(mark) and dotted and name.isidentifier() and not Path(source).exists()


def _module_without_factory(source: str) -> str:
    """Return the module that a source without a factory names, as ``nets`` or
    ``nets.py``; empty if it names none.
    """
    path = Path(source)
    if not path.exists():
        source = source.removesuffix(":")
    if path.suffix == ".py" and path.is_file():
        return source.removesuffix(".py").replace("/", ".")
    is_module = not path.exists() and not is_factory(source) and module_files(source)
    return source if is_module else ""


def refuse_module(source: str) -> None:
    """Raise InputError for a module without a factory."""
    if module := _module_without_factory(source):
        raise InputError(
            f"{source} is a Python module; name the function or class in it that gives"
            f" the network: {module}:NAME"
        )


def check_factory(source: str) -> None:
    """Raise InputError unless ``source`` is ``package.module:factory``."""
    refuse_module(source)
    if not is_factory(source):
        raise InputError(
            f"{source} is not package.module:factory; name a function or class that"
            " gives the network, such as network:build"
        )
    module, _, name = source.partition(":")
    if module.endswith(".py"):
        raise InputError(
            f"{source}: a module is named without .py; use"
            f" {module.removesuffix('.py')}:{name}"
        )


def module_files(module: str) -> list[Path]:
    """Return the file of a module, which is found without an import; empty without
    one.
    """
    folders = [str(Path.cwd()), *sys.path]
    files: list[Path] = []
    for name in module.split("."):
        spec = PathFinder.find_spec(name, folders)
        if spec is None:
            return []
        folders = list(spec.submodule_search_locations or ())
        files = [Path(spec.origin)] if spec.origin else []
    return files
