"""Write a program file (``.lep``), as ``lstm_edge_format.h`` of lstm-edge-native
defines it.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.native import TYPES, Past

from ...recurrent import GATES, MIN_INT8_ELEMENTS
from .blocks import BAND_COST, find_blocks
from .operations import ACTIVATIONS, FIELDS, NONE, Code, Operation

HEADER = struct.Struct("<8sIIQ10I")
CONSTANT = struct.Struct("<Q4I")
BUFFER = struct.Struct("<2I")
PORT = struct.Struct("<8I")
OPERATION = struct.Struct("<32I")
_UNCHECKED = 16
"""Bytes at the start of the header that the checksum does not cover."""
Function = IntEnum(
    "Function",
    "IDENTITY RELU SIGMOID TANH AFFINE LEAKY_RELU THRESHOLDED_RELU SCALED_TANH"
    " HARD_SIGMOID ELU SOFTSIGN SOFTPLUS SELU CLIP GELU ABS NEGATE EXP LOG SQRT"
    " RECIPROCAL ERF GELU_TANH FLOOR CEIL ROUND SIN COS",
    start=0,
)
"""Functions of one number, with up to two parameters."""
Binary = IntEnum(
    "Binary",
    "ADD SUBTRACT MULTIPLY DIVIDE MAXIMUM MINIMUM PRELU POWER LESS LESS_EQUAL EQUAL",
    start=0,
)
"""Functions of two numbers."""


@dataclass
class Port:
    """An input, output or state of a program, as ``le_port``."""

    name: int
    """Constant with the name."""
    buffer: int
    """Buffer of the value."""
    next: int = NONE
    """Of a state: buffer of its next value."""
    option: int = NONE
    """Of a state: constant with its reset value, ``NONE`` for zeros. Of an output: 1 if
    a chunk gives it for every step."""
    golden: int = NONE
    """Constant with the value of the golden case."""
    tolerance: int = NONE
    """Constant with the limits of the golden case."""
    delay: int = 0
    """Of an output: frames that are dropped first."""
    frames: int = 0
    """Frames per unit; 0 if there is no time axis."""


class Weights(NamedTuple):
    """The weights of a product, or a table of rows."""

    numbers: Array
    """``(M, K)``, float32 or int8."""
    scales: Array | None
    """Of int8: ``(M,)``."""
    quantized: bool
    """True if the input is quantized too."""

    def rows(self, rows: slice) -> "Weights":
        """Return a part of the outputs."""
        scales = None if self.scales is None else self.scales[rows]
        return self._replace(numbers=self.numbers[rows], scales=scales)


class _WeightArguments(NamedTuple):
    """The arguments that name weights."""

    numbers: int
    """The constant with the weights."""
    scales: int
    """The constant with the scales if inputs are quantized, else ``NONE``."""
    stored: int
    """Number of the constant with the scales plus one if only the weights are int8,
    else 0."""


class ProgramWriter:
    """Collects a program and returns the bytes of its file.

    A method that adds an operation returns the number of the buffer, or the buffers, of
    its result.
    """

    def __init__(self, unit: int = 1, reset_every: int = 0) -> None:
        """Begin with nothing; ``unit`` time steps are one run of the operations, and
        streams are reset every ``reset_every`` steps, 0 for never.
        """
        self.unit = unit
        self.reset_every = reset_every
        self.constants: list[Array] = []
        """The constants, each of two axes."""
        self._blocks: dict[int, tuple[Array, int]] = {}
        """Of weights with blocks of zeros: the other blocks, and the number of the
        constant that lists them."""
        self.operations: list[Operation] = []
        self._buffers: list[tuple[int, int]] = []
        self._ports: dict[str, list[Port]] = {"inputs": [], "outputs": [], "states": []}
        self._named: dict[str, Port] = {}
        self._manifest = NONE
        self._golden_steps = 0

    # constants, buffers and ports

    def constant(self, array: npt.ArrayLike) -> int:
        """Add a constant of one or two axes, in the element type that it has; return
        its number.
        """
        table = np.atleast_2d(np.asarray(array))
        if table.ndim != 2:
            raise ValueError(
                f"a constant of shape {table.shape}, expected one or two axes"
            )
        self.constants.append(np.ascontiguousarray(table))
        return len(self.constants) - 1

    def weights(self, numbers: int, scales: int, stored: int) -> Weights:
        """Return the weights that three arguments name: numbers, scales, one more than
        scales.
        """
        index = stored - 1 if scales == NONE else scales
        factors = None if index < 0 else self.constants[index].reshape(-1)
        return Weights(self.constants[numbers], factors, scales != NONE)

    def buffer(self, width: int, dtype: str = "float32") -> int:
        """Add a buffer of ``width`` elements per row; return its number."""
        self._buffers.append((width, TYPES.index(dtype)))
        return len(self._buffers) - 1

    def width(self, buffer: int) -> int:
        """Return the elements of one row of a buffer."""
        return self._buffers[buffer][0]

    def dtype(self, buffer: int) -> str:
        """Return the type of a buffer's elements."""
        return TYPES[self._buffers[buffer][1]]

    def ports(self, role: str) -> list[Port]:
        """Return the ``inputs``, ``outputs`` or ``states``."""
        return self._ports[role]

    @property
    def readable(self) -> set[int]:
        """The buffers that are written before a step: inputs and old states."""
        return {
            port.buffer for kind in ("inputs", "states") for port in self._ports[kind]
        }

    def input(self, name: str, width: int, dtype: str = "float32") -> int:
        """Add an input; return its buffer."""
        port = self._port("inputs", name, self.buffer(width, dtype))
        port.option = 0
        port.frames = self.unit
        return port.buffer

    def output(
        self,
        name: str,
        buffer: int,
        *,
        every_step: bool,
        delay: int = 0,
        frames: int = 1,
    ) -> None:
        """Add an output; a chunk returns it for every step, with ``frames`` per unit,
        or for the last step.
        """
        port = self._port("outputs", name, buffer)
        port.option = int(every_step)
        port.delay = delay
        port.frames = frames if every_step else 0

    def state(
        self, name: str, width: int, reset: Array | None = None, dtype: str = "float32"
    ) -> int:
        """Add a state; return the buffer of its old value. ``next_state`` names the
        buffer of its new one.
        """
        port = self._port("states", name, self.buffer(width, dtype))
        if reset is not None and reset.any():
            port.option = self.constant(reset.astype(dtype).reshape(1, -1))
        return port.buffer

    def past(self, name: str, past: Past, reset: Array) -> int:
        """Add a state that is a ring, with its reset value as the file has it; return
        its buffer.
        """
        (row,) = past.to_rows(reset)
        buffer = self.state(name, len(row), row)
        self.next_state(buffer, buffer)
        return buffer

    def next_state(self, old: int, new: int) -> None:
        """Set the buffer that holds the new value of the state in ``old``."""
        next(port for port in self._ports["states"] if port.buffer == old).next = new

    def golden(
        self,
        inputs: Mapping[str, Array],
        expected: Mapping[str, Sequence[npt.ArrayLike]],
        rows: int = 1,
    ) -> None:
        """Store the golden case, whose rows start from the reset state.

        Args:
            inputs: of each input, ``(rows * L, width)``.
            expected: of outputs their frames, or each row's last step's ``(rows,
                width)``, and of states the last step's; each with the largest
                difference allowed, a number or of the same shape. The first frames of a
                delayed output mean nothing.
            rows: number of rows, one after another.
        """
        for name, array in inputs.items():
            port = self._named[name]
            samples = np.asarray(array, self.dtype(port.buffer)).reshape(
                -1, self.width(port.buffer)
            )
            self._golden_steps = len(samples) // rows
            port.golden = self.constant(samples)
        for name, both in expected.items():
            port = self._named[name]
            port.golden, port.tolerance = (
                self.constant(
                    np.asarray(array, "float32").reshape(-1, self.width(port.buffer))
                )
                for array in np.broadcast_arrays(*both)
            )

    def manifest(self, text: str) -> None:
        """Store the manifest, JSON text."""
        self._manifest = self._text(text)

    # operations

    def operation(self, code: Code, *arguments: float) -> None:
        """Add an operation; a float among the arguments is stored by its bits."""
        words = [
            (
                struct.unpack("<I", struct.pack("<f", value))[0]
                if isinstance(value, float)
                else int(value)
            )
            for value in arguments
        ]
        if not 0 <= min(words) <= max(words) <= NONE:
            raise ValueError(f"arguments {words}, expected numbers from 0 to {NONE}")
        padding = OPERATION.size // 4 - 1 - len(words)
        self.operations.append(Operation(code, (*words, *[0] * padding)))

    def add(
        self,
        code: Code,
        source: int,
        *arguments: float,
        width: int = 0,
        dtype: str = "float32",
    ) -> int:
        """Add an operation whose first arguments are its input and its result, as wide
        by default.
        """
        out = self.buffer(width or self.width(source), dtype)
        self.operation(code, source, out, *arguments)
        return out

    def linear(
        self,
        source: int,
        weights: Array,
        bias: Array | None = None,
        scales: Array | None = None,
    ) -> int:
        """Add ``source @ weights.T + bias``, for each K numbers of the source in turn.

        ``weights (M, K)`` are int8 where they have ``scales (M,)``, with which the
        inputs are quantized.
        """
        rows, columns = weights.shape
        if columns == 0 or self.width(source) % columns:
            raise UnsupportedError(
                f"weights {weights.shape} for rows of {self.width(source)} numbers"
            )
        number, scale, stored = self._weights(weights, scales)
        width = self.width(source) // columns * rows
        return self.add(
            Code.LINEAR, source, number, self.optional(bias), scale, stored, width=width
        )

    def recurrent(
        self,
        code: Code,
        x: int,
        states: Sequence[int],
        weights: Sequence[Array],
        bias: Array | None = None,
        *,
        scales: Sequence[Array | None] | None = None,
        flags: int = 0,
        functions: Sequence[tuple[Function, float, float]],
    ) -> list[int]:
        """Add an LSTM, GRU or RNN layer, in ONNX's order of gates; return the buffers
        of its new states.

        Args:
            code: which of them.
            x: the buffer of its input.
            states: the buffers of h, and of c for an LSTM.
            weights: W ``(gates * H, I)`` and R ``(gates * H, H)``.
            bias: Wb + Rb; for a GRU both, concatenated.
            scales: of W and R where they are int8, and their inputs are quantized.
            flags: 1 for linear_before_reset.
            functions: each with alpha and beta.
        """
        w, r = (
            self._weights(numbers, scale, len(GATES[code.name]))
            for numbers, scale in zip(weights, scales or (None, None), strict=True)
        )
        layer: dict[str, float] = {
            "w": w.numbers,
            "r": r.numbers,
            "bias": self.optional(bias),
            "w_scales": w.scales,
            "r_scales": r.scales,
            "flags": flags,
            "w_stored": w.stored,
            "r_stored": r.stored,
            "shared": 0,
        }
        unused = [(Function.IDENTITY, 0.0, 0.0)] * (ACTIVATIONS - len(functions))
        for number, (function, alpha, beta) in enumerate([*functions, *unused]):
            layer[f"kind_{number}"] = int(function)
            layer[f"alpha_{number}"] = float(alpha)
            layer[f"beta_{number}"] = float(beta)
        return self._layer(code, x, states=states, layer=layer)

    def recurrent_again(self, number: int, x: int, states: Sequence[int]) -> list[int]:
        """Add the layer of operation ``number`` once more, for the next frame; return
        its new states.
        """
        operation = self.operations[number]
        layer = operation.named | {"w_stored": 0, "r_stored": 0, "shared": number + 1}
        return self._layer(operation.code, x, states=states, layer=layer)

    def _layer(
        self, code: Code, x: int, states: Sequence[int], layer: Mapping[str, float]
    ) -> list[int]:
        """Add a layer with arguments by name, but for its buffers."""
        new = [self.buffer(self.width(state)) for state in states]
        buffers = dict.fromkeys(("h", "c", "new_h", "new_c"), NONE)
        buffers |= {"x": x}
        buffers |= dict(zip(("h", "c"), states, strict=False))
        buffers |= dict(zip(("new_h", "new_c"), new, strict=False))
        named = {**layer, **buffers}
        self.operation(code, *(named[field.name] for field in FIELDS[code]))
        return new

    def unary(
        self, source: int, function: Function, alpha: float = 0.0, beta: float = 0.0
    ) -> int:
        """Add a function of each number."""
        return self.add(Code.UNARY, source, int(function), float(alpha), float(beta))

    def binary(
        self, function: Binary, a: int, b: "int | Array", *, swap: bool = False
    ) -> int:
        """Add a function of ``a`` and ``b``, a buffer or a constant: both float32, or
        both int64.
        """
        dtype = self.dtype(a)
        if isinstance(b, np.ndarray):
            width = b.size
            stored = self.constant(np.asarray(b, dtype).reshape(1, -1))
            operands = (NONE, stored)
        else:
            width = self.width(b)
            operands = (b, NONE)
        out = self.buffer(max(self.width(a), width), dtype)
        self.operation(Code.BINARY, a, *operands, out, int(function), int(swap))
        return out

    def filled(self, values: Array) -> int:
        """Add a buffer that holds ``values`` at every step."""
        out = self.buffer(values.size)
        self.operation(Code.CONSTANT, self._floats(values), out)
        return out

    def gather(self, index: int, table: Array) -> int:
        """Add a look-up of rows of ``table (V, E)``."""
        number, _, stored = self._stored(table, None)
        width = self.width(index) * table.shape[1]
        return self.add(Code.GATHER, index, number, stored, width=width)

    def window(
        self,
        source: int,
        past: int,
        first: int,
        dilation: int,
        count: int,
        frames: int = 1,
    ) -> int:
        """Add ``count`` frames, ``dilation`` apart, of a past with the ``frames`` of
        ``source`` behind.

        ``first`` is the number of the first one, counted from the oldest of the past.
        """
        out = self.buffer(self.width(source) // frames * count)
        new = frames if frames > 1 else 0
        self.operation(Code.WINDOW, source, past, out, first, dilation, count, new)
        return out

    def cast(
        self, source: int, dtype: str = "float32", *, is_narrow: bool = False
    ) -> int:
        """Add a conversion to float32 or int64; ``is_narrow`` gives the numbers of an
        int32 in an int64.
        """
        return self.add(Code.CAST, source, int(is_narrow), dtype=dtype)

    def depthwise(
        self, source: int, out: int, weights: Array | None, bias: Array | None = None
    ) -> int:
        """Add the sum of K vectors of ``out`` numbers times ``weights (K, out)``, or
        the largest.
        """
        return self.add(
            Code.DEPTHWISE,
            source,
            self.optional(weights),
            self.optional(bias),
            width=out,
        )

    # the file

    def to_bytes(self) -> bytes:
        """Return the file."""
        tables = self._tables()
        size_of_constants = CONSTANT.size * len(self.constants)
        offset = HEADER.size + size_of_constants + len(tables)
        constants = []
        data = []
        for number, array in enumerate(self.constants):
            padding = -offset % 64
            stored, blocks = self._blocks.get(number, (array, -1))
            dtype = TYPES.index(array.dtype.name)
            start = offset + padding
            constants.append(CONSTANT.pack(start, *array.shape, dtype, blocks + 1))
            data += [bytes(padding), stored.tobytes()]
            offset = start + stored.nbytes
        body = b"".join([*constants, tables, *data])
        without_checksum = self._header(checksum=0, size=offset)
        checksum = zlib.crc32(body, zlib.crc32(without_checksum[_UNCHECKED:]))
        return self._header(checksum=checksum, size=offset) + body

    def _tables(self) -> bytes:
        """Return the buffers, ports and operations."""
        entries = [BUFFER.pack(*buffer) for buffer in self._buffers]
        for ports in self._ports.values():
            entries += [PORT.pack(*astuple(port)) for port in ports]
        for code, arguments in self.operations:
            entries.append(OPERATION.pack(code, *arguments))
        return b"".join(entries)

    def _header(self, *, checksum: int, size: int) -> bytes:
        """Return the header of a file of ``size`` bytes."""
        return HEADER.pack(
            b"LSTMEDGE",
            1,
            checksum,
            size,
            len(self.constants),
            len(self._buffers),
            *map(len, self._ports.values()),
            len(self.operations),
            self._manifest,
            self._golden_steps,
            self.reset_every,
            self.unit,
        )

    def _text(self, text: str) -> int:
        """Add a text as a constant and return its number."""
        return self.constant(np.frombuffer(text.encode(), np.uint8))

    def _floats(self, array: npt.ArrayLike) -> int:
        """Add float32 numbers as a constant and return its number."""
        return self.constant(np.asarray(array, "float32").reshape(1, -1))

    def _weights(
        self, numbers: Array, scales: Array | None, gates: int = 1
    ) -> _WeightArguments:
        """Add the weights of some gates, without their blocks of zeros."""
        arguments = self._stored(numbers, scales)
        stored = self.constants[arguments.numbers]
        quantized = scales is not None
        blocks = find_blocks(
            stored, quantized=quantized, gates=gates, band_cost=BAND_COST
        )
        if blocks is not None:
            listed = self.constant(blocks.listed())
            self._blocks[arguments.numbers] = blocks.numbers, listed
        return arguments

    def _stored(self, numbers: Array, scales: Array | None) -> _WeightArguments:
        """Add weights or a table; return the arguments that name them."""
        if scales is not None:
            number = self.constant(np.asarray(numbers, "int8"))
            return _WeightArguments(number, self._floats(scales), 0)
        floats = np.asarray(numbers, "float32")
        packed = in_int8(floats)
        if packed is None:
            return _WeightArguments(self.constant(floats), NONE, 0)
        number = self.constant(packed[0])
        return _WeightArguments(number, NONE, 1 + self._floats(packed[1]))

    def optional(self, array: Array | None) -> int:
        """Add a constant of float32; return its number, ``NONE`` without an array."""
        return NONE if array is None else self._floats(array)

    def _port(self, role: str, name: str, buffer: int) -> Port:
        """Add a named input, output or state."""
        port = self._named[name] = Port(self._text(name), buffer)
        self._ports[role].append(port)
        return port


def in_int8(weights: Array) -> tuple[Array, Array] | None:
    """Return int8 ``(M, K)`` and scales ``(M,)`` whose products are ``weights`` to the
    bit, in less memory.

    There are such where a file stores int8 and a scale for each row: a row's largest is
    127 times its scale.
    """
    if weights.size < MIN_INT8_ELEMENTS or weights.shape[1] < 3:
        return None
    peaks = np.abs(weights).max(1, keepdims=True)
    guess = np.where(peaks > 0, peaks / np.float32(127), np.float32(1))
    stored = np.zeros(weights.shape, np.int8)
    scales = np.zeros(len(weights), np.float32)
    open_rows = np.ones(len(weights), bool)
    for scale in (
        guess,
        np.nextafter(guess, np.float32(0)),
        np.nextafter(guess, np.float32(np.inf)),
    ):
        whole = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
        fits = open_rows & (whole.astype(np.float32) * scale == weights).all(1)
        stored[fits] = whole[fits]
        scales[fits] = scale[fits, 0]
        open_rows &= ~fits
    return None if open_rows.any() else (stored, scales)
