"""From a native program to a const table of operations in C; ``lstm_edge_core.h``
describes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import UnsupportedError

from ..native.blocks import LIST_START, find_blocks
from ..native.operations import ACTIVATIONS, NONE, RECURRENT, Code, Operation
from ..native.program import Binary, Function, ProgramWriter, Weights
from .memory import last_reads, lay, plan, size_of

Array = npt.NDArray[np.generic]
Fields = Mapping[str, object]
"""The members of an operation's arguments in C."""
_READ_AFTER = {"float": 0, "int8_t": 3, "int64_t": 0, "uint16_t": 0}
"""Number of elements that kernels read after the last one."""
_MOST_ELEMENTS = 1 << 24
"""Elements that a reference can reach."""
_MOST_WIDTH = 0xFFFF
"""Rows and columns of a matrix, and pairs of an operation."""
_MOST_PORTS = 250
"""Inputs and outputs that references can name."""
_TILE = 16
"""Number of outputs whose float32 weights are interleaved."""


def _ref(base: str, offset: int) -> str:
    """Return a reference to an element of an array in C."""
    if offset >= _MOST_ELEMENTS:
        raise UnsupportedError(
            f"{offset:,} numbers, expected fewer than {_MOST_ELEMENTS:,} in C"
        )
    return f"LC_REF({base}, {offset})"


def _checked_width(size: int) -> int:
    """Return ``size``; refuse sizes that C's fields can't hold."""
    if size > _MOST_WIDTH:
        raise UnsupportedError(
            f"an operation on {size:,} numbers, expected at most {_MOST_WIDTH:,} in C"
        )
    return size


def literals(values: Array) -> str:
    """Return numbers of float32 or whole numbers as C writes them, separated by
    commas.
    """
    return ", ".join(_literal(value) for value in values.reshape(-1))


def _literal(value: Any) -> str:
    """Return a number as a literal in C."""
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
    """Return the C initializer of the numbers."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(
                f".{name} = {_initializer(entry)}" for name, entry in value.items()
            )
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "{" + ", ".join(map(_initializer, value)) + "}"
    return str(value)


def _packed(weights: Array) -> Array:
    """Return ``(M, K)`` weights flat, as ``lc_float_product`` takes them."""
    rows = len(weights)
    whole = rows - rows % 4
    stops = [*range(0, whole, _TILE), *range(whole, rows + 1)]
    return np.concatenate(
        [weights[start:stop].T.reshape(-1) for start, stop in pairwise(stops)]
    )


@dataclass
class _Pool:
    """One const array in C: all constants of one type in a row; equal ones are stored
    once.
    """

    symbol: str
    """Name of the array in C."""
    c_type: str
    """Type of its elements."""
    constants: list[Array] = field(default_factory=list)
    """The constants, in their order."""
    offsets: dict[bytes, int] = field(default_factory=dict)
    """Offset of each constant, by its bytes."""
    size: int = 0
    """Number of elements so far."""

    def offset(self, array: Array) -> int:
        """Return the offset of a constant."""
        flat = np.ascontiguousarray(array).reshape(-1)
        offset = self.offsets.setdefault(flat.tobytes(), self.size)
        if offset == self.size:
            self.constants.append(flat)
            self.size += flat.size
        return offset

    def add(self, array: Array) -> str:
        """Return the pointer to a constant in C."""
        return f"{self.symbol} + {self.offset(array)}"

    @property
    def nbytes(self) -> int:
        """Size of the constants, in bytes."""
        return sum(array.nbytes for array in self.constants)

    def definition(self) -> str:
        """Return the array in C, one constant per line; "" without constants."""
        lines = "".join(f"    {literals(array)},\n" for array in self.constants)
        size = self.size + _READ_AFTER[self.c_type]
        return (
            f"static const {self.c_type} {self.symbol}[{size}] = {{\n{lines}}};\n"
            if lines
            else ""
        )


class Table:
    """The operations of a program in C.

    Attributes:
        writer: the program.
        floats, bytes, wholes, columns: the const arrays.
        lines, count: the definitions of the arguments, then of the table, and its
            operations.
        memory, quantized, states: float32 and int16 numbers of working memory; float32
            numbers of a state.
        offsets, reset: where each state of the program begins in it; its reset values
            ``(states,)``.
    """

    def __init__(self, writer: ProgramWriter) -> None:
        """Translate all operations of a program."""
        self.writer = writer
        self._operations = writer.operations
        ports = len(writer.ports("inputs")) + len(writer.ports("outputs"))
        if ports > _MOST_PORTS:
            raise UnsupportedError(
                f"{ports} inputs and outputs, expected at most {_MOST_PORTS} in C"
            )
        self.floats = _Pool("floats", "float")
        self.bytes = _Pool("bytes", "int8_t")
        self.wholes = _Pool("wholes", "int64_t")
        self.columns = _Pool("columns", "uint16_t")
        self.lines: list[str] = []
        self._entries: list[str] = []
        self.quantized = 0
        self._refs: dict[int, str] = {}
        self.pools = (self.floats, self.wholes)
        """The const arrays that references reach, in the order of their bases."""
        self.arrays = (*self.pools, self.bytes, self.columns)
        """All const arrays."""
        self.offsets, self.states, self.reset = self._lay_states()
        self._place_constants()
        copies = self._place_ports()
        self._gates = self._plan()
        for number, operation in enumerate(self._operations):
            self._number = number
            getattr(self, f"_{operation.code.name.lower()}")(operation)
        for source, target, width in copies:
            self._copy_op(self._refs[source], target, width)
        self.count = len(self._entries)
        self.lines.append(
            f"static const lc_op operations[] = {{\n{''.join(self._entries)}}};"
        )

    @property
    def constant_bytes(self) -> int:
        """Size of the const arrays in flash."""
        return sum(pool.nbytes for pool in self.arrays)

    # where each buffer lies

    def _lay_states(self) -> tuple[list[int], int, Array]:
        """Return the offset of each state, their size and reset values; whole numbers
        come first.
        """
        ports = self.writer.ports("states")
        writer = self.writer
        offsets = [0] * len(ports)
        size = 0
        for number in sorted(
            range(len(ports)), key=lambda i: writer.dtype(ports[i].buffer) != "int64"
        ):
            offsets[number] = size
            size += size_of(writer, ports[number].buffer)
        reset = np.zeros(size, np.float32)
        for port, start in zip(ports, offsets, strict=True):
            if port.option != NONE and writer.dtype(port.buffer) != "int64":
                reset[start : start + writer.width(port.buffer)] = writer.constants[
                    port.option
                ]
        return offsets, len(reset), reset

    def _place_constants(self) -> None:
        """Put the program's constants into the const arrays."""
        for operation in self._operations:
            if operation.code == Code.CONSTANT:
                values = self._operand(operation.argument("values"))
                self._refs[operation.argument("y")] = values

    def _place_ports(self) -> list[tuple[int, str, int]]:
        """Place inputs, outputs and states; return the final copies: from, to, how
        many.
        """
        writer = self.writer
        last = last_reads(self.writer)
        copies = []
        inputs, outputs, states = (
            writer.ports(role) for role in ("inputs", "outputs", "states")
        )
        writer_of = {
            buffer: number
            for number, op in enumerate(self._operations)
            for buffer in op.writes
        }
        for number, port in enumerate(inputs):
            self._refs[port.buffer] = f"LC_REF(LC_PORTS + {number}, 0)"
        for port, offset in zip(states, self.offsets, strict=True):
            ref = self._refs[port.buffer] = _ref("LC_STATE", offset)
            number = writer_of.get(port.next, -1)
            recurrent = number >= 0 and self._operations[number].code in RECURRENT
            if (
                recurrent
                and last[port.buffer] == number
                and port.next not in self._refs
            ):
                self._refs[port.next] = ref
            elif port.next != port.buffer:
                copies.append((port.next, ref, size_of(writer, port.buffer)))
        for number, port in enumerate(outputs):
            ref = f"LC_REF(LC_PORTS + {len(inputs) + number}, 0)"
            if port.buffer in self._refs:
                copies.insert(
                    0, (port.buffer, ref, writer.width(port.buffer))
                )  # before a state changes
            else:
                self._refs[port.buffer] = ref
        return copies

    def _plan(self) -> dict[int, str]:
        """Place all buffers in memory and return the references to the layers' gates."""
        spans, gates = plan(self.writer, self._refs)
        self.memory = max(1, lay([*spans.values(), *gates.values()]))
        self._refs |= {
            buffer: _ref("LC_MEMORY", span.offset) for buffer, span in spans.items()
        }
        return {
            number: _ref("LC_MEMORY", span.offset) for number, span in gates.items()
        }

    # parts of operations

    def _add(self, kernel: str, struct: str, fields: Fields) -> None:
        """Add one operation: a kernel of ``lc_`` and its struct."""
        name = f"operation_{len(self._entries)}"
        self.lines.append(f"static const {struct} {name} = {_initializer(fields)};")
        self._entries.append(f"    {{{kernel}, &{name}}},\n")

    def _vector(self, number: int) -> str:
        """Return a reference to a constant vector; ``NULL`` for none."""
        return (
            "NULL" if number == NONE else self.floats.add(self.writer.constants[number])
        )

    def _operand(self, number: int, width: int = 0) -> str:
        """Return the reference of a constant that stands in for a buffer; of ``width``
        zeros for none.
        """
        values = (
            np.zeros(width, np.float32)
            if number == NONE
            else self.writer.constants[number]
        )
        whole = values.dtype == np.int64
        pool, base = (self.wholes, "LC_WHOLES") if whole else (self.floats, "LC_FLOATS")
        return _ref(base, pool.offset(values) * (1 + whole))

    def _matrix(self, weights: Weights) -> Fields:
        """Add the weights of a product, interleaved for the core, and return their
        reference.
        """
        numbers, scales, quantized = weights
        rows, columns = numbers.shape
        if max(rows, columns) > _MOST_WIDTH:
            raise UnsupportedError(
                f"weights {numbers.shape}, expected at most {_MOST_WIDTH} rows and"
                " columns in C"
            )
        shape: dict[str, object] = {"rows": rows, "columns": columns}
        layout = "product"
        blocks = find_blocks(numbers, quantized=quantized)
        if blocks is not None:
            layout = "blocks"
            shape["blocks"] = self.columns.add(blocks.listed()[LIST_START:])
        if scales is None:
            packed = _packed(numbers) if blocks is None else blocks.numbers
            return {
                "product": f"lc_float_{layout}",
                "weights": self.floats.add(packed),
                **shape,
            }
        product = f"lc_stored_{layout}"
        if quantized:
            self.quantized = max(self.quantized, columns + -columns % 4)
            same = bool((scales == scales[0]).all())
            product, scales = (
                (f"lc_int8_{layout}", scales[:1])
                if same
                else (f"lc_int8_scaled_{layout}", scales)
            )
        return {
            "product": product,
            "scales": self.floats.add(scales),
            "weights": self.bytes.add(numbers if blocks is None else blocks.numbers),
            **shape,
        }

    @staticmethod
    def _function(number: int, alpha: int = 0, beta: int = 0) -> Fields:
        """Return the fields of ``lc_function``."""
        return {
            "map": f"lc_{Function(number).name.lower()}",
            "alpha": _float(alpha),
            "beta": _float(beta),
        }

    def _copy_op(
        self,
        source: str,
        target: str,
        length: int,
        count: int = 1,
        steps: Fields | None = None,
    ) -> None:
        """Add a copy of ``count`` runs of ``length`` numbers; ``steps`` are from run to
        run.
        """
        fields = {"x": source, "y": target, "length": length, "count": count}
        self._add("lc_copy", "lc_copy_op", {**fields, **(steps or {})})

    # operations

    def _linear(self, operation: Operation) -> None:
        """Translate a product with a constant matrix, for one row or several."""
        arguments = operation.named
        weights = self.writer.weights(
            arguments["weights"], arguments["scales"], arguments["stored"]
        )
        rows = len(weights.numbers)
        count = self.writer.width(arguments["y"]) // rows
        start = self._operand(arguments["bias"], rows)
        x = self._refs[arguments["x"]]
        self._product(
            weights, start=start, x=x, y=self._refs[arguments["y"]], count=count
        )

    def _product(
        self, weights: Weights, *, start: str, x: str, y: str, count: int = 1
    ) -> None:
        """Add y = start + weights * x."""
        fields: Fields = {
            "x": x,
            "start": start,
            "y": y,
            "count": count,
            "w": self._matrix(weights),
        }
        self._add("lc_linear", "lc_linear_op", fields)

    def _lstm(self, operation: Operation) -> None:
        """Translate one step of an LSTM."""
        cell = _Cell(self, operation)
        i, o, forget, z = map(cell.gate, range(4))
        cell.products(cell.bias)
        cell.function(0, i, 3)
        cell.function(1, z)
        self._mix("mix", cell.hidden, cell.new_c, a=forget, b=cell.c, c=i, d=z)
        self._map(cell.functions[2], x=cell.new_c, y=z, n=cell.hidden)
        self._pair("multiply", a=o, b=z, y=cell.new_h, n=cell.hidden)

    def _gru(self, operation: Operation) -> None:
        """Add the operations of a GRU."""
        cell = _Cell(self, operation)
        update, reset, candidate, through = map(cell.gate, range(4))
        both = cell.bias.reshape(2, -1)
        bias = both[0] + both[1]
        last = slice(2 * cell.hidden, None)
        if cell.resets_last:
            bias[last] = both[0, last]
        cell.products(bias, 2)
        if cell.resets_last:
            start = _ref("LC_FLOATS", self.floats.offset(both[1, last]))
            self._product(cell.r.rows(last), start=start, x=cell.h, y=through)
        cell.function(0, update, 2)
        if cell.resets_last:
            self._mix(
                "accumulate", cell.hidden, candidate, a=reset, b=through, d=candidate
            )
        else:
            self._pair("multiply", a=reset, b=cell.h, y=through, n=cell.hidden)
            self._product(cell.r.rows(last), start=candidate, x=through, y=candidate)
        cell.function(1, candidate)
        self._mix("blend", cell.hidden, cell.new_h, a=update, b=cell.h, d=candidate)

    def _rnn(self, operation: Operation) -> None:
        """Translate one step of an RNN."""
        cell = _Cell(self, operation)
        cell.products(cell.bias)
        self._map(cell.functions[0], x=cell.gate(0), y=cell.new_h, n=cell.hidden)

    def _map(self, function: Fields, *, x: str, y: str, n: int) -> None:
        """Apply a function of one number to each of ``n`` numbers."""
        self._add("lc_unary", "lc_unary_op", {"x": x, "y": y, "n": n, "f": function})

    def _pair(
        self,
        function: str,
        *,
        a: str,
        b: str,
        y: str,
        n: int,
        many: tuple[int, int] = (1, 1),
    ) -> None:
        """Apply a function of two numbers, elementwise."""
        many_a, many_b = many
        fields = {
            "a": a,
            "b": b,
            "y": y,
            "n": _checked_width(n),
            "many_a": many_a,
            "many_b": many_b,
        }
        self._add("lc_binary", "lc_binary_op", fields | {"pair": f"lc_{function}"})

    def _mix(self, kernel: str, n: int, y: str, **operands: str) -> None:
        """Add ``lc_mix``, ``lc_blend`` or ``lc_accumulate``."""
        self._add(f"lc_{kernel}", "lc_mix_op", {**operands, "y": y, "n": n})

    def _unary(self, operation: Operation) -> None:
        """Translate a function of one number."""
        arguments = operation.named
        function = self._function(
            arguments["kind"], arguments["alpha"], arguments["beta"]
        )
        y = arguments["y"]
        width = self.writer.width(y)
        self._map(function, x=self._refs[arguments["x"]], y=self._refs[y], n=width)

    def _binary(self, operation: Operation) -> None:
        """Add a function of two operands, element by element."""
        arguments = operation.named
        a = arguments["a"]
        b = arguments["b"]
        constant = arguments["constant"]
        y = arguments["y"]
        function = arguments["kind"]
        operands = [(self._refs[a], self.writer.width(a))]
        if constant == NONE:
            operands.append((self._refs[b], self.writer.width(b)))
        else:
            operands.append(
                (self._operand(constant), self.writer.constants[constant].size)
            )
        (left, left_width), (right, right_width) = (
            reversed(operands) if arguments["swap"] else operands
        )
        many = (int(left_width > 1), int(right_width > 1))
        width = self.writer.width(y)
        if self.writer.dtype(a) != "int64":
            self._pair(
                Binary(function).name.lower(),
                a=left,
                b=right,
                y=self._refs[y],
                n=width,
                many=many,
            )
            return
        fields = {
            "a": left,
            "b": right,
            "y": self._refs[y],
            "n": _checked_width(width),
            "many_a": many[0],
            "many_b": many[1],
        }
        self._add(
            "lc_whole", "lc_whole_op", fields | {"kind": f"LC_{Binary(function).name}"}
        )

    def _where(self, operation: Operation) -> None:
        """Translate a choice between two buffers."""
        fields = {name: self._refs[buffer] for name, buffer in operation.named.items()}
        n = self.writer.width(operation.argument("y"))
        self._add("lc_where", "lc_where_op", {**fields, "n": n})

    def _softmax(self, operation: Operation) -> None:
        """Translate a softmax along the last axis."""
        arguments = operation.named
        kernel = "lc_log_softmax" if arguments["logarithm"] else "lc_softmax"
        self._in_rows(
            kernel,
            x=arguments["x"],
            y=arguments["y"],
            length=arguments["length"],
            extra={},
        )

    def _normalize(self, operation: Operation) -> None:
        """Translate a normalization along the last axis."""
        arguments = operation.named
        extra = {
            "scale": self._vector(arguments["scale"]),
            "bias": self._vector(arguments["bias"]),
            "epsilon": _float(arguments["epsilon"]),
        }
        self._in_rows(
            "lc_normalize",
            x=arguments["x"],
            y=arguments["y"],
            length=arguments["length"],
            extra=extra,
        )

    def _in_rows(
        self, kernel: str, *, x: int, y: int, length: int, extra: Fields
    ) -> None:
        """Add an operation on rows of ``length`` numbers."""
        count = self.writer.width(x) // length
        fields = {
            "x": self._refs[x],
            "y": self._refs[y],
            "count": count,
            "length": length,
        }
        self._add(kernel, "lc_rows_op", {**fields, **extra})

    def _gather(self, operation: Operation) -> None:
        """Add a look-up of rows of a table."""
        index = operation.argument("index")
        y = operation.argument("y")
        table, scales, _ = self.writer.weights(
            operation.argument("table"), NONE, operation.argument("stored")
        )
        is_input = index in {port.buffer for port in self.writer.ports("inputs")}
        c_type = "LC_INT32" if is_input else "LC_INT64"
        fields = {
            "index": self._refs[index],
            "y": self._refs[y],
            "count": self.writer.width(index),
            "type": c_type,
        }
        fields |= {"rows": table.shape[0], "columns": table.shape[1]}
        fields["table"] = (self.floats if scales is None else self.bytes).add(table)
        fields["scales"] = "NULL" if scales is None else self.floats.add(scales)
        self._add("lc_gather", "lc_gather_op", fields)
        if is_input:
            self._entries.insert(
                0, self._entries[-1].replace("lc_gather", "lc_check_rows")
            )

    def _copy(self, operation: Operation) -> None:
        """Add copies of equal length."""
        arguments = operation.named
        words = 2 if self.writer.dtype(arguments["x"]) == "int64" else 1
        source = f"{self._refs[arguments['x']]} + {words * arguments['offset_x']}"
        target = f"{self._refs[arguments['y']]} + {words * arguments['offset_y']}"
        self._copy_op(
            source,
            target,
            length=words * arguments["length"],
            count=arguments["count"],
            steps={name: words * arguments[name] for name in ("step_x", "step_y")},
        )

    def _window(self, operation: Operation) -> None:
        """Translate the gathering of the frames that a convolution reads."""
        arguments = operation.named
        width = self.writer.width(arguments["x"]) // max(1, arguments["new"])
        fields = {
            "y": self._refs[arguments["y"]],
            "first": arguments["first"],
            "dilation": arguments["dilation"],
            "count": arguments["count"],
        }
        self._ring(
            "lc_window",
            x=arguments["x"],
            past=arguments["past"],
            width=width,
            extra=fields,
        )

    def _push(self, operation: Operation) -> None:
        """Translate the storing of new frames in a ring."""
        x = operation.argument("x")
        past = operation.argument("past")
        width = (self.writer.width(past) - 1) // operation.argument("frames")
        self._ring(
            "lc_push",
            x=x,
            past=past,
            width=width,
            extra={"count": self.writer.width(x) // width},
        )

    def _ring(
        self, kernel: str, *, x: int, past: int, width: int, extra: Fields
    ) -> None:
        """Add an operation on a ring of past frames of ``width`` numbers."""
        frames = (self.writer.width(past) - 1) // width
        fields = {
            "x": self._refs[x],
            "past": self._refs[past],
            "frames": frames,
            "n": width,
        }
        self._add(kernel, "lc_ring_op", {**fields, **extra})

    def _depthwise(self, operation: Operation) -> None:
        """Add a convolution per channel."""
        arguments = operation.named
        width = self.writer.width(arguments["y"])
        fields = {
            "x": self._refs[arguments["x"]],
            "y": self._refs[arguments["y"]],
            "k": self.writer.width(arguments["x"]) // width,
            "n": width,
            "weights": self._vector(arguments["weights"]),
            "bias": self._vector(arguments["bias"]),
        }
        self._add("lc_depthwise", "lc_depthwise_op", fields)

    def _constant(self, operation: Operation) -> None:
        """Nothing: whoever reads the buffer reads the constant."""

    def _cast(self, operation: Operation) -> None:
        """Add a conversion to float32 or int64."""
        x = operation.argument("x")
        y = operation.argument("y")
        is_input = x in {port.buffer for port in self.writer.ports("inputs")}
        c_types = {"float32": "LC_FLOAT", "int64": "LC_INT64"}
        source = (
            "LC_INT32"
            if is_input and self.writer.dtype(x) != "float32"
            else c_types[self.writer.dtype(x)]
        )
        is_narrow = operation.argument("narrow")
        fields = {
            "x": self._refs[x],
            "y": self._refs[y],
            "n": self.writer.width(y),
            "from": source,
            "to": "LC_INT32" if is_narrow else c_types[self.writer.dtype(y)],
        }
        self._add("lc_cast", "lc_cast_op", fields)


class _Cell:
    """A recurrent layer on its way to simple operations: products, functions, and
    sums.
    """

    def __init__(self, table: Table, operation: Operation) -> None:
        """Look up the buffers and weights of a recurrent layer."""
        arguments = operation.named
        refs = table._refs
        writer = table.writer
        self._table = table
        self.x = refs[arguments["x"]]
        self.h = refs[arguments["h"]]
        self.c = refs.get(arguments["c"], "")
        self.new_h = refs[arguments["new_h"]]
        self.new_c = refs.get(arguments["new_c"], "")
        self.w = writer.weights(
            arguments["w"], arguments["w_scales"], arguments["w_stored"]
        )
        self.r = writer.weights(
            arguments["r"], arguments["r_scales"], arguments["r_stored"]
        )
        self.hidden = self.r.numbers.shape[1]
        self.resets_last = bool(arguments["flags"])
        self.bias = np.zeros(2 * len(self.r.numbers), np.float32)
        if arguments["bias"] != NONE:
            self.bias = writer.constants[arguments["bias"]].reshape(-1)
        self.functions = [
            table._function(
                arguments[f"kind_{number}"],
                arguments[f"alpha_{number}"],
                arguments[f"beta_{number}"],
            )
            for number in range(ACTIVATIONS)
        ]

    def gate(self, number: int) -> str:
        """Return the reference of a gate's sums."""
        return f"{self._table._gates[self._table._number]} + {number * self.hidden}"

    def products(self, bias: Array, gates: int | None = None) -> None:
        """Add the products of the input and of the old state, of the first ``gates``
        gates or of all.
        """
        table = self._table
        sums = self.gate(0)
        offset = table.floats.offset(bias[: len(self.w.numbers)])
        table._product(
            self.w,
            start=_ref("LC_FLOATS", offset),
            x=self.x,
            y=sums,
        )
        hidden = self.r if gates is None else self.r.rows(slice(gates * self.hidden))
        table._product(hidden, start=sums, x=self.h, y=sums)

    def function(self, number: int, ref: str, gates: int = 1) -> None:
        """Add a function of some gates, in place."""
        self._table._map(self.functions[number], x=ref, y=ref, n=gates * self.hidden)
