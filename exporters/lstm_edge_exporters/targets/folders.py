"""Write a folder whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lstm_edge_runtime.errors import InputError, NotFoundError


def check_folder(
    target: str | os.PathLike[str], replaced: Callable[[str], bool]
) -> None:
    """Refuse a folder that can't be made, or that has a file whose path ``replaced``
    does not expect.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` is not a folder, or contains another file.
    """
    target = Path(os.path.realpath(target))
    if not target.parent.is_dir():
        raise NotFoundError(
            f"{target}: its folder {target.parent} does not exist; create it first"
        )
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is not a folder; use a new or empty folder")
    files = (
        path for path in target.rglob("*") if path.is_symlink() or not path.is_dir()
    )
    names = sorted(path.relative_to(target).as_posix() for path in files)
    strange = next((name for name in names if not replaced(name)), None)
    if strange is not None:
        raise InputError(
            f"{target} contains {strange}, which would be lost; use a new or empty"
            " folder"
        )


def write_folder(target: str | os.PathLike[str], contents: Mapping[str, bytes]) -> Path:
    """Write a folder with ``contents``, each file's content by its path in the folder.

    It is written in a working folder with a random name next to the target, and
    renamed. An existing folder of the same files is moved into the working folder.

    Raises:
        NotFoundError, InputError: as ``check_folder``; or it can't be written (no
            permission, a full disk).
    """
    for name in contents:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{name!r} is not a file in {target}; expected a relative path without"
                " '..'"
            )
    folder = Path(os.path.realpath(target))
    check_folder(folder, contents.__contains__)
    try:
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"
        ) as working:
            new = Path(working) / "new"
            for name, content in contents.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            _swap(new, folder, Path(working) / "old")
    except OSError as error:
        raise InputError(f"{folder} can't be written: {error.strerror}") from error
    return folder


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Rename ``new`` to ``folder``, which becomes ``old`` if it exists."""
    exists = folder.exists()
    if exists:
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if exists:
            old.rename(folder)
        raise
