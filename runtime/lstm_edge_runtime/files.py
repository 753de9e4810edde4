"""Writing files so that no half-written one is ever seen, and reading arrays from any, damaged or not."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FileFormatError, InputError, LstmEdgeError, NotFoundError, first_line

__all__ = ["check_target", "read_arrays", "replacing", "write_bytes"]


def check_target(target: str | os.PathLike[str]) -> None:
    """Refuse early what ``replacing`` would refuse after the work.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` is a folder, a device or the like.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise NotFoundError(f"{target}: its folder {target.parent} does not exist; make it first")
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise InputError(f"{target} is no plain file and would be replaced; name another")


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` and rename it there if the block succeeds.

    An exception (a full disk and Ctrl-C included) removes the temporary file and leaves the old target.
    A link stays one: the file that it leads to is replaced.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` can't be written (a folder, a device, no permission, a full disk).
    """
    check_target(target)
    target = Path(os.path.realpath(target))  # pathlib's own raises on links in a ring
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.touch(exist_ok=False)  # with the rights of any new file, which tempfile's have not
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror}") from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except LstmEdgeError:  # of the block's own work; some are OSErrors too
        raise
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: str | os.PathLike[str], content: bytes) -> None:
    """Put ``content`` in ``target`` whole or not at all; raises as ``replacing`` does."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def read_arrays(
    path: str | os.PathLike[str], wrong: str, advice: str, needed: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name, or an ``.npy`` file's as ``x``; no pickle is ever opened.

    Args:
        path: the file.
        wrong: what to call one that can't be read: ``can't be read``.
        advice: what to do then, and where it is not there.
        needed: names without which the file is a wrong one.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read: a folder, truncated, damaged, foreign, or with a pickle in it.
    """
    try:
        with Path(path).open("rb") as file:  # numpy leaves a truncated file open that it opened itself
            found = np.load(file, allow_pickle=False)
            arrays = {"x": found} if isinstance(found, np.ndarray) else dict(found)
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise ValueError(f"it holds no {missing[0]!r}")  # noqa: TRY301  one message for all
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there; {advice}") from error
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise FileFormatError(f"{path} {wrong} ({first_line(error)}); {advice}") from error
    return arrays
