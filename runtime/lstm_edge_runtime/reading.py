"""Read files that may be damaged, hostile, or no files at all."""

import io
import os
import stat
import sys
from collections.abc import Callable, Sequence
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


def check_regular(path: str | os.PathLike[str], expected: str) -> None:
    """Check a path that another library opens.

    Args:
        path: the file.
        expected: what to call it: ``a Parquet file``.

    Raises:
        NotFoundError: no such file.
        InputError: it is not a regular file, or it can't be read.
    """
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist, expected {expected}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({first_line(error)}), expected {expected}") from error


def read_arrays(
    path: str | os.PathLike[str], wrong: str, advice: str, needed: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name, or an ``.npy`` file's as ``x``; no pickle is ever opened.

    Args:
        path: the file.
        wrong: what to call one that can't be read: ``can't be read``.
        advice: what to do then, and if it does not exist.
        needed: names that the file must contain.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read: not a regular file, truncated, damaged, foreign, or with a pickle.
    """

    def read(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
        found = np.load(file, allow_pickle=False)
        arrays = {"x": found} if isinstance(found, np.ndarray) else dict(found)
        if wrong_members := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{wrong_members[0]!r} is not an array")
        return arrays

    return _checked(path, read, wrong, advice, needed)


def read_saved(
    path: str | os.PathLike[str],
    wanted: Callable[[str], bool],
    wrong: str,
    advice: str,
    needed: Sequence[str] = (),
) -> dict[str, npt.NDArray[Any]]:
    """Return some arrays of an ``.npz`` file that ``numpy.savez`` wrote, by name.

    It takes no more memory than the file has bytes: compressed members are refused, and the size of an array
    is checked before it is read.

    Args:
        path: the file.
        wanted: returns True for the name of an array to read; the others are not read.
        wrong: as for ``read_arrays``, and so are advice and needed.
        advice: what to do if it can't be read.
        needed: names that the file must contain.

    Raises:
        NotFoundError, FileFormatError: as ``read_arrays``; or a wanted array is compressed.
    """

    def read(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
        import zipfile

        arrays = {}
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if wanted(name):
                    if member.compress_type != zipfile.ZIP_STORED:
                        raise ValueError(f"{name!r} is compressed, expected what numpy.savez writes")
                    arrays[name] = _parse_npy(archive.read(member))
        return arrays

    return _checked(path, read, wrong, advice, needed)


def _checked(
    path: str | os.PathLike[str],
    read: Callable[[BinaryIO], dict[str, npt.NDArray[Any]]],
    wrong: str,
    advice: str,
    needed: Sequence[str],
) -> dict[str, npt.NDArray[Any]]:
    try:
        with open_regular(path) as file:
            arrays = read(file)
        if missing := [name for name in needed if name not in arrays]:
            raise ValueError(f"it has no {missing[0]!r}")  # noqa: TRY301  one message for all
        for name, array in arrays.items():
            _check_elements(name, array)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; {advice}") from error
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise FileFormatError(f"{path} {wrong} ({first_line(error)}); {advice}") from error
    return arrays


def _parse_npy(content: bytes) -> npt.NDArray[Any]:
    """Return the array of an ``.npy`` file; its memory is that of ``content``."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version than numpy.savez writes")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"an array of {dtype}, expected numbers or text")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def _check_elements(name: str, array: npt.NDArray[Any]) -> None:
    if not array.dtype.itemsize:  # a few bytes may claim any number of these
        raise ValueError(f"{name!r} has elements of no size")
    if array.dtype.kind == "U":
        codes = np.frombuffer(array.tobytes(), array.dtype.byteorder.replace("=", "") + "u4")
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name!r} is not Unicode text")
