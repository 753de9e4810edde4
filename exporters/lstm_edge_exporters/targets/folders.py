"""Write a folder whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lstm_edge_runtime.errors import InputError, LstmEdgeError, NotFoundError


def check_folder(
    target: str | os.PathLike[str], replaced: Callable[[str], bool]
) -> None:
    """Refuse a folder that can't be made, or that has a file whose path ``replaced``
    does not expect.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` is no folder, or contains another file.
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

    It is written beside the target and renamed; an existing one of the same files is
    moved aside before.

    Raises:
        NotFoundError, InputError: as ``check_folder``; or it can't be written (no
            permission, a full disk).
    """
    if outside := [
        name
        for name in contents
        if Path(name).is_absolute() or ".." in Path(name).parts
    ]:
        raise InputError(
            f"{outside[0]!r} is not a file in {target}; expected a relative path"
            " without '..'"
        )
    folder = Path(os.path.realpath(target))
    aside = folder.with_name(f".{folder.name}.old")
    try:
        if aside.is_dir() and not folder.exists():
            aside.rename(folder)
        check_folder(folder, contents.__contains__)
        shutil.rmtree(aside, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"
        ) as room:
            fresh = Path(room) / folder.name
            for name, content in contents.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if folder.exists():
                folder.rename(aside)
            fresh.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except LstmEdgeError:
        raise
    except OSError as error:
        raise InputError(f"{folder} can't be written: {error.strerror}") from error
    return folder
