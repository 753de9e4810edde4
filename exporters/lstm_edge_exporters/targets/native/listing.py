"""List the operations of a program file, with the weights that they read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import NamedTuple

import numpy as np

from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.native import TYPES

from .blocks import LIST_START
from .operations import FIELDS, NONE, RECURRENT, Code, Operation, Role
from .program import (
    BUFFER,
    CONSTANT,
    HEADER,
    OPERATION,
    PORT,
    Binary,
    Function,
    Port,
)

_KINDS = {Code.UNARY: Function, Code.BINARY: Binary}
_PRODUCTS = (Code.LINEAR, *RECURRENT, Code.DEPTHWISE)
"""Operations that multiply with weights."""


class _Constant(NamedTuple):
    """A constant of a program file."""

    offset: int
    """Position of its first byte in the file."""
    rows: int
    """Number of rows."""
    columns: int
    """Number of columns."""
    dtype: str
    """NumPy's name of its elements' type."""
    blocks: int
    """One more than the constant that lists its blocks; 0 if all of it is stored."""


@dataclass(frozen=True)
class ListedOperation:
    """One operation of a program."""

    number: int
    """Its index in the program, from 0."""
    operation: str
    """Its code, and the function of an elementwise operation."""
    reads: tuple[str, ...]
    """Each operand with its width: an input, a state, or the operation that computed
    it."""
    writes: tuple[str, ...]
    """Each result with its width: an output, a state's new value, or a value that
    later operations read."""
    weights: tuple[str, ...]
    """Each matrix of weights with its shape, its type, and its density in blocks."""
    bytes: int
    """Bytes of constants that no earlier operation reads."""
    macs: int
    """Multiply-accumulates with stored weights per step, or per unit."""
    share: float
    """Fraction of the program's multiply-accumulates."""


class ProgramFile:
    """The tables of a program file, which the library accepted."""

    def __init__(self, content: bytes) -> None:
        """Read the tables."""
        (_, _, _, _, *counts) = HEADER.unpack_from(content)
        constants, buffers, inputs, outputs, states, operations = counts[:6]
        self._content = content
        self._at = HEADER.size
        self._constants = [
            _Constant(
                offset=offset,
                rows=rows,
                columns=columns,
                dtype=TYPES[kind],
                blocks=blocks,
            )
            for offset, rows, columns, kind, blocks in self._table(CONSTANT, constants)
        ]
        self.buffers = [
            (width, TYPES[kind]) for width, kind in self._table(BUFFER, buffers)
        ]
        """Elements of a row of each buffer, and their type."""
        self._ports = {
            "inputs": self._read_ports(inputs),
            "outputs": self._read_ports(outputs),
            "states": self._read_ports(states),
        }
        self.operations = [
            Operation(Code(code), tuple(arguments))
            for code, *arguments in self._table(OPERATION, operations)
        ]

    @property
    def widths(self) -> list[int]:
        """Elements of a row of each buffer."""
        return [width for width, _ in self.buffers]

    def _read_ports(self, count: int) -> list[Port]:
        """Return the next ports."""
        return [Port(*fields) for fields in self._table(PORT, count)]

    def _table(self, record: Struct, count: int) -> Iterator[tuple[int, ...]]:
        """Yield the records of the next table."""
        start = self._at
        self._at += record.size * count
        yield from record.iter_unpack(self._content[start : self._at])

    def _array(self, number: int) -> Array:
        """Return the data of a constant of which all is stored."""
        constant = self._constants[number]
        count = constant.rows * constant.columns
        return np.frombuffer(self._content, constant.dtype, count, constant.offset)

    def _stored(self, number: int) -> int:
        """Return the number of stored elements of a constant."""
        constant = self._constants[number]
        if not constant.blocks:
            return constant.rows * constant.columns
        listed = self._array(constant.blocks - 1)
        bands = constant.rows // int(listed[0])
        blocks = listed.size - LIST_START - bands
        return blocks * int(prod(listed[:LIST_START].tolist()))

    def _bytes(self, number: int) -> int:
        """Return the bytes of a constant, with the list of its blocks."""
        constant = self._constants[number]
        listed = self._bytes(constant.blocks - 1) if constant.blocks else 0
        return self._stored(number) * np.dtype(constant.dtype).itemsize + listed

    # what an operation reads

    def _constants_of(self, operation: Operation) -> Iterator[tuple[str, int]]:
        """Yield the name and number of each constant that an operation reads."""
        for field in FIELDS[operation.code]:
            value = operation.named[field.name]
            if field.role is Role.CONSTANT and value != NONE:
                yield field.name, value
            if field.name.endswith("stored") and value:
                yield field.name.replace("stored", "scales"), value - 1

    def _matrices(self, operation: Operation) -> dict[str, int]:
        """Return the matrices of weights by name."""
        names = ("weights", "w", "r", "table")
        return {
            name: number
            for name, number in self._constants_of(operation)
            if name in names
        }

    def _describe(self, name: str, number: int) -> str:
        """Return the shape, the type and the density of a matrix of weights."""
        constant = self._constants[number]
        text = f"{name} ({constant.rows}, {constant.columns}) {constant.dtype}"
        if not constant.blocks:
            return text
        density = self._stored(number) / (constant.rows * constant.columns)
        return f"{text}, density {density:.2f}"

    def _macs(self, operation: Operation) -> int:
        """Return the multiply-accumulates of a row with stored weights."""
        if operation.code not in _PRODUCTS:
            return 0
        matrices = self._matrices(operation)
        stored = sum(map(self._stored, matrices.values()))
        if operation.code is not Code.LINEAR:
            return stored
        columns = self._constants[matrices["weights"]].columns
        return stored * (self.widths[operation.argument("x")] // columns)

    def listed(self) -> list[ListedOperation]:
        """Return every operation, in the order in which they run."""
        products = list(map(self._macs, self.operations))
        total = max(1, sum(products))
        names = self._names_read()
        seen = set[int]()
        rows = []
        for number, operation in enumerate(self.operations):
            constants = {constant for _, constant in self._constants_of(operation)}
            new = constants - seen
            seen |= constants
            rows.append(
                ListedOperation(
                    number=number,
                    operation=title(operation),
                    reads=tuple(self._with_width(names, operation.reads)),
                    writes=tuple(
                        self._with_width(self._names_written, operation.writes)
                    ),
                    weights=tuple(
                        self._describe(*matrix)
                        for matrix in self._matrices(operation).items()
                    ),
                    bytes=sum(map(self._bytes, new)),
                    macs=products[number],
                    share=products[number] / total,
                )
            )
            names |= dict.fromkeys(operation.writes, f"#{number}")
        return rows

    def _with_width(
        self, names: Mapping[int, str], buffers: Sequence[int]
    ) -> Iterator[str]:
        """Yield buffers by their names and widths."""
        for buffer in buffers:
            yield f"{names.get(buffer, '')} ({self.widths[buffer]})".strip()

    def _name(self, port: Port) -> str:
        """Return the name of an input, output or state."""
        return self._array(port.name).tobytes().decode(errors="replace")

    def _names_read(self) -> dict[int, str]:
        """Return the names of the buffers that are written before a step."""
        given = (*self._ports["inputs"], *self._ports["states"])
        return {port.buffer: self._name(port) for port in given}

    @property
    def _names_written(self) -> dict[int, str]:
        """The names of the buffers of outputs and new states."""
        outputs = {port.buffer: self._name(port) for port in self._ports["outputs"]}
        states = {
            port.next: f"new {self._name(port)}" for port in self._ports["states"]
        }
        return states | outputs


def title(operation: Operation) -> str:
    """Return the code, and the function of an elementwise operation."""
    kinds = _KINDS.get(operation.code)
    if kinds is None:
        return operation.code.name
    return f"{operation.code.name} {kinds(operation.argument('kind')).name}"
