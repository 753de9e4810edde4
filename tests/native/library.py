"""The C library of lstm-edge-native, by ctypes."""

import ctypes as C
from os import PathLike

SIZE = C.c_size_t
INPUT, OUTPUT, STATE = 0, 1, 2
KINDS = (INPUT, OUTPUT, STATE)


class Rows(C.Structure):
    _fields_ = (("data", C.c_void_p), ("row_stride", SIZE), ("step_stride", SIZE))


class Port(C.Structure):
    _fields_ = (
        ("name", C.c_char_p),
        ("width", SIZE),
        ("type", C.c_int),
        ("every_step", C.c_int),
        ("frames", SIZE),
        ("groups", SIZE),
        ("start", SIZE),
    )


def open_library(path: "str | PathLike[str]") -> C.CDLL:
    library = C.CDLL(str(path))
    pointer = C.c_void_p
    for name, result, arguments in (
        ("version", C.c_char_p, ()),
        ("isa", C.c_char_p, ()),
        ("last_error", C.c_char_p, ()),
        ("last_status", C.c_int, ()),
        ("load", pointer, (C.c_char_p, SIZE)),
        ("open", pointer, (C.c_char_p,)),
        ("free", None, (pointer,)),
        ("set_threads", C.c_int, (pointer, SIZE)),
        ("count", SIZE, (pointer, C.c_int)),
        ("describe", C.c_int, (pointer, C.c_int, SIZE, C.POINTER(Port))),
        ("manifest", C.c_char_p, (pointer,)),
        ("selftest", C.c_int, (pointer, C.POINTER(C.c_double))),
        ("stream_new", pointer, (pointer,)),
        ("stream_free", None, (pointer,)),
        ("input", pointer, (pointer, SIZE)),
        ("output", pointer, (pointer, SIZE)),
        ("state", pointer, (pointer, SIZE)),
        ("step", C.c_int, (pointer,)),
        ("chunk", C.c_int, (pointer, pointer, SIZE, pointer)),
        ("reset", None, (pointer,)),
        ("unit", SIZE, (pointer,)),
        ("delay", SIZE, (pointer,)),
        ("end", C.c_uint64, (pointer,)),
        ("frames", SIZE, (pointer, SIZE)),
        ("age", C.c_uint64, (pointer,)),
        ("set_age", C.c_int, (pointer, C.c_uint64)),
        ("rest", pointer, (pointer, SIZE)),
        ("run", C.c_int, (pointer, SIZE, SIZE, pointer, pointer, pointer, pointer)),
        ("reset_value", C.c_int, (pointer, SIZE, pointer)),
    ):
        function = getattr(library, f"lstm_edge_{name}")
        function.restype, function.argtypes = result, arguments
    return library
