"""Names of modules that make a network, ``package.module:factory``, and their files."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path


def is_factory(source: str) -> bool:
    """Return True if ``source`` is ``package.module:factory``, rather than a path."""
    module, mark, name = source.partition(":")
    dotted = all(word.isidentifier() for word in module.split("."))
    return bool(mark) and dotted and name.isidentifier() and not Path(source).exists()


def module_without_factory(source: str) -> str:
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
