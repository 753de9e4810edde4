"""The files that a verb reads, and a check that none of its outputs replaces one."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from lstm_edge.data.config import TABLE_SUFFIXES, suffix_of
from lstm_edge.run_files import MODEL, RESUME
from lstm_edge_runtime.errors import InputError


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
    is_module = not path.exists() and not is_factory(source) and _module_files(source)
    return source if is_module else ""


def source_files(source: str) -> list[Path]:
    """Return the files of a source: the file itself, the weights of a run folder, or
    the module of a factory.
    """
    if is_factory(source):
        return _module_files(source.partition(":")[0])
    path = Path(source)
    return [path / MODEL, path / RESUME] if path.is_dir() else [path]


def _module_files(module: str) -> list[Path]:
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


def refuse_replacing(
    outputs: Sequence[tuple[str, Path]], sources: Sequence[Path]
) -> None:
    """Refuse an output, given with its option, that is a file of ``sources``, would be
    data in one of their folders, or is given twice.

    Raises:
        InputError: the first such output.
    """
    written: set[str] = set()
    for option, output in outputs:
        for source in sources:
            if output.exists() and source.exists() and output.samefile(source):
                raise InputError(
                    f"{output} is read by this command and would be replaced; use"
                    f" another name for {option}"
                )
            is_inside = source.is_dir() and _is_inside(output, source)
            if is_inside and suffix_of(output) in TABLE_SUFFIXES:
                raise InputError(
                    f"{output} would be one of the data files in {source}; use"
                    f" another folder for {option}"
                )
        path = os.path.realpath(output)
        if path in written:
            raise InputError(f"{output} would be written twice; use another name")
        written.add(path)


def _is_inside(path: Path, folder: Path) -> bool:
    """Return True if a path is in a folder or in a folder of it, links followed."""
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
