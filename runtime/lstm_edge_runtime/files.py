"""Read files and JSON that may be damaged or none at all, and write files whole or not
at all.
"""

import contextlib
import json
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import (
    FileFormatError,
    InputError,
    LstmEdgeError,
    NotFoundError,
    first_line,
)

_READ = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
"""A FIFO without a writer is opened at once, to be refused."""
_PROGRAM = b"LSTMEDGE"
"""First bytes of an ``.lep`` file."""
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; ``OSError`` for any other, ``ValueError`` for a
    path with NUL.
    """
    descriptor = os.open(path, _READ)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(
            None, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file"
        )
    return os.fdopen(descriptor, "rb")


def read_content(source: Any) -> tuple[str, bytes]:
    """Return the path of a model file and its content, or a name for messages and the
    content given.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read, or is empty.
        InputError: ``source`` is neither a path, nor bytes or what has a buffer.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the model"
    try:
        if isinstance(source, str | os.PathLike):
            with open_regular(name) as file:
                content = file.read()
        else:
            content = bytes(memoryview(source))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{name} does not exist, expected a model file") from error
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{name!r} can't be read: {first_line(error)}") from error
    except TypeError as error:
        type_name = type(source).__name__
        raise InputError(
            f"got a {type_name}, expected a path, or a file's bytes or memory map"
        ) from error
    if not content:
        raise FileFormatError(f"{name} is empty; export or copy it again")
    return name, content


def is_program(name: str, content: bytes) -> bool:
    """Return True for an ``.lep`` file: by its suffix, or by its content if the name
    has none.

    Raises:
        FileFormatError: the suffix is that of the other form.
    """
    has_start = content.startswith(_PROGRAM)
    if has_start and name.endswith(".onnx"):
        raise FileFormatError(f"{name} is a program; rename it to .lep")
    if content and not has_start and name.endswith(".lep"):
        raise FileFormatError(
            f"{name} is not a program: it does not start with {_PROGRAM.decode()}; name"
            " an ONNX file .onnx, or copy the program again"
        )
    return has_start or name.endswith(".lep")


def refuse_program(name: str, content: bytes = b"") -> None:
    """Raise ``InputError`` for a program where only an ``.onnx`` file fits."""
    if is_program(name, content):
        raise InputError(
            f"{name} is a program; give the .onnx file that it was made from"
        )


def read_arrays(
    path: str | os.PathLike[str],
    wrong: str,
    advice: str,
    needed: Sequence[str] = (),
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name, or an ``.npy`` file's as ``x``; no
    pickle is ever opened.

    ``wrong`` and ``advice`` complete the messages; the file must contain the arrays
    ``needed``. Arrays have the machine's byte order.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read: not a regular file, truncated, damaged,
            foreign, or with a pickle.
    """
    try:
        with open_regular(path) as file:
            loaded = np.load(file, allow_pickle=False)
            arrays: dict[str, Any] = (
                {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
            )
        for name in [*needed, *arrays]:
            array = arrays.get(name)
            if not isinstance(array, np.ndarray) or not array.dtype.itemsize:
                raise TypeError(f"{name!r} is not an array in it")  # noqa: TRY301  one message for all
            if array.dtype.kind == "U":
                "".join(
                    array.ravel().tolist()
                ).encode().decode()  # raises for invalid characters
            if not array.dtype.isnative:
                arrays[name] = array.astype(array.dtype.newbyteorder("="))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; {advice}") from error
    except (
        Exception
    ) as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise FileFormatError(
            f"{path} {wrong} ({first_line(error)}); {advice}"
        ) from error
    return arrays


def read_json(content: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError, RecursionError: it is not JSON, contains NaN or an unpaired
            surrogate, or is too deep.
    """
    value = json.loads(
        content if isinstance(content, str) else content.decode("utf-8-sig")
    )
    json.dumps(
        value, ensure_ascii=False, allow_nan=False
    ).encode()  # raises for all but the first
    return value


@contextlib.contextmanager
def malformed_as(
    error_type: type[FileFormatError], what: str, advice: str
) -> Iterator[None]:
    """Turn the exceptions of reading and checking JSON into an error "the manifest is
    malformed (...)".
    """
    try:
        yield
    except LstmEdgeError:
        raise
    except _MALFORMED as error:
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise error_type(f"{what} ({reason}); {advice}") from error


def check_target(target: str | os.PathLike[str]) -> None:
    """Raise ``NotFoundError`` or ``InputError`` early for a target that ``replacing``
    would refuse.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise NotFoundError(
            f"{target}: its folder {target.parent} does not exist; create it first"
        )
    if target.is_dir():
        raise InputError(f"{target} is a folder, expected a file")
    if target.exists() and not target.is_file():
        raise InputError(
            f"{target} is not a regular file and would be replaced; use another name"
        )


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``target`` and rename it to ``target`` if
    the block succeeds.

    An exception (Ctrl-C included) removes the temporary file and leaves the old target.
    A link remains a link: its target is replaced, and the new file has the permissions
    of the old one.

    Raises:
        NotFoundError, InputError: the folder does not exist, or ``target`` can't be
            written.
    """
    check_target(target)
    target = Path(os.path.realpath(target))  # pathlib's own raises on links in a ring
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        # nobody else may read the new file before it is complete
        os.close(
            os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                0o666 if mode is None else 0o600,
            )
        )
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, LstmEdgeError):  # of the block's own work
            raise
        raise InputError(
            f"{target} can't be written: {error.strerror or error}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(target: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``target`` atomically; raises as ``replacing``."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)
