"""Write a program file (``.lep``), as ``lstm_edge_format.h`` of lstm-edge-native defines it."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.native import TYPES, Past

NONE = 0xFFFFFFFF
"""A constant or buffer that is not there."""
_MAGIC = b"LSTMEDGE"
_HEADER = struct.Struct("<8sIIQ10I")
_CONSTANT = struct.Struct("<Q4I")
_VERSION = 1
"""Of the format."""
_PORT = struct.Struct("<8I")
_ARGUMENTS = 31
_SMALLEST = 256
"""Elements of weights that are kept in int8; fewer are faster in float32."""


class Code(IntEnum):
    """Operations."""

    LINEAR = 1
    LSTM = 2
    GRU = 3
    RNN = 4
    UNARY = 5
    BINARY = 6
    SOFTMAX = 7
    NORMALIZE = 8
    GATHER = 9
    COPY = 10
    CAST = 11
    CONSTANT = 12
    WHERE = 13
    WINDOW = 14
    PUSH = 15
    DEPTHWISE = 16


class Function(IntEnum):
    """Functions of one number, with their two parameters where they have them."""

    IDENTITY = 0
    RELU = 1
    SIGMOID = 2
    TANH = 3
    AFFINE = 4
    LEAKY_RELU = 5
    THRESHOLDED_RELU = 6
    SCALED_TANH = 7
    HARD_SIGMOID = 8
    ELU = 9
    SOFTSIGN = 10
    SOFTPLUS = 11
    SELU = 12
    CLIP = 13
    GELU = 14
    ABS = 15
    NEGATE = 16
    EXP = 17
    LOG = 18
    SQRT = 19
    RECIPROCAL = 20
    ERF = 21
    GELU_TANH = 22
    FLOOR = 23
    CEIL = 24
    ROUND = 25
    SIN = 26
    COS = 27


class Binary(IntEnum):
    """Functions of two numbers."""

    ADD = 0
    SUBTRACT = 1
    MULTIPLY = 2
    DIVIDE = 3
    MAXIMUM = 4
    MINIMUM = 5
    PRELU = 6
    POWER = 7
    LESS = 8
    LESS_EQUAL = 9
    EQUAL = 10
    REMAINDER = 11


class Operation(NamedTuple):
    """One operation of a program."""

    code: Code
    arguments: tuple[int, ...]
    """As ``lstm_edge_format.h`` describes them for each code; a float32 by its bits."""


class Port(NamedTuple):
    """An input, output or state of a program."""

    name: int
    """The constant that holds it."""
    buffer: int
    next: int
    """Of a state: the buffer of its new value."""
    option: int
    """Of a state: the constant it is reset to, or ``NONE``; of an output: 1 if a chunk gives every step's."""
    golden: int
    tolerance: int
    delay: int = 0
    """Of an output: its first frames, which mean nothing."""
    frames: int = 1
    """Of an input, or an output for every step, its frames in a unit; else 0."""


class Weights(NamedTuple):
    """What a product multiplies its input by, or a table of rows."""

    numbers: Array
    """``(M, K)``, float32 or int8."""
    scales: Array | None
    """Of int8: ``(M,)``."""
    quantized: bool
    """Whether the input is quantized too."""

    def rows(self, rows: slice) -> "Weights":
        """Return a part of the outputs."""
        scales = None if self.scales is None else self.scales[rows]
        return self._replace(numbers=self.numbers[rows], scales=scales)


class ProgramWriter:
    """Collects a program and gives the bytes of its file."""

    def __init__(self, unit: int = 1) -> None:
        """Begin with nothing.

        Args:
            unit: time steps in one run of the operations.
        """
        self._unit = unit
        self._constants: list[Array] = []
        self._buffers: list[tuple[int, int]] = []
        self._ports: dict[str, list[list[int]]] = {"inputs": [], "outputs": [], "states": []}
        self._operations: list[bytes] = []
        self._linear: dict[int, tuple[int, int]] = {}
        self._named: dict[str, list[int]] = {}
        self._manifest = NONE
        self._golden_steps = 0

    def constant(self, array: npt.ArrayLike) -> int:
        """Add a constant of one or two axes, in the element type that it has; return its number."""
        table = np.atleast_2d(np.asarray(array))
        if table.ndim != 2:
            raise ValueError(f"a constant of shape {table.shape}, expected one or two axes")
        self._constants.append(np.ascontiguousarray(table))
        return len(self._constants) - 1

    def buffer(self, width: int, dtype: str = "float32") -> int:
        """Add a buffer of ``width`` elements a row; return its number."""
        self._buffers.append((width, TYPES.index(dtype)))
        return len(self._buffers) - 1

    @property
    def unit(self) -> int:
        """Time steps in one run of the operations."""
        return self._unit

    @property
    def constants(self) -> Sequence[Array]:
        """The constants, each of two axes."""
        return self._constants

    @property
    def operations(self) -> list[Operation]:
        """The operations, in order."""
        return [*map(_decoded, self._operations)]

    @property
    def latest(self) -> int:
        """The number of the operation that was added last."""
        return len(self._operations) - 1

    def weights(self, numbers: int, scales: int, stored: int) -> Weights:
        """Return the weights that three arguments name: numbers, scales, one more than scales."""
        own = stored - 1 if scales == NONE else scales
        return Weights(
            self._constants[numbers], None if own < 0 else self._constants[own].reshape(-1), scales != NONE
        )

    def ports(self, kind: str) -> list[Port]:
        """Return the ``inputs``, ``outputs`` or ``states``."""
        return [Port(*port) for port in self._ports[kind]]

    @property
    def buffers(self) -> int:
        """How many buffers there are."""
        return len(self._buffers)

    def width(self, buffer: int) -> int:
        """Return the elements of one row of a buffer."""
        return self._buffers[buffer][0]

    def dtype(self, buffer: int) -> str:
        """Return the type of a buffer's elements."""
        return TYPES[self._buffers[buffer][1]]

    def input(self, name: str, width: int, dtype: str = "float32") -> int:
        """Add an input; return its buffer."""
        buffer = self.buffer(width, dtype)
        self._port("inputs", name, buffer, 0, frames=self._unit)
        return buffer

    def state(self, name: str, width: int, reset: Array | None = None, dtype: str = "float32") -> int:
        """Add a state; return the buffer of its old value. ``next_state`` names that of its new one."""
        buffer = self.buffer(width, dtype)
        value = (
            NONE if reset is None or not reset.any() else self.constant(reset.astype(dtype).reshape(1, -1))
        )
        self._port("states", name, buffer, value)
        return buffer

    def next_state(self, old: int, new: int) -> None:
        """Return which buffer holds the new value of the state in ``old``."""
        next(port for port in self._ports["states"] if port[1] == old)[2] = new

    @property
    def given(self) -> set[int]:
        """The buffers that are written before a step: of inputs and of old states."""
        return {port[1] for kind in ("inputs", "states") for port in self._ports[kind]}

    def linear_rows(self, buffer: int) -> int:
        """Return the outputs of the linear operation without bias that made ``buffer``; 0 where none did."""
        return self._linear.get(buffer, (0, 0))[1]

    def fuse_bias(self, buffer: int, bias: Array) -> bool:
        """Add a bias to the linear operation that made ``buffer``; return whether there is one."""
        if buffer not in self._linear:
            return False
        place = 4 * 4
        index, _ = self._linear.pop(buffer)
        raw = bytearray(self._operations[index])
        raw[place : place + 4] = struct.pack("<I", self._floats(bias))
        self._operations[index] = bytes(raw)
        return True

    def output(self, name: str, buffer: int, *, every_step: bool, delay: int = 0, frames: int = 1) -> None:
        """Add an output, which a chunk gives for every step or for the last one."""
        self._port("outputs", name, buffer, int(every_step), delay, frames if every_step else 0)

    def golden(
        self, inputs: Mapping[str, Array], expected: Mapping[str, tuple[Array, npt.ArrayLike]]
    ) -> None:
        """Store the golden case, which starts from the reset state.

        Args:
            inputs: of each input, ``(L, width)``.
            expected: of outputs their frames without the first ones that mean nothing ``(frames, width)``, or
                the last step's ``(width,)``, and of states after the last step ``(width,)``; each with the
                largest difference allowed, a number or of the same shape.
        """
        for name, array in inputs.items():
            port = self._named[name]
            rows = np.asarray(array, self.dtype(port[1])).reshape(-1, self.width(port[1]))
            self._golden_steps, port[4] = len(rows), self.constant(rows)
        for name, (array, tolerance) in expected.items():
            port = self._named[name]
            pair = array, np.broadcast_to(tolerance, array.shape)
            width, delay, frames = self.width(port[1]), port[6], port[7]
            early = delay * (width // frames) if frames else 0
            port[4:6] = [
                self.constant(np.pad(np.asarray(a, "float32").reshape(-1), (early, 0)).reshape(-1, width))
                for a in pair
            ]

    def operation(self, code: Code, *arguments: float) -> None:
        """Add an operation; a float among the arguments is stored by its bits."""
        words = [
            struct.unpack("<I", struct.pack("<f", value))[0] if isinstance(value, float) else int(value)
            for value in arguments
        ]
        if not 0 <= min(words) <= max(words) <= NONE:
            raise ValueError(f"arguments {words}, expected numbers from 0 to {NONE}")
        self._operations.append(
            struct.pack(f"<{1 + _ARGUMENTS}I", code, *words, *[0] * (_ARGUMENTS - len(words)))
        )

    def linear(
        self, source: int, weights: Array, bias: Array | None = None, scales: Array | None = None
    ) -> int:
        """Add ``source @ weights.T + bias``; return the result.

        Args:
            source: the buffer whose numbers, K at a time, are multiplied.
            weights: ``(M, K)``; int8 where they have scales.
            bias: ``(M,)``.
            scales: ``(M,)``; with them the inputs are quantized.
        """
        rows, columns = weights.shape
        if columns == 0 or self.width(source) % columns:
            raise UnsupportedError(f"weights {weights.shape} for rows of {self.width(source)} numbers")
        out = self.buffer(self.width(source) // columns * rows)
        number, own, stored = self._weights(weights, scales)
        self.operation(Code.LINEAR, source, out, number, self._optional(bias), own, stored)
        if bias is None:
            self._linear[out] = (len(self._operations) - 1, rows)
        return out

    def recurrent(
        self,
        code: Code,
        x: int,
        states: Sequence[int],
        weights: Sequence[Array],
        bias: Array | None = None,
        *,
        peepholes: Array | None = None,
        scales: Sequence[Array | None] | None = None,
        clip: float = 0.0,
        flags: int = 0,
        functions: Sequence[tuple[Function, float, float]],
    ) -> list[int]:
        """Add an LSTM, GRU or RNN layer, in ONNX's order of gates; return the buffers of its new states.

        Args:
            code: which of them.
            x: the buffer of its input.
            states: the buffers of h, and of c for an LSTM.
            weights: W ``(gates * H, I)`` and R ``(gates * H, H)``.
            bias: Wb + Rb; for a GRU both, one behind the other.
            peepholes: input, output, forget, ``(3 * H,)``.
            scales: of the outputs of W and R where they are int8, and their inputs are quantized.
            clip: the limit of what goes into the functions, 0 for none.
            flags: 1 input_forget, 2 linear_before_reset.
            functions: each with alpha and beta.
        """
        new = [self.buffer(self.width(state)) for state in states]
        numbers, own, stored = zip(
            *map(self._weights, weights, (None, None) if scales is None else scales), strict=True
        )
        self.operation(
            code,
            x,
            *self._pair(states),
            *self._pair(new),
            *numbers,
            self._optional(bias),
            self._optional(peepholes),
            *own,
            float(clip),
            flags,
            *(value for kind, alpha, beta in functions for value in (int(kind), float(alpha), float(beta))),
            *[0] * (9 - 3 * len(functions)),
            *stored,
        )
        return new

    def recurrent_again(self, number: int, x: int, states: Sequence[int]) -> list[int]:
        """Add the layer of operation ``number`` once more, for the next frame; return its new states."""
        new = [self.buffer(self.width(state)) for state in states]
        code, arguments = _decoded(self._operations[number])
        places = (x, *self._pair(states), *self._pair(new))
        self.operation(code, *places, *arguments[5:24], number + 1)
        return new

    def unary(self, source: int, kind: Function, alpha: float = 0.0, beta: float = 0.0) -> int:
        """Add a function of each number; return the result."""
        out = self.buffer(self.width(source))
        self.operation(Code.UNARY, source, out, int(kind), float(alpha), float(beta))
        return out

    def binary(self, kind: Binary, a: int, b: "int | Array", *, swap: bool = False) -> int:
        """Add a function of ``a`` and ``b``, a buffer or a constant; return the result.

        Both are float32, or both int64, as the result is then.
        """
        constant, dtype = b if isinstance(b, np.ndarray) else None, self.dtype(a)
        other = constant.size if constant is not None else self.width(b)  # type: ignore[arg-type]
        out = self.buffer(max(self.width(a), other), dtype)
        operands = (b, NONE)
        if constant is not None:
            operands = (NONE, self.constant(np.asarray(constant, dtype).reshape(1, -1)))
        self.operation(Code.BINARY, a, *operands, out, int(kind), int(swap))  # type: ignore[arg-type]
        return out

    def filled(self, values: Array) -> int:
        """Add a buffer that holds ``values`` at every step; return it."""
        out = self.buffer(values.size)
        self.operation(Code.CONSTANT, self._floats(values), out)
        return out

    def where(self, condition: int, a: int, b: int) -> int:
        """Add the choice of ``a`` where the condition is not 0, else ``b``; return the result."""
        out = self.buffer(self.width(condition))
        self.operation(Code.WHERE, condition, a, b, out)
        return out

    def softmax(self, source: int, length: int, *, logarithm: bool = False) -> int:
        """Add softmax over each ``length`` numbers, or its logarithm; return the result."""
        out = self.buffer(self.width(source))
        self.operation(Code.SOFTMAX, source, out, length, int(logarithm))
        return out

    def normalize(
        self, source: int, length: int, epsilon: float, scale: Array | None, bias: Array | None
    ) -> int:
        """Add layer normalization over each ``length`` numbers; return the result."""
        out = self.buffer(self.width(source))
        parameters = self._optional(scale), self._optional(bias)
        self.operation(Code.NORMALIZE, source, out, length, float(epsilon), *parameters)
        return out

    def gather(self, index: int, table: Array) -> int:
        """Add a look-up of rows of ``table (V, E)``; return the result."""
        out = self.buffer(self.width(index) * table.shape[1])
        number, _, stored = self._weights(table, None)
        self.operation(Code.GATHER, index, out, number, stored)
        return out

    def copy(
        self,
        source: int,
        out: int,
        *,
        source_offset: int = 0,
        out_offset: int = 0,
        length: int,
        count: int = 1,
        source_stride: int = 0,
        out_stride: int = 0,
    ) -> None:
        """Add copies of ``count`` stretches of ``length`` numbers into a part of ``out``."""
        places = (source_offset, out_offset, length, count, source_stride, out_stride)
        self.operation(Code.COPY, source, out, *places)

    def past(self, name: str, past: Past, reset: Array) -> int:
        """Add a state that is a ring, with its reset value as the file has it; return its buffer."""
        buffer = self.state(name, past.width, past.to_rows(reset)[0])
        self.next_state(buffer, buffer)
        return buffer

    def window(self, source: int, past: int, first: int, dilation: int, count: int, frames: int = 1) -> int:
        """Add ``count`` frames, ``dilation`` apart, of a past with those of ``source`` behind.

        Args:
            source: the buffer of this step's frames.
            past: that of the past.
            first: the number of the first frame, from the oldest of the past on.
            dilation: how far apart they are.
            count: how many there are.
            frames: how many there are in ``source``.

        Returns:
            The buffer of the result.
        """
        out = self.buffer(self.width(source) // frames * count)
        self.operation(Code.WINDOW, source, past, out, first, dilation, count, frames if frames > 1 else 0)
        return out

    def push(self, source: int, past: int, ring: Past) -> None:
        """Let a past take in frames. Nothing reads it afterwards."""
        self.operation(Code.PUSH, source, past, ring.frames, ring.groups)

    def depthwise(self, source: int, out: int, weights: Array | None, bias: Array | None = None) -> int:
        """Add the sum of K stretches of ``out`` numbers times ``weights (K, out)``, or the largest."""
        made = self.buffer(out)
        self.operation(Code.DEPTHWISE, source, made, self._optional(weights), self._optional(bias))
        return made

    def cast(self, source: int, dtype: str = "float32") -> int:
        """Add a conversion to float32 or int64; return the result."""
        out = self.buffer(self.width(source), dtype)
        self.operation(Code.CAST, source, out)
        return out

    def manifest(self, text: str) -> None:
        """Store the manifest, JSON text."""
        self._manifest = self._text(text)

    def to_bytes(self) -> bytes:
        """Return the file."""
        ports = [port for kind in self._ports.values() for port in kind]
        sizes = (
            _CONSTANT.size * len(self._constants),
            8 * len(self._buffers),
            _PORT.size * len(ports),
            4 * (1 + _ARGUMENTS) * len(self._operations),
        )
        offset = _HEADER.size + sum(sizes)
        tables, data = [], []
        for array in self._constants:
            padding = -offset % 64
            rows, columns = array.shape
            tables.append(_CONSTANT.pack(offset + padding, rows, columns, TYPES.index(array.dtype.name), 0))
            data += [bytes(padding), array.tobytes()]
            offset += padding + array.nbytes
        tables += [struct.pack("<2I", *buffer) for buffer in self._buffers]
        tables += [_PORT.pack(*port) for port in ports]
        body = b"".join([*tables, *self._operations, *data])
        counts = (
            len(self._constants),
            len(self._buffers),
            *(len(kind) for kind in self._ports.values()),
            len(self._operations),
            self._manifest,
            self._golden_steps,
            0,
            self._unit,
        )
        head = _HEADER.pack(_MAGIC, _VERSION, 0, offset, *counts)
        checksum = zlib.crc32(body, zlib.crc32(head[16:]))
        return _HEADER.pack(_MAGIC, _VERSION, checksum, offset, *counts) + body

    def _text(self, text: str) -> int:
        return self.constant(np.frombuffer(text.encode(), np.uint8))

    def _floats(self, array: npt.ArrayLike) -> int:
        return self.constant(np.asarray(array, "float32").reshape(1, -1))

    def _weights(self, numbers: Array, scales: Array | None) -> tuple[int, int, int]:
        """Add weights; return the arguments that ``weights`` takes."""
        if scales is not None:
            return self.constant(np.asarray(numbers, "int8")), self._floats(scales), 0
        if (found := in_int8(numbers := np.asarray(numbers, "float32"))) is None:
            return self.constant(numbers), NONE, 0
        return self.constant(found[0]), NONE, 1 + self._floats(found[1])

    def _optional(self, array: Array | None) -> int:
        return NONE if array is None else self._floats(array)

    def _port(self, kind: str, name: str, buffer: int, option: int, delay: int = 0, frames: int = 0) -> None:
        self._named[name] = [self._text(name), buffer, NONE, option, NONE, NONE, delay, frames]
        self._ports[kind].append(self._named[name])

    @staticmethod
    def _pair(buffers: Sequence[int]) -> tuple[int, int]:
        return (buffers[0], buffers[1] if len(buffers) > 1 else NONE)


def _decoded(raw: bytes) -> Operation:
    code, *arguments = struct.unpack(f"<{1 + _ARGUMENTS}I", raw)
    return Operation(Code(code), tuple(arguments))


def in_int8(weights: Array) -> tuple[Array, Array] | None:
    """Return int8 ``(M, K)`` and scales ``(M,)`` whose products are ``weights`` to the bit, in less memory.

    There are such where a file stores int8 and a scale for each row: a row's largest is 127 times its scale.
    """
    if weights.size < _SMALLEST or weights.shape[1] < 3:
        return None
    peaks = np.abs(weights).max(1, keepdims=True)
    guess = np.where(peaks > 0, peaks / np.float32(127), np.float32(1))
    found, scales = np.zeros(weights.shape, np.int8), np.zeros(len(weights), np.float32)
    open_rows = np.ones(len(weights), bool)
    for scale in (guess, np.nextafter(guess, np.float32(0)), np.nextafter(guess, np.float32(np.inf))):
        whole = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
        fits = open_rows & (whole.astype(np.float32) * scale == weights).all(1)
        found[fits], scales[fits] = whole[fits], scale[fits, 0]
        open_rows &= ~fits
    return None if open_rows.any() else (found, scales)
