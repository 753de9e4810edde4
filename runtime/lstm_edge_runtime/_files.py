"""Writing files so that no half-written one is ever seen."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError, NotFoundError

__all__ = ["check_target", "replacing", "write_bytes"]


def check_target(target: str | os.PathLike[str]) -> None:
    """Refuse early what ``replacing`` would refuse after the work.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` is a folder.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise NotFoundError(f"{target}: its folder {target.parent} does not exist; make it first")
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file in it")


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` and rename it there if the block succeeds.

    An exception (a full disk and Ctrl-C included) removes the temporary file and leaves the old target.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` can't be written (a folder, no permission, a full disk).
    """
    target = Path(target)
    check_target(target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: str | os.PathLike[str], content: bytes) -> None:
    """Put ``content`` in ``target`` whole or not at all; raises as ``replacing`` does."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)
