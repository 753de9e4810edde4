"""The functions of a C library as the engine of its program, so that both are verified
alike.
"""

import ctypes as C
from collections.abc import Callable
from typing import Any

import numpy as np

from lstm_edge_runtime.native import INPUT, TYPES, NativeEngine

from .memory import size_of
from .table import Table

_Step = Callable[..., int]


class CEngine(NativeEngine):
    """A program whose steps are those of a table in C."""

    name = "c"

    def __init__(self, program: bytes, table: Table, step: _Step) -> None:
        """Load ``program`` and take its steps with ``step``, from the table of the
        same program.
        """
        super().__init__(program, 1)
        types = [TYPES[port.type] for port in self._ports(INPUT)]
        self.library: Any = _Library(self.library, table, types=types, step=step)


class _Library:
    """The C library of a program, but for its steps."""

    def __init__(
        self, library: Any, table: Table, *, types: list[str], step: _Step
    ) -> None:
        """Keep where each state lies, and the type of each input."""
        self._library = library
        self._types = types
        self._step = step
        writer = table.writer
        self._widths = [writer.width(port.buffer) for port in writer.ports("inputs")]
        self._state = (C.c_float * max(1, table.states))()
        self._places = [
            (4 * offset, 4 * size_of(writer, port.buffer))
            for offset, port in zip(table.offsets, writer.ports("states"), strict=True)
        ]

    def __getattr__(self, name: str) -> Any:
        """Return a function of the library."""
        return getattr(self._library, name)

    def lstm_edge_run(
        self,
        handle: int,
        rows: int,
        units: int,
        slots: Any,
        inputs: Any,
        states: Any,
        outputs: Any,
    ) -> int:
        """Run units of rows, as the function of ``lstm_edge.h``."""
        del handle
        refused = 0
        indices = np.ctypeslib.as_array(C.cast(slots, C.POINTER(C.c_size_t)), (rows,))
        for row, slot in enumerate(indices.tolist()):
            self._copy_states(states, slot, is_read=True)
            for unit in range(units):
                arguments = [
                    self._argument(index, _address(view, row, unit))
                    for index, view in enumerate(inputs)
                ]
                results = [C.c_void_p(_address(view, row, unit)) for view in outputs]
                refused |= self._step(self._state, *arguments, *results) & 1
            self._copy_states(states, slot, is_read=False)
        return refused

    def _argument(self, index: int, address: int) -> Any:
        """Return an input of a step: int32 for whole numbers."""
        dtype = np.dtype(self._types[index])
        if dtype == np.float32:
            return C.c_void_p(address)
        width = self._widths[index]
        data = C.string_at(address, width * dtype.itemsize)
        numbers = np.frombuffer(data, dtype).tolist()
        return (C.c_int32 * width)(*numbers)

    def _copy_states(self, states: Any, slot: int, *, is_read: bool) -> None:
        """Read the states of a row, or write them."""
        for view, (offset, size) in zip(states, self._places, strict=True):
            pair = (C.addressof(self._state) + offset, _address(view, slot, 0))
            C.memmove(*(pair if is_read else pair[::-1]), size)


def _address(view: Any, row: int, unit: int) -> int:
    """Return the address of a row at a unit."""
    return int(view.data + row * view.row_stride + unit * view.step_stride)
