"""Read files that may be damaged, hostile, or no files at all."""

import math
import os
import stat
import sys
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import FileFormatError, InputError, NotFoundError, first_line

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
"""A FIFO without a writer is opened at once, to be refused."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, without waiting for a FIFO or a device.

    Raises:
        FileNotFoundError: no such file.
        OSError: it is a folder, a FIFO or a device, or it can't be read.
        ValueError: the path contains a NUL character.
    """
    descriptor = os.open(path, _FLAGS)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(None, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_content(source: Any) -> tuple[str, bytes]:
    """Return the path of a model file, or a name for messages, and its content.

    Args:
        source: a path, or the content itself (bytes or what has a buffer, such as a memory map).

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read, or is empty.
        InputError: it is none of these.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            with open_regular(name) as file:
                content = file.read()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{name} does not exist, expected a model file") from error
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{name!r} can't be read: {first_line(error)}") from error
    else:
        try:
            name, content = "the model", bytes(memoryview(source))
        except TypeError as error:
            kind = type(source).__name__
            raise InputError(f"got a {kind}, expected a path, or a file's bytes or memory map") from error
    if not content:
        raise FileFormatError(f"{name} is empty; export or copy it again")
    return name, content


def read_arrays(
    path: str | os.PathLike[str],
    wrong: str,
    advice: str,
    needed: Sequence[str] = (),
    *,
    compressed: bool = True,
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name, or an ``.npy`` file's as ``x``; no pickle is ever opened.

    Args:
        path: the file.
        wrong: what to call one that can't be read: ``can't be read``.
        advice: what to do then, and if it does not exist.
        needed: names that the file must contain.
        compressed: False to refuse a file whose arrays are larger than the file.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read: not a regular file, truncated, damaged, foreign, or with a pickle.
    """
    try:
        with open_regular(path) as file:
            if not compressed:
                _refuse_larger(file)
            found = np.load(file, allow_pickle=False)
            arrays: dict[str, Any] = {"x": found} if isinstance(found, np.ndarray) else dict(found)
        if missing := [name for name in needed if name not in arrays]:
            raise ValueError(f"it has no {missing[0]!r}")  # noqa: TRY301  one message for all
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or not array.dtype.itemsize:
                raise TypeError(f"{name!r} is not an array")  # noqa: TRY301
            if array.dtype.kind == "U":
                codes = np.frombuffer(array.tobytes(), array.dtype.byteorder.replace("=", "") + "u4")
                if codes.max(initial=0) > sys.maxunicode:
                    raise ValueError(f"{name!r} is not Unicode text")  # noqa: TRY301
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; {advice}") from error
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise FileFormatError(f"{path} {wrong} ({first_line(error)}); {advice}") from error
    return arrays


def _refuse_larger(file: BinaryIO) -> None:
    """Raise ``ValueError`` if the arrays of an ``.npz`` file would take more memory than the file."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            size -= info.file_size
            with archive.open(info) as member:
                old = np.lib.format.read_magic(member) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            if size < 0 or math.prod(shape) * dtype.itemsize > info.file_size:
                raise ValueError(f"{info.filename!r} is larger than the file")
    file.seek(0)
