"""From a native program to a const table of operations in C; ``lstm_edge_core.h`` describes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import UnsupportedError

from ..native.program import NONE, Binary, Code, Function, Operation, ProgramWriter, Weights
from .memory import RECURRENT, last_reads, lay, plan, size_of, writes

Array = npt.NDArray[np.generic]
Fields = Mapping[str, object]
"""The members of an operation's arguments in C."""
_BEHIND = {"float": 0, "int8_t": 3, "int64_t": 0}
"""Elements that kernels read behind the last one."""
_MOST_ELEMENTS = 1 << 24
"""Elements that a reference can reach."""
_MOST_WIDTH = 0xFFFF
"""Rows and columns of a matrix, and pairs of an operation."""
_MOST_PORTS = 250
"""Inputs and outputs that references can name."""
_TILE = 16
"""Outputs whose float32 weights lie side by side."""


def _ref(base: str, offset: int) -> str:
    if offset >= _MOST_ELEMENTS:
        raise UnsupportedError(f"{offset:,} numbers, expected fewer than {_MOST_ELEMENTS:,} in C")
    return f"LE_REF({base}, {offset})"


def _narrow(size: int) -> int:
    if size > _MOST_WIDTH:
        raise UnsupportedError(f"an operation on {size:,} numbers, expected at most {_MOST_WIDTH:,} in C")
    return size


def literals(values: Array) -> str:
    """Return numbers of float32 or whole numbers as C writes them, separated by commas."""
    return ", ".join(_literal(value) for value in values.reshape(-1))


def _literal(value: Any) -> str:
    if value.dtype == np.int64:
        return "INT64_MIN" if value == np.iinfo(np.int64).min else f"{value}LL"
    if value.dtype.kind != "f":
        return str(value)
    if np.isfinite(value):
        return f"{value!s}f"
    return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"


def _float(bits: int) -> str:
    """Return a float32 that an operation has as an argument."""
    return _literal(np.frombuffer(bits.to_bytes(4, "little"), "<f4")[0])


def _initializer(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f".{name} = {_initializer(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "{" + ", ".join(map(_initializer, value)) + "}"
    return str(value)


def _packed(weights: Array) -> Array:
    """Return ``(M, K)`` weights flat, as ``le_float_product`` takes them."""
    rows = len(weights)
    whole = rows - rows % 4
    stops = [*range(0, whole, _TILE), *range(whole, rows + 1)]
    return np.concatenate([weights[start:stop].T.reshape(-1) for start, stop in pairwise(stops)])


@dataclass
class _Pool:
    """One const array in C: every constant of one type, one behind the other."""

    symbol: str
    c_type: str
    parts: list[tuple[str, Array]] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)
    size: int = 0

    def place(self, name: str, array: Array) -> int:
        """Return where a constant begins; equal ones are stored once."""
        flat = np.ascontiguousarray(array).reshape(-1)
        key = flat.tobytes()
        if key not in self.places:
            self.places[key] = self.size
            self.parts.append((name, flat))
            self.size += flat.size
        return self.places[key]

    def add(self, name: str, array: Array) -> str:
        """Return the pointer to a constant in C."""
        return f"{self.symbol} + {self.place(name, array)}"

    def ref(self, base: str, name: str, array: Array) -> str:
        """Return the reference to a constant."""
        elements = 2 if self.c_type == "int64_t" else 1
        return _ref(base, self.place(name, array) * elements)

    def definition(self) -> str:
        """Return the array in C, each constant behind its name; nothing where there are none."""
        if not self.parts:
            return ""
        lines = "".join(f"    /* {name} */\n    {literals(array)},\n" for name, array in self.parts)
        return (
            f"static const {self.c_type} {self.symbol}[{self.size + _BEHIND[self.c_type]}] = {{\n{lines}}};\n"
        )


class Table:
    """The operations of a program in C.

    Attributes:
        floats, bytes, wholes: the const arrays.
        lines: the definitions of the arguments, then of the table.
        count: operations in the table.
        memory: float32 numbers of working memory.
        quantized: int16 numbers of working memory.
        states: float32 numbers of a state.
        offsets: where each state of the program begins in it.
        reset: the reset values, ``(states,)``.
        checked: whether an input may be out of range.
    """

    def __init__(self, writer: ProgramWriter) -> None:
        self._writer, self._operations = writer, writer.operations
        ports = len(writer.ports("inputs")) + len(writer.ports("outputs"))
        if ports > _MOST_PORTS:
            raise UnsupportedError(f"{ports} inputs and outputs, expected at most {_MOST_PORTS} in C")
        self.floats, self.bytes = _Pool("floats", "float"), _Pool("bytes", "int8_t")
        self.wholes = _Pool("wholes", "int64_t")
        self.lines: list[str] = []
        self._entries: list[str] = []
        self.quantized = 0
        self.checked = False
        self._refs: dict[int, str] = {}
        self.pools = (self.floats, self.wholes)
        """The const arrays that references reach, in the order of their bases."""
        self.offsets, self.states, self.reset = self._lay_states()
        self._place_constants()
        copies = self._place_ports()
        self._gates = self._plan()
        self._number = 0
        """The operation that is written, for the names of its constants."""
        for number, operation in enumerate(self._operations):
            self._number = number
            _EMIT[operation.code](self, operation)
        for source, target, width in copies:
            self._copy_op(self._refs[source], target, width)
        self.count = len(self._entries)
        self.lines.append(f"static const le_op operations[] = {{\n{''.join(self._entries)}}};")

    # where each buffer lies

    def _lay_states(self) -> tuple[list[int], int, Array]:
        """Return where each state begins, their size, and their reset values; whole numbers come first."""
        ports, writer = self._writer.ports("states"), self._writer
        offsets, size = [0] * len(ports), 0
        for number in sorted(range(len(ports)), key=lambda each: writer.dtype(ports[each].buffer) != "int64"):
            offsets[number] = size
            size += size_of(writer, ports[number].buffer)
        reset = np.zeros(size, np.float32)
        for port, start in zip(ports, offsets, strict=True):
            if port.option != NONE and writer.dtype(port.buffer) != "int64":
                reset[start : start + writer.width(port.buffer)] = writer.constants[port.option]
        return offsets, len(reset), reset

    def _place_constants(self) -> None:
        for number, operation in enumerate(self._operations):
            if operation.code == Code.CONSTANT:
                values = self._writer.constants[operation.arguments[0]]
                self._refs[operation.arguments[1]] = self._operand(f"{number} value", values)

    def _place_ports(self) -> list[tuple[int, str, int]]:
        """Place inputs, outputs and states; return what has to be copied in the end: from, to, how many."""
        writer, last, copies = self._writer, last_reads(self._writer), []
        inputs, outputs, states = (writer.ports(kind) for kind in ("inputs", "outputs", "states"))
        writer_of = {
            buffer: number for number, each in enumerate(self._operations) for buffer in writes(each)
        }
        for number, port in enumerate(inputs):
            self._refs[port.buffer] = f"LE_REF(LE_PORTS + {number}, 0)"
        for port, offset in zip(states, self.offsets, strict=True):
            place = self._refs[port.buffer] = _ref("LE_STATE", offset)
            number = writer_of.get(port.next, -1)
            recurrent = number >= 0 and self._operations[number].code in RECURRENT
            if recurrent and last[port.buffer] == number and port.next not in self._refs:
                self._refs[port.next] = place
            elif port.next != port.buffer:
                copies.append((port.next, place, size_of(writer, port.buffer)))
        for number, port in enumerate(outputs):
            place = f"LE_REF(LE_PORTS + {len(inputs) + number}, 0)"
            if port.buffer in self._refs:
                copies.append((port.buffer, place, writer.width(port.buffer)))
            else:
                self._refs[port.buffer] = place
        return copies

    def _plan(self) -> dict[int, str]:
        spans, gates = plan(self._writer, self._refs)
        self.memory = max(1, lay([*spans.values(), *gates.values()]))
        self._refs |= {buffer: _ref("LE_MEMORY", span.offset) for buffer, span in spans.items()}
        return {number: _ref("LE_MEMORY", span.offset) for number, span in gates.items()}

    # parts of operations

    def _add(self, kernel: str, struct: str, fields: Fields) -> None:
        name = f"operation_{len(self._entries)}"
        self.lines.append(f"static const {struct} {name} = {_initializer(fields)};")
        self._entries.append(f"    {{{kernel}, &{name}}},\n")

    def _vector(self, number: int, name: str) -> str:
        return "NULL" if number == NONE else self.floats.add(name, self._writer.constants[number])

    def _operand(self, name: str, values: Array) -> str:
        """Return the reference of a constant that stands in for a buffer."""
        return self.floats.ref("LE_FLOATS", name, values)

    def _matrix(self, name: str, weights: Weights) -> Fields:
        numbers, scales, quantized = weights
        rows, columns = numbers.shape
        if max(rows, columns) > _MOST_WIDTH:
            raise UnsupportedError(
                f"weights {numbers.shape}, expected at most {_MOST_WIDTH} rows and columns in C"
            )
        shape = {"rows": rows, "columns": columns}
        if scales is None:
            packed = self.floats.add(f"{name} weights", _packed(numbers))
            return {"product": "le_float_product", "weights": packed, **shape}
        fields = {"weights": self.bytes.add(f"{name} weights", numbers), **shape}
        if quantized:
            self.quantized = max(self.quantized, columns + -columns % 4)
            if (scales == scales[0]).all():
                scale = self.floats.add(f"{name} scale", scales[:1])
                return {"product": "le_int8_product", "scales": scale, **fields}
        product = "le_int8_scaled_product" if quantized else "le_stored_product"
        return {"product": product, "scales": self.floats.add(f"{name} scales", scales), **fields}

    @staticmethod
    def _function(kind: int, alpha: int = 0, beta: int = 0) -> Fields:
        return {"map": f"le_{Function(kind).name.lower()}", "alpha": _float(alpha), "beta": _float(beta)}

    def _copy_op(self, source: str, target: str, length: int, count: int = 1, *steps: int) -> None:
        fields = {"x": source, "y": target, "length": length, "count": count}
        self._add("le_copy", "le_copy_op", fields | dict(zip(("step_x", "step_y"), steps, strict=False)))

    # operations

    def _linear(self, operation: Operation) -> None:
        x, y, numbers, bias, scales, stored = operation.arguments[:6]
        weights = self._writer.weights(numbers, scales, stored)
        count = self._writer.width(x) // weights.numbers.shape[1]
        start = self._start(bias, self._refs[y], self._writer.width(y))
        self._product(f"{self._number}", weights, start, self._refs[x], self._refs[y], count)

    def _start(self, bias: int, y: str, width: int) -> str:
        """Return what a product is added to: its bias, or its result, set to zero."""
        if bias != NONE:
            return self._operand(f"{self._number} bias", self._writer.constants[bias])
        self._add("le_zero", "le_copy_op", {"y": y, "length": width})
        return y

    def _product(self, name: str, weights: Weights, start: str, x: str, y: str, count: int = 1) -> None:
        """Add y = start + weights * x."""
        fields: Fields = {"x": x, "start": start, "y": y, "count": count, "w": self._matrix(name, weights)}
        self._add("le_linear", "le_linear_op", fields)

    def _lstm(self, operation: Operation) -> None:
        cell = _Cell(self, operation)
        i, o, forget, z, extra = map(cell.gate, range(5))
        cell.products(self._writer.constants[cell.bias] if cell.bias != NONE else None)
        if cell.peepholes == NONE:
            cell.function(0, i, 3)
        else:
            for part, gate in ((0, i), (2, forget)):
                cell.peep(part, cell.c, extra, gate)
                cell.function(0, gate)
        cell.function(1, z)
        if cell.flags & 1:
            cell.one_minus(i, forget)
        self._mix("mix", cell.hidden, cell.new_c, a=forget, b=cell.c, c=i, d=z)
        if cell.peepholes != NONE:
            cell.peep(1, cell.new_c, extra, o)
            cell.function(0, o)
        self._map(cell.functions[2], cell.new_c, z, cell.hidden)
        self._pair("multiply", o, z, cell.new_h, cell.hidden)

    def _gru(self, operation: Operation) -> None:
        cell = _Cell(self, operation)
        update, reset, fresh, through = map(cell.gate, range(4))
        before, bias, fresh_bias = bool(cell.flags & 2), None, None
        if cell.bias != NONE:
            both = self._writer.constants[cell.bias].reshape(2, -1)
            bias = both[0] + both[1]
            if before:
                bias[2 * cell.hidden :], fresh_bias = both[0, 2 * cell.hidden :], both[1, 2 * cell.hidden :]
        last = cell.r.rows(slice(2 * cell.hidden, None))
        cell.products(bias, 2)
        if before:
            start = through
            if fresh_bias is None:
                self._add("le_zero", "le_copy_op", {"y": through, "length": cell.hidden})
            else:
                start = self._operand(f"{self._number} fresh bias", fresh_bias)
            self._product(f"{self._number} fresh", last, start, cell.h, through)
        cell.function(0, update, 2)
        if before:
            self._mix("accumulate", cell.hidden, fresh, a=reset, b=through, d=fresh)
        else:
            self._pair("multiply", reset, cell.h, through, cell.hidden)
            self._product(f"{self._number} fresh", last, fresh, through, fresh)
        cell.function(1, fresh)
        self._mix("blend", cell.hidden, cell.new_h, a=update, b=cell.h, d=fresh)

    def _rnn(self, operation: Operation) -> None:
        cell = _Cell(self, operation)
        cell.products(self._writer.constants[cell.bias] if cell.bias != NONE else None)
        cell.limit(cell.gate(0))
        self._map(cell.functions[0], cell.gate(0), cell.new_h, cell.hidden)

    def _map(self, function: Fields, x: str, y: str, n: int) -> None:
        self._add("le_unary", "le_unary_op", {"x": x, "y": y, "n": n, "f": function})

    def _pair(self, kind: str, a: str, b: str, y: str, n: int, many_a: int = 1, many_b: int = 1) -> None:
        fields = {
            "a": a,
            "b": b,
            "y": y,
            "n": _narrow(n),
            "many_a": many_a,
            "many_b": many_b,
            "pair": f"le_{kind}",
        }
        self._add("le_binary", "le_binary_op", fields)

    def _mix(self, kind: str, n: int, y: str, **operands: str) -> None:
        self._add(f"le_{kind}", "le_mix_op", {**operands, "y": y, "n": n})

    def _whole_op(self, kind: Binary, a: str, b: str, y: str, n: int, many: tuple[int, int]) -> None:
        fields = {"a": a, "b": b, "y": y, "n": _narrow(n), "many_a": many[0], "many_b": many[1]}
        self._add("le_whole", "le_whole_op", fields | {"kind": f"LE_{kind.name}"})

    def _unary(self, operation: Operation) -> None:
        x, y, *function = operation.arguments[:5]
        self._map(self._function(*function), self._refs[x], self._refs[y], self._writer.width(y))

    def _binary(self, operation: Operation) -> None:
        a, b, constant, y, kind, swap = operation.arguments[:6]
        operands = [(self._refs[a], self._writer.width(a))]
        if constant == NONE:
            operands.append((self._refs[b], self._writer.width(b)))
        else:
            values = self._writer.constants[constant]
            pool = ("LE_WHOLES", self.wholes) if values.dtype == np.int64 else ("LE_FLOATS", self.floats)
            operands.append((pool[1].ref(pool[0], f"{self._number} value", values), values.size))
        (left, left_width), (right, right_width) = operands[::-1] if swap else operands
        many, width = (int(left_width > 1), int(right_width > 1)), self._writer.width(y)
        if self._writer.dtype(a) == "int64":
            self._whole_op(Binary(kind), left, right, self._refs[y], width, many)
        else:
            self._pair(Binary(kind).name.lower(), left, right, self._refs[y], width, *many)

    def _where(self, operation: Operation) -> None:
        refs = zip(
            ("condition", "a", "b", "y"), (self._refs[each] for each in operation.arguments[:4]), strict=True
        )
        self._add("le_where", "le_where_op", dict(refs) | {"n": self._writer.width(operation.arguments[3])})

    def _softmax(self, operation: Operation) -> None:
        x, y, length, logarithm = operation.arguments[:4]
        self._in_rows("le_log_softmax" if logarithm else "le_softmax", x, y, length, {})

    def _normalize(self, operation: Operation) -> None:
        x, y, length, epsilon, scale, bias = operation.arguments[:6]
        own = {
            "scale": self._vector(scale, f"{self._number} scale"),
            "bias": self._vector(bias, f"{self._number} bias"),
        }
        self._in_rows("le_normalize", x, y, length, own | {"epsilon": _float(epsilon)})

    def _in_rows(self, kernel: str, x: int, y: int, length: int, own: Fields) -> None:
        fields = {
            "x": self._refs[x],
            "y": self._refs[y],
            "count": self._writer.width(x) // length,
            "length": length,
        }
        self._add(kernel, "le_rows_op", {**fields, **own})

    def _gather(self, operation: Operation) -> None:
        index, y, numbers, stored = operation.arguments[:4]
        table, scales, _ = self._writer.weights(numbers, NONE, stored)
        given = index in {port.buffer for port in self._writer.ports("inputs")}
        fields = {"index": self._refs[index], "y": self._refs[y], "count": self._writer.width(index)}
        fields |= {
            "type": "LE_INT32" if given else "LE_INT64",
            "rows": table.shape[0],
            "columns": table.shape[1],
        }
        pool = self.floats if scales is None else self.bytes
        fields["table"] = pool.add(f"{self._number} table", table)
        fields["scales"] = "NULL" if scales is None else self.floats.add(f"{self._number} scales", scales)
        self._add("le_gather", "le_gather_op", fields)
        if given:
            self._entries.insert(0, self._entries[-1].replace("le_gather", "le_check_rows"))
            self.checked = True

    def _copy(self, operation: Operation) -> None:
        x, y, offset_x, offset_y, length, count, step_x, step_y = operation.arguments[:8]
        source, target = f"{self._refs[x]} + {offset_x}", f"{self._refs[y]} + {offset_y}"
        self._copy_op(source, target, length, count, step_x, step_y)

    def _window(self, operation: Operation) -> None:
        x, past, y, first, dilation, count, new = operation.arguments[:7]
        width = self._writer.width(x) // max(1, new)
        fields = {"y": self._refs[y], "first": first, "dilation": dilation, "count": count}
        self._ring("le_window", x, past, width, fields)

    def _push(self, operation: Operation) -> None:
        x, past, frames = operation.arguments[:3]
        width = (self._writer.width(past) - 1) // frames
        self._ring("le_push", x, past, width, {"count": self._writer.width(x) // width})

    def _ring(self, kernel: str, x: int, past: int, width: int, own: Fields) -> None:
        frames = (self._writer.width(past) - 1) // width
        fields = {"x": self._refs[x], "past": self._refs[past], "frames": frames, "n": width}
        self._add(kernel, "le_ring_op", {**fields, **own})

    def _depthwise(self, operation: Operation) -> None:
        x, y, weights, bias = operation.arguments[:4]
        width = self._writer.width(y)
        fields = {"x": self._refs[x], "y": self._refs[y], "k": self._writer.width(x) // width, "n": width}
        fields |= {
            "weights": self._vector(weights, f"{self._number} weights"),
            "bias": self._vector(bias, f"{self._number} bias"),
        }
        self._add("le_depthwise", "le_depthwise_op", fields)

    def _constant(self, operation: Operation) -> None:
        """Nothing: whoever reads the buffer reads the constant."""

    def _cast(self, operation: Operation) -> None:
        x, y = operation.arguments[:2]
        given = x in {port.buffer for port in self._writer.ports("inputs")}
        kinds = {"float32": "LE_FLOAT", "int64": "LE_INT64"}
        source = "LE_INT32" if given and self._writer.dtype(x) != "float32" else kinds[self._writer.dtype(x)]
        fields = {"x": self._refs[x], "y": self._refs[y], "n": self._writer.width(y), "from": source}
        self._add("le_cast", "le_cast_op", fields | {"to": kinds[self._writer.dtype(y)]})


class _Cell:
    """A recurrent layer on its way to simple operations: products, functions, and sums."""

    def __init__(self, table: Table, operation: Operation) -> None:
        arguments, refs, writer = operation.arguments, table._refs, table._writer
        self._table = table
        self.x, self.h, self.c, self.new_h, self.new_c = (refs.get(buffer, "") for buffer in arguments[:5])
        self.w, self.r = (writer.weights(*(arguments[place + i] for place in (5, 9, 22))) for i in (0, 1))
        self.bias, self.peepholes, self.flags = arguments[7], arguments[8], arguments[12]
        self.hidden = self.r.numbers.shape[1]
        self.functions = [table._function(*arguments[place : place + 3]) for place in (13, 16, 19)]
        self._clip = arguments[11]

    def gate(self, number: int) -> str:
        """Return the reference of a gate's sums."""
        return f"{self._table._gates[self._table._number]} + {number * self.hidden}"

    def products(self, bias: Array | None, gates: int | None = None) -> None:
        """Add the products of the input and of the old state, of the first ``gates`` gates or of all."""
        table, sums, start = self._table, self.gate(0), self.gate(0)
        if bias is None:
            table._add("le_zero", "le_copy_op", {"y": sums, "length": len(self.w.numbers)})
        else:
            start = table._operand(f"{self._table._number} bias", bias)
        table._product(f"{self._table._number} input", self.w, start, self.x, sums)
        hidden = self.r if gates is None else self.r.rows(slice(gates * self.hidden))
        table._product(f"{self._table._number} hidden", hidden, sums, self.h, sums)

    def limit(self, place: str, gates: int = 1) -> None:
        """Add the limit of what goes into functions, if there is one."""
        if self._clip:
            limits = {"map": "le_clip", "alpha": f"-{_float(self._clip)}", "beta": _float(self._clip)}
            self._table._map(limits, place, place, gates * self.hidden)

    def function(self, number: int, place: str, gates: int = 1) -> None:
        """Add a function of some gates, in place."""
        self.limit(place, gates)
        self._table._map(self.functions[number], place, place, gates * self.hidden)

    def one_minus(self, x: str, y: str) -> None:
        """Add y = 1 - x."""
        self._table._map({"map": "le_affine", "alpha": "-1.0f", "beta": "1.0f"}, x, y, self.hidden)

    def peep(self, part: int, state: str, extra: str, gate: str) -> None:
        """Add a part of the peepholes, times a state, to a gate."""
        weights = self._table._writer.constants[self.peepholes].reshape(3, -1)[part]
        peephole = self._table._operand(f"{self._table._number} peephole {part}", weights)
        self._table._pair("multiply", peephole, state, extra, self.hidden)
        self._table._pair("add", extra, gate, gate, self.hidden)


_EMIT: Mapping[Code, Callable[[Table, Operation], None]] = {
    Code.LINEAR: Table._linear,
    Code.LSTM: Table._lstm,
    Code.GRU: Table._gru,
    Code.RNN: Table._rnn,
    Code.UNARY: Table._unary,
    Code.BINARY: Table._binary,
    Code.SOFTMAX: Table._softmax,
    Code.NORMALIZE: Table._normalize,
    Code.GATHER: Table._gather,
    Code.COPY: Table._copy,
    Code.CAST: Table._cast,
    Code.CONSTANT: Table._constant,
    Code.WHERE: Table._where,
    Code.WINDOW: Table._window,
    Code.PUSH: Table._push,
    Code.DEPTHWISE: Table._depthwise,
}
