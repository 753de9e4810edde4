"""The files that a verb reads, and a check that none of its outputs replaces one."""

import os
from collections.abc import Sequence
from pathlib import Path

from lstm_edge.data.config import TABLE_SUFFIXES, suffix_of
from lstm_edge.run_files import MODEL, RESUME
from lstm_edge_exporters.modules import is_factory, module_files
from lstm_edge_runtime.errors import InputError


def source_files(source: str) -> list[Path]:
    """Return the files of a source: the file itself, the weights of a run folder, or
    the module of a factory.
    """
    if is_factory(source):
        return module_files(source.partition(":")[0])
    path = Path(source)
    return [path / MODEL, path / RESUME] if path.is_dir() else [path]


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
