"""The C library with numpy arrays as inputs and outputs."""

import ctypes as C
from typing import Any

import numpy as np

from lstm_edge_runtime.native import INPUT, OUTPUT, STATE, Port, Rows

Array = Any


class LibraryError(Exception):
    """A call refused by the library."""

    def __init__(self, library: C.CDLL) -> None:
        self.status = library.lstm_edge_last_status()
        super().__init__(library.lstm_edge_last_error().decode())


class Program:
    """A program of one input."""

    def __init__(self, library: C.CDLL, data: bytes, threads: int = 1) -> None:
        self.library = library
        self.handle = library.lstm_edge_load(data, len(data))
        if not self.handle:
            raise LibraryError(library)
        self.check(library.lstm_edge_set_threads(self.handle, threads))
        self.inputs, self.outputs, self.states = (
            self._ports(kind) for kind in (INPUT, OUTPUT, STATE)
        )

    def __del__(self) -> None:
        self.library.lstm_edge_free(self.handle)

    def _ports(self, kind: int) -> list[Port]:
        ports = [Port() for _ in range(self.library.lstm_edge_count(self.handle, kind))]
        for index, port in enumerate(ports):
            self.check(
                self.library.lstm_edge_describe(self.handle, kind, index, C.byref(port))
            )
        return ports

    def check(self, status: int) -> None:
        if status != 0:
            raise LibraryError(self.library)

    def zeros(self, rows: int) -> list[Array]:
        """Return a pool of states."""
        return [np.zeros((rows, port.width), "float32") for port in self.states]

    def run(
        self, x: Array, states: list[Array], slots: Array | None = None
    ) -> list[Array]:
        """Run ``x (N, L, I)`` from ``states``, which change in place; return the
        outputs."""
        rows, steps = x.shape[:2]
        x = np.ascontiguousarray(x)
        outputs = [
            np.full(
                (rows, steps, port.width) if port.every_step else (rows, port.width),
                7,
                "float32",
            )
            for port in self.outputs
        ]
        indices = None if slots is None else np.ascontiguousarray(slots, np.uintp)

        def view(array: Array) -> Rows:
            return Rows(
                array.ctypes.data,
                array.strides[0],
                array.strides[1] if array.ndim == 3 else 0,
            )

        arrays = [[x], states, outputs]
        views = [(Rows * len(group))(*map(view, group)) for group in arrays]
        pointer = None if indices is None else indices.ctypes.data
        self.check(
            self.library.lstm_edge_run(self.handle, rows, steps, pointer, *views)
        )
        return outputs

    def selftest(self) -> float:
        worst = C.c_double()
        self.check(self.library.lstm_edge_selftest(self.handle, C.byref(worst)))
        return worst.value


class Stream:
    """A stream of one float32 input and one output."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.library = program.library
        self.handle = self.library.lstm_edge_stream_new(program.handle)
        self.x = self._view(
            self.library.lstm_edge_input(self.handle, 0), program.inputs[0].width
        )
        self.y = self._view(
            self.library.lstm_edge_output(self.handle, 0), program.outputs[0].width
        )
        self.states = [
            self._view(self.library.lstm_edge_state(self.handle, i), port.width)
            for i, port in enumerate(program.states)
        ]

    def __del__(self) -> None:
        self.library.lstm_edge_stream_free(self.handle)

    @staticmethod
    def _view(address: int, count: int) -> Array:
        return np.frombuffer((C.c_char * (4 * count)).from_address(address), np.float32)

    def step(self, sample: Array) -> Array:
        self.x[:] = sample
        self.program.check(self.library.lstm_edge_step(self.handle))
        return self.y.copy()

    def chunk(self, x: Array) -> Array:
        x = np.ascontiguousarray(x)
        port = self.program.outputs[0]
        y = np.zeros((len(x), port.width) if port.every_step else port.width, "float32")
        inputs = (C.c_void_p * 1)(x.ctypes.data)
        outputs = (C.c_void_p * 1)(y.ctypes.data)
        self.program.check(
            self.library.lstm_edge_chunk(self.handle, inputs, len(x), outputs)
        )
        return y
