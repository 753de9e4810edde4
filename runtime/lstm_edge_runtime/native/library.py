"""The C library of ``lstm-edge-native``, opened by ctypes; ``lstm_edge.h`` documents its functions."""

import ctypes as C
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from os import PathLike

from ..errors import MissingDependencyError, install_command

SIZE = C.c_size_t
INPUT, OUTPUT, STATE = 0, 1, 2
TYPES = ("float32", "int64", "int32", "int16", "int8", "uint8")
"""Types of elements; the place in this list is the number of the type in the library."""


class Rows(C.Structure):
    """``lstm_edge_rows``: where the rows of one array lie."""

    _fields_ = (("data", C.c_void_p), ("row_stride", SIZE), ("step_stride", SIZE))


class Port(C.Structure):
    """``lstm_edge_port``: one input, output or state."""

    _fields_ = (
        ("name", C.c_char_p),
        ("width", SIZE),
        ("type", C.c_int),
        ("every_step", C.c_int),
        ("frames", SIZE),
        ("groups", SIZE),
        ("delay", SIZE),
    )


_P = C.c_void_p
_FUNCTIONS = (
    ("version", C.c_char_p, ()),
    ("isa", C.c_char_p, ()),
    ("last_error", C.c_char_p, ()),
    ("last_status", C.c_int, ()),
    ("load", _P, (C.c_char_p, SIZE)),
    ("free", None, (_P,)),
    ("set_threads", C.c_int, (_P, SIZE)),
    ("count", SIZE, (_P, C.c_int)),
    ("describe", C.c_int, (_P, C.c_int, SIZE, C.POINTER(Port))),
    ("manifest", C.c_char_p, (_P,)),
    ("selftest", C.c_int, (_P, C.POINTER(C.c_double))),
    ("stream_new", _P, (_P,)),
    ("stream_free", None, (_P,)),
    ("input", _P, (_P, SIZE)),
    ("output", _P, (_P, SIZE)),
    ("state", _P, (_P, SIZE)),
    ("step", C.c_int, (_P,)),
    ("chunk", C.c_int, (_P, _P, SIZE, _P)),
    ("reset", None, (_P,)),
    ("unit", SIZE, (_P,)),
    ("delay", SIZE, (_P,)),
    ("frames", SIZE, (_P, SIZE)),
    ("age", C.c_uint64, (_P,)),
    ("set_age", C.c_int, (_P, C.c_uint64)),
    ("rest", _P, (_P, SIZE)),
    ("run", C.c_int, (_P, SIZE, SIZE, _P, _P, _P, _P)),
)


def open_library(path: "str | PathLike[str]") -> C.CDLL:
    """Return the library at ``path`` with its functions' types declared."""
    opened = C.CDLL(str(path))
    for name, result, arguments in _FUNCTIONS:
        function = getattr(opened, f"lstm_edge_{name}")
        function.restype, function.argtypes = result, arguments
    return opened


@cache
def quick_step(opened: C.CDLL) -> Callable[[int], int]:
    """Return ``lstm_edge_step`` as a function that keeps the interpreter's lock.

    To pass it on and take it again costs 0.07 us, and another thread takes longer to get it than such a
    step takes.
    """
    return C.PYFUNCTYPE(C.c_int, _P)(C.cast(opened.lstm_edge_step, _P).value or 0)


def installed() -> bool:
    """Return whether ``lstm-edge-native`` is there, without opening it."""
    return find_spec("lstm_edge_native") is not None


@cache
def library() -> C.CDLL:
    """Return the installed library.

    Raises:
        MissingDependencyError: it is not installed, can't be opened here, or is of an earlier version.
    """
    try:
        from lstm_edge_native import LIBRARY

        return open_library(LIBRARY)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"the native engine is not installed ({error}); {install_command('native')}"
        ) from error
    except AttributeError as error:  # a function that it does not have
        raise MissingDependencyError(
            f"the native engine is of an earlier version ({error}); {install_command('native')} --upgrade"
        ) from error
