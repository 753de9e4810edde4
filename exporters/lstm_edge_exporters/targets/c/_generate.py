"""From the native program to C: each operation is a call of a kernel, with its sizes as constants."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import numpy as np

from lstm_edge_exporters.targets.native.compiler import Compiled, compile_program
from lstm_edge_exporters.targets.native.program import NONE, Binary, Code, Function, Operation, Weights
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.onnx_reader import OnnxFile

from ._interface import Interface, StepArray
from ._literals import array_literal, literal

_RECURRENT = (Code.LSTM, Code.GRU, Code.RNN)
_READS = {
    Code.BINARY: (0, 1),
    Code.WHERE: (0, 1, 2),
    Code.CONSTANT: (),
    Code.WINDOW: (0, 1),
    Code.PUSH: (0, 1),
    **dict.fromkeys(_RECURRENT, (0, 1, 2)),
}
_WRITES = {
    Code.BINARY: (3,),
    Code.WHERE: (3,),
    Code.WINDOW: (2,),
    Code.PUSH: (),
    **dict.fromkeys(_RECURRENT, (3, 4)),
}
"""Which arguments of an operation are buffers that it reads or writes, where not 0 and 1."""
_IN_PLACE = (Code.UNARY, Code.BINARY, Code.SOFTMAX, Code.NORMALIZE, Code.WHERE)
"""Operations whose result may take the place of an input."""
_USUAL = (Function.SIGMOID, Function.TANH, Function.TANH)
"""The functions of the LSTM cell that has a kernel of its own, and without the last one of the GRU cell."""


@dataclass(frozen=True)
class Step:
    """One call in C."""

    constants: str
    """Definitions of what stands in flash."""
    body: str
    """Statements that take the inputs and the state to the outputs and the new state."""
    memory: int
    """Numbers of working memory."""
    quantized: int
    """Quantized numbers of working memory."""
    checked: bool
    """Whether an input may be out of range."""
    flash: int
    """Bytes of the constants."""
    early: int = 0
    """Runs after a reset in which an output has frames that mean nothing."""
    settled: int = 0
    """Runs after a reset that are counted, as states are held in them or outputs are early."""
    end: int = 0
    """Time steps after a reset for which there are positions; 0 for any number."""

    @property
    def work(self) -> int:
        """Bytes of working memory."""
        return 4 * self.memory + 2 * self.quantized


def compile_to_c(file: OnnxFile, manifest: Manifest) -> Compiled:
    """Return the native program of a file, which ``write_step`` takes.

    Raises:
        UnsupportedError: the native engine lacks a node.
        FileFormatError: a stored tensor that can't be read.
    """
    try:
        return compile_program(file, manifest)
    except UnsupportedError as error:
        raise UnsupportedError(f"the file can't be translated to C: {error}; use onnxruntime") from error


def write_step(compiled: Compiled, interface: Interface) -> Step:
    """Return the C of one call of a native program."""
    return _Generator(compiled, interface).step()


@dataclass
class _Storage:
    """A stretch of working memory, from the first operation that needs it to the last."""

    size: int
    first: int
    last: int
    at: int = -1


def _lay(storages: Iterable[_Storage]) -> int:
    """Lay what is not needed at the same time in the same place; return the size of all together."""
    placed: list[_Storage] = []
    unique = {id(storage): storage for storage in storages}
    for storage in sorted(unique.values(), key=lambda each: (-each.size, each.first)):
        storage.at = 0
        near = [each for each in placed if each.first <= storage.last and storage.first <= each.last]
        for other in sorted(near, key=lambda each: each.at):
            if storage.at + storage.size > other.at and other.at + other.size > storage.at:
                storage.at = other.at + other.size
        placed.append(storage)
    return max((each.at + each.size for each in placed), default=0)


@dataclass
class _Code:
    """Lines of C, and the constants that they name."""

    lines: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    flash: int = 0

    def constant(self, name: str, array: Array) -> str:
        if name in self.names:
            return name
        self.names.add(name)
        flat = array.reshape(-1)
        c_type = {"float32": "float", "int8": "int8_t", "int64": "int64_t"}[flat.dtype.name]
        self.constants.append(
            f"static const {c_type} {name}[{flat.size}] LE_ALIGNED = {{\n{array_literal(flat, 4, 12)}\n}};\n"
        )
        self.flash += flat.nbytes
        return name


class _Generator:
    def __init__(self, compiled: Compiled, interface: Interface) -> None:
        self._writer, self._parts, self._interface = compiled.writer, compiled.parts, interface
        self._operations = compiled.writer.operations
        self._code = _Code()
        self._places: dict[int, str] = {}
        """The C expression for each buffer that is not in working memory."""
        self._storages: dict[int, _Storage] = {}
        self._scratch: dict[int, _Storage] = {}
        self._quantized = 0
        self._whole: list[str] = []
        """Definitions of the buffers of whole numbers that are computed."""
        self._at = self._named = 0
        """The operation that is written, and that whose constants it takes."""
        self._end = len(self._operations)

    def step(self) -> Step:
        last_read = self._last_reads()
        checks = self._checks()
        before = self._place_inputs()
        after = self._place_states(last_read)
        after += self._place_outputs()
        self._plan(last_read)
        self._emit_operations()
        runs, starts = self._interface.runs, self._starts()
        early = max(map(self._interface.early, self._interface.outputs))
        settled = max([early, *starts.values()])
        end, ends = self._ends(starts)
        lines = [*before, *self._code.lines, *after, *self._hold(starts, settled)]
        if runs > 1:
            lines = _block(f"for (int le_t = 0; le_t < {runs}; le_t++)", lines)
        if early:
            lines = [f"const int le_early = state->le_age < {early}u;", *lines]
        lines = [*self._whole, *checks, *ends, *lines]
        lines = [re.sub(r"@(\d+)@", lambda at: self._place(int(at[1])), line) for line in lines]
        symbols = ["work", *(array.symbol for array in self._interface.inputs)]
        unused = [f"(void){each};" for each in symbols if not re.search(rf"\b{each}\b", "\n".join(lines))]
        return Step(
            "\n".join(self._code.constants),
            "\n".join(f"    {line}" for line in [*unused, *lines]),
            max(1, self._memory),
            self._quantized,
            bool(checks),
            self._code.flash
            + sum(state.start.nbytes for state in self._interface.states if state.start.any()),
            early,
            settled,
            end,
        )

    def _starts(self) -> dict[str, int]:
        """Return the runs after a reset in which each state is held, by its symbol."""
        symbols = {state.name: state.symbol for state in self._interface.states}
        unit = self._interface.manifest.unit
        return {symbols[part.state.input]: part.state.start // unit for part in self._parts}

    def _ends(self, starts: Mapping[str, int]) -> tuple[int, list[str]]:
        """Return the steps after a reset at which a table ends, or 0, and the lines that refuse more."""
        steps, lines, more = [], [], self._interface.runs - 1
        symbols = {state.name: state.symbol for state in self._interface.states}
        for port, part in zip(self._writer.ports("states"), self._parts, strict=True):
            if not port.end or not port.frames:
                continue
            symbol, reset = symbols[part.state.input], int(np.asarray(part.state.reset).item())
            start = starts[symbol]
            steps.append((start - (reset - port.end) // port.frames) * self._interface.manifest.unit)
            later = str(more)
            if start and more:  # the first runs do not count
                age = f"(int64_t)state->le_age - {start - more}"
                later = f"({age} < 0 ? 0 : {age} > {more} ? {more} : {age})"
            at, end = f"state->{symbol}[0]", port.end
            later = f"{at} + {port.frames} * {later}"
            lines.append(f"if ({at} < 0 || {at} >= {end} || {later} >= {end}) return 3;")
        return min(steps, default=0), lines

    def _hold(self, starts: Mapping[str, int], settled: int) -> list[str]:
        """Return the lines that put states back to reset which have not started yet."""
        if not settled:
            return []
        lines = ["state->le_age++;"]
        for state in self._interface.states:
            if start := starts[state.symbol]:
                place = f"state->{state.symbol}"
                reset = f"memset({place}, 0, sizeof {place});"
                if state.start.any():
                    reset = f"memcpy({place}, le_start_{state.symbol}, sizeof {place});"
                lines.append(f"if (state->le_age <= {start}u) {reset}")
        return _block(f"if (state->le_age < {settled}u)", lines)

    # where each buffer is

    def _buffers(self, operation: Operation, places: dict[Code, tuple[int, ...]], usual: int) -> list[int]:
        found = (operation.arguments[place] for place in places.get(operation.code, (usual,)))
        return [buffer for buffer in found if buffer != NONE]

    def _reads(self, operation: Operation) -> list[int]:
        return self._buffers(operation, _READS, 0)

    def _writes(self, operation: Operation) -> list[int]:
        return self._buffers(operation, _WRITES, 1)

    def _last_reads(self) -> dict[int, int]:
        """Return the last operation that reads each buffer; the end where an output or a state is it."""
        found = {buffer: at for at, each in enumerate(self._operations) for buffer in self._reads(each)}
        found |= {port.buffer: self._end for port in self._writer.ports("outputs")}
        return found | {port.next: self._end for port in self._writer.ports("states")}

    def _checks(self) -> list[str]:
        """Return the lines that refuse an index out of range, before anything is written."""
        lines = []
        inputs = {port.buffer: port for port in self._writer.ports("inputs")}
        symbols = dict(zip(inputs, self._interface.inputs, strict=True))
        found = {
            (each.arguments[0], self._writer.constants[each.arguments[2]].shape[0])
            for each in self._operations
            if each.code == Code.GATHER and each.arguments[0] in inputs
        }
        for buffer, rows in sorted(found):
            port = symbols[buffer]
            lines += _each(port.size, f"if (le_row({port.symbol}[i], {rows}) < 0) return 1;")
        return lines

    def _place_inputs(self) -> list[str]:
        """Return the lines that put together what does not lie in one piece."""
        lines = []
        for port, array in zip(self._writer.ports("inputs"), self._interface.inputs, strict=True):
            outer, inner = _around_time(array)
            if self._lies(array) or array.dtype != "float32":
                self._places[port.buffer] = self._at_time(array)
            else:
                frames = self._interface.frames(array)
                self._storages[port.buffer] = _Storage(frames * outer * inner, -1, -1)
                lines += _each(
                    frames * outer,
                    f"memcpy(@{port.buffer}@ + i * {inner}, "
                    f"{array.symbol} + {self._frame(array, 'i')} * {inner}, {inner} * sizeof(float));",
                )
        return lines

    def _lies(self, array: StepArray) -> bool:
        """Return whether the numbers of one run stand in one piece, time first, as the program has them."""
        outer, _ = _around_time(array)
        return outer == 1 or (self._interface.runs == 1 and self._interface.frames(array) == 1)

    def _frame(self, array: StepArray, index: str) -> str:
        """Return where piece ``index`` of a run, a part of a frame, stands in an array, in such pieces."""
        outer, _ = _around_time(array)
        frames, all_frames = self._interface.frames(array), array.shape[array.time_axis or 0]
        time = f"{index} / {outer}" if frames > 1 else "0"
        if self._interface.runs > 1:
            time = f"le_t * {frames} + {time}" if frames > 1 else "le_t"
        return f"({index} % {outer} * {all_frames} + {time})"

    def _at_time(self, array: StepArray) -> str:
        _, inner = _around_time(array)
        if array.time_axis is None or self._interface.runs == 1:
            return array.symbol
        return f"({array.symbol} + le_t * {inner * self._interface.frames(array)})"

    def _place_states(self, last_read: dict[int, int]) -> list[str]:
        """Let a recurrent layer's new state take the old one's place; return the copies of the others."""
        lines = []
        states = {state.name: state for state in self._interface.states}
        for port, part in zip(self._writer.ports("states"), self._parts, strict=True):
            width = self._writer.width(port.buffer)
            symbol = f"state->{states[part.state.input].symbol}"
            place = symbol if not part.layer else f"({symbol} + {part.layer * width})"
            self._places[port.buffer] = place
            if part.state.dtype == "int64" and port.frames:
                lines.append(f"{place}[0] += {port.frames};")
            if port.next == port.buffer:
                continue
            writer = next(
                (i for i, each in enumerate(self._operations) if port.next in self._writes(each)), None
            )
            own = writer is not None and self._operations[writer].code in _RECURRENT
            if own and last_read.get(port.buffer) == writer and port.next not in self._places:
                self._places[port.next] = place
            else:
                lines.append(f"memcpy({place}, @{port.next}@, {width} * sizeof(float));")
        return lines

    def _place_outputs(self) -> list[str]:
        """Let operations write outputs where the caller wants them; return the copies of the others."""
        lines = []
        for port, array in zip(self._writer.ports("outputs"), self._interface.outputs, strict=True):
            outer, inner = _around_time(array)
            whole = self._lies(array)
            pieces = outer * self._interface.frames(array)
            made = any(
                port.buffer in self._writes(each) and each.code != Code.CONSTANT for each in self._operations
            )
            if made and whole and array.dtype == "float32" and port.buffer not in self._places:
                self._places[port.buffer] = self._at_time(array)
                continue
            value = f"@{port.buffer}@[i * {inner} + le_j]"
            if array.dtype != "float32":
                value = f"{value} != 0.0f" if array.dtype == "bool" else f"({array.c_type}){value}"
            to = f"{array.symbol}[{self._frame(array, 'i')} * {inner} + le_j]"
            if whole:
                to = f"{self._at_time(array)}[i * {inner} + le_j]"
            lines += _each(pieces, f"for (int le_j = 0; le_j < {inner}; le_j++) {to} = {value};")
        return lines

    def _plan(self, last_read: dict[int, int]) -> None:
        """Lay what is left in working memory."""
        for at, each in enumerate(self._operations):
            self._need_scratch(at, each)
            for buffer in self._writes(each):
                if buffer not in self._places and buffer not in self._storages:
                    self._store(at, each, buffer, last_read)
        for buffer, storage in self._storages.items():
            storage.last = max(storage.last, last_read.get(buffer, storage.first))
        self._memory = _lay([*self._storages.values(), *self._scratch.values()])

    def _store(self, at: int, operation: Operation, buffer: int, last_read: dict[int, int]) -> None:
        """Find a place for what an operation writes: a constant, whole numbers, or working memory."""
        width = self._writer.width(buffer)
        if operation.code == Code.CONSTANT:
            values = self._writer.constants[operation.arguments[0]]
            self._places[buffer] = self._code.constant(f"le_{at}_value", values)
        elif self._writer.dtype(buffer) == "int64":
            self._places[buffer] = f"le_whole_{buffer}"
            self._whole.append(f"int64_t le_whole_{buffer}[{width}];")
        else:
            shared = self._to_reuse(at, operation, width, last_read)
            self._storages[buffer] = shared or _Storage(width, at, at)

    def _to_reuse(
        self, at: int, operation: Operation, width: int, last_read: dict[int, int]
    ) -> _Storage | None:
        if operation.code not in _IN_PLACE:
            return None
        for buffer in self._reads(operation):
            if buffer in self._storages and last_read[buffer] == at and self._writer.width(buffer) == width:
                return self._storages[buffer]
        return None

    def _need_scratch(self, at: int, operation: Operation) -> None:
        if operation.code in _RECURRENT:
            hidden = self._writer.width(operation.arguments[1])
            sizes = {Code.LSTM: 4, Code.GRU: 4, Code.RNN: 1}
            self._scratch[at] = _Storage(sizes[operation.code] * hidden, at, at)

    def _place(self, buffer: int) -> str:
        return self._places.get(buffer) or self._memory_at(self._storages[buffer])

    def _memory_at(self, storage: _Storage, offset: int = 0) -> str:
        return f"(work->memory + {storage.at + offset})"

    # operations

    def _emit_operations(self) -> None:
        often = self._every_step()
        for at, each in enumerate(self._operations):
            shares = each.code in _RECURRENT and each.arguments[24]
            self._at, self._named = at, shares - 1 if shares else at
            start = len(self._code.lines)
            getattr(self, f"_{each.code.name.lower()}")(each.arguments)
            if self._interface.runs > 1 and not often[at]:
                last = f"if (le_t == {self._interface.runs - 1})"
                self._code.lines[start:] = _block(last, self._code.lines[start:])

    def _every_step(self) -> list[bool]:
        """Return whether each operation runs at every step of a chunk, and not for the last one alone."""
        needed = {port.next for port in self._writer.ports("states")}
        needed |= {port.buffer for port in self._writer.ports("outputs") if port.option}
        often = [False] * self._end
        for at in range(self._end - 1, -1, -1):
            each = self._operations[at]
            if each.code in (*_RECURRENT, Code.PUSH) or needed.intersection(self._writes(each)):
                often[at] = True
                needed.update(self._reads(each))
        return often

    def _emit(self, *lines: str) -> None:
        self._code.lines += lines

    def _vector(self, number: int, name: str) -> str:
        return "NULL" if number == NONE else self._code.constant(name, self._writer.constants[number])

    def _vectors(self, **numbers: int) -> str:
        return ", ".join(self._vector(number, f"le_{self._at}_{name}") for name, number in numbers.items())

    def _product(self, name: str, weights: Weights, start: str, source: str, to: str) -> None:
        """Emit ``to = start + weights * source``."""
        numbers, scales, quantized = weights
        rows, columns = numbers.shape
        start = _start(start, to, rows)
        if scales is not None and not quantized:
            small = self._code.constant(f"{name}_weights", numbers)
            own = self._code.constant(f"{name}_scales", scales)
            self._emit(f"le_product_stored({small}, {own}, {start}, {source}, {columns}, {rows}, {to});")
            return
        if scales is None:
            packed = self._code.constant(f"{name}_weights", _packed(numbers))
            self._emit(f"le_product({packed}, {start}, {source}, {columns}, {rows}, {to});")
            return
        behind = -columns % 4
        self._quantized = max(self._quantized, columns + behind)
        packed = self._code.constant(f"{name}_weights", np.pad(numbers.reshape(-1), (0, behind)))
        own, scale = "NULL", f"le_quantize({source}, {columns}, work->quantized)"
        if (scales != scales[0]).any():
            own = self._code.constant(f"{name}_scales", scales)
        else:
            scale += f" * {literal(scales[0])}"
        self._emit(
            f"le_product8({packed}, {own}, {start}, work->quantized, {scale}, {columns}, {rows}, {to});"
        )

    def _linear(self, arguments: Sequence[int]) -> None:
        source, out, number, bias = arguments[:4]
        weights = self._writer.weights(number, *arguments[4:6])
        rows, columns = weights.numbers.shape
        parts = self._writer.width(source) // columns
        start = self._vector(bias, f"le_{self._at}_bias")
        x, y = self._place(source), self._place(out)
        if parts > 1:
            x, y = f"{x} + i * {columns}", f"{y} + i * {rows}"
        self._product(f"le_{self._at}", weights, start, x, y)
        if parts > 1:
            self._code.lines[-1:] = _each(parts, self._code.lines[-1])

    def _functions(self, arguments: Sequence[int], count: int) -> str:
        """Define a layer's functions; return their array and its clip, as a cell takes them."""
        names = ", ".join(
            f"{{LE_{Function(kind).name}, {_float(alpha)}, {_float(beta)}}}"
            for kind, alpha, beta in (arguments[13 + 3 * i : 16 + 3 * i] for i in range(count))
        )
        if self._named == self._at:
            self._emit(f"static const le_function le_{self._named}_functions[{count}] = {{{names}}};")
        return f"le_{self._named}_functions, {_float(arguments[11])}"

    def _layer(self, arguments: Sequence[int]) -> tuple[list[Weights], list[str]]:
        """Return W and R, and the places of x, h, c, new h and new c."""
        weights = [self._writer.weights(*(arguments[place + i] for place in (5, 9, 22))) for i in (0, 1)]
        return weights, ["" if buffer == NONE else self._place(buffer) for buffer in arguments[:5]]

    def _products(self, arguments: Sequence[int], w: Weights, r: Weights, x: str, h: str, gates: str) -> None:
        """Emit ``gates = bias + w * x + r * h``."""
        bias = self._vector(arguments[7], f"le_{self._named}_bias")
        if w.scales is not None or r.scales is not None:
            self._product(f"le_{self._named}_input", w, bias, x, gates)
            self._product(f"le_{self._named}_hidden", r, gates, h, gates)
            return
        (rows, k), (_, n) = w.numbers.shape, r.numbers.shape
        names = [
            self._code.constant(f"le_{self._named}_{name}_weights", _packed(each.numbers))
            for name, each in (("input", w), ("hidden", r))
        ]
        bias = _start(bias, gates, rows)
        self._emit(f"le_products({names[0]}, {bias}, {x}, {k}, {names[1]}, {h}, {n}, {rows}, {gates});")

    def _lstm(self, arguments: Sequence[int]) -> None:
        (w, r), (x, h, c, new_h, new_c) = self._layer(arguments)
        gates, hidden = self._memory_at(self._scratch[self._at]), r.numbers.shape[1]
        self._products(arguments, w, r, x, h, gates)
        places = f"{gates}, {c}, {new_h}, {new_c}, {hidden}"
        plain = arguments[8] == NONE and not (arguments[11] or arguments[12])
        if plain and tuple(arguments[13:22:3]) == _USUAL:
            name = "le_lstm" if w.quantized or r.quantized else "le_lstm_float"
            self._emit(f"{name}({places});")
            return
        peepholes = self._vector(arguments[8], f"le_{self._named}_peepholes")
        functions = self._functions(arguments, 3)
        self._emit(f"le_lstm_cell({functions}, {arguments[12] & 1}, {peepholes}, {places});")

    def _gru(self, arguments: Sequence[int]) -> None:
        (w, r), (x, h, _, new_h, _) = self._layer(arguments)
        hidden, scratch = r.numbers.shape[1], self._scratch[self._at]
        gates, fresh, extra = (self._memory_at(scratch, place * hidden) for place in (0, 2, 3))
        before = bool(arguments[12] & 2)
        bias, fresh_bias = "NULL", "NULL"
        if arguments[7] != NONE:
            both = self._writer.constants[arguments[7]].reshape(2, -1)
            joined = both[0] + both[1]
            if before:
                joined[2 * hidden :] = both[0, 2 * hidden :]
                fresh_bias = self._code.constant(f"le_{self._named}_fresh_bias", both[1, 2 * hidden :])
            bias = self._code.constant(f"le_{self._named}_bias", joined)
        fresh_weights = r.rows(slice(2 * hidden, None))
        self._product(f"le_{self._named}_input", w, bias, x, gates)
        self._product(f"le_{self._named}_hidden", r.rows(slice(2 * hidden)), gates, h, gates)
        if before:
            self._product(f"le_{self._named}_fresh", fresh_weights, fresh_bias, h, extra)
            usual = tuple(arguments[13:19:3]) == _USUAL[:2] and not arguments[11]
            if usual and not (w.quantized or r.quantized):
                self._emit(f"le_gru_float({gates}, {extra}, {h}, {new_h}, {hidden});")
                return
        functions = self._functions(arguments, 2)
        self._emit(f"le_gru_gates({functions}, {int(before)}, {gates}, {h}, {extra}, {hidden});")
        if not before:
            self._product(f"le_{self._named}_fresh", fresh_weights, fresh, extra, fresh)
        self._emit(
            f"le_gru_cell({functions}, {gates}, {extra if before else 'NULL'}, {h}, {new_h}, {hidden});"
        )

    def _rnn(self, arguments: Sequence[int]) -> None:
        (w, r), (x, h, _, new_h, _) = self._layer(arguments)
        gates = self._memory_at(self._scratch[self._at])
        functions = self._functions(arguments, 1)
        self._products(arguments, w, r, x, h, gates)
        self._emit(f"le_rnn_cell({functions}, {gates}, {new_h}, {r.numbers.shape[1]});")

    def _unary(self, arguments: Sequence[int]) -> None:
        source, out, kind, alpha, beta = arguments[:5]
        self._emit(
            f"le_unary(LE_{Function(kind).name}, {_float(alpha)}, {_float(beta)}, "
            f"{self._place(source)}, {self._place(out)}, {self._writer.width(out)});"
        )

    def _binary(self, arguments: Sequence[int]) -> None:
        a, b, constant, out, kind, swap = arguments[:6]
        width = self._writer.width(out)
        operands = [(self._place(a), self._writer.width(a))]
        if constant == NONE:
            operands.append((self._place(b), self._writer.width(b)))
        else:
            values = self._writer.constants[constant]
            operands.append((self._code.constant(f"le_{self._at}_value", values), values.size))
        left, right = operands[::-1] if swap else operands
        each = ", ".join(f"{place}, {int(size > 1)}" for place, size in (left, right))
        name = "le_binary_whole" if self._writer.dtype(out) == "int64" else "le_binary"
        self._emit(f"{name}(LE_{Binary(kind).name}, {each}, {self._place(out)}, {width});")

    def _where(self, arguments: Sequence[int]) -> None:
        places = ", ".join(self._place(buffer) for buffer in arguments[:4])
        self._emit(f"le_where({places}, {self._writer.width(arguments[3])});")

    def _in_rows(self, source: int, out: int, length: int, call: str) -> None:
        """Emit ``call`` with the places of each ``length`` numbers in turn as {x} and {y}."""
        x, y, rows = self._place(source), self._place(out), self._writer.width(source) // length
        if rows == 1:
            self._emit(call.format(x=x, y=y))
        else:
            self._emit(*_each(rows, call.format(x=f"{x} + i * {length}", y=f"{y} + i * {length}")))

    def _softmax(self, arguments: Sequence[int]) -> None:
        source, out, length, logarithm = arguments[:4]
        name = "le_log_softmax" if logarithm else "le_softmax"
        self._in_rows(source, out, length, f"{name}({{x}}, {{y}}, {length});")

    def _normalize(self, arguments: Sequence[int]) -> None:
        source, out, length, epsilon, scale, bias = arguments[:6]
        parameters = self._vectors(scale=scale, bias=bias)
        call = f"le_normalize({{x}}, {_float(epsilon)}, {parameters}, {{y}}, {length});"
        self._in_rows(source, out, length, call)

    def _element(self, buffer: int) -> str:
        """Return the element ``i`` of an input."""
        for port, array in zip(self._writer.ports("inputs"), self._interface.inputs, strict=True):
            _, inner = _around_time(array)
            if port.buffer == buffer and array.dtype != "float32" and not self._lies(array):
                return f"{array.symbol}[{self._frame(array, f'(i / {inner})')} * {inner} + i % {inner}]"
        return f"{self._place(buffer)}[i]"

    def _gather(self, arguments: Sequence[int]) -> None:
        index, out, number, stored = arguments[:4]
        table, own, _ = self._writer.weights(number, NONE, stored)
        rows, columns = table.shape
        computed = index not in {port.buffer for port in self._writer.ports("inputs")}
        row = f"{'le_any_row' if computed else 'le_row'}({self._element(index)}, {rows})"
        to = f"{self._place(out)} + i * {columns}"
        name = self._code.constant(f"le_{self._at}_table", table)
        if own is None:
            call = f"memcpy({to}, {name} + {row} * {columns}, {columns} * sizeof(float))"
        else:
            scales = self._code.constant(f"le_{self._at}_scales", own)
            call = f"le_row_stored({name}, {scales}, {row}, {columns}, {to})"
        self._emit(f"for (int i = 0; i < {self._writer.width(index)}; i++) {call};")

    def _cast(self, arguments: Sequence[int]) -> None:
        source, out = arguments[:2]
        wanted = "(float)"
        if self._writer.dtype(out) == "int64":
            wanted = "le_truncated" if self._writer.dtype(source) == "float32" else "(int64_t)"
        self._emit(
            f"for (int i = 0; i < {self._writer.width(out)}; i++) {self._place(out)}[i] = "
            f"{wanted}({self._element(source)});"
        )

    def _copy(self, arguments: Sequence[int]) -> None:
        source, out, source_offset, out_offset, length, count, source_stride, out_stride = arguments[:8]
        to, x = f"{self._place(out)} + {out_offset}", f"{self._place(source)} + {source_offset}"
        if count == 1:
            self._emit(f"memcpy({to}, {x}, {length} * sizeof(float));")
            return
        places = f"{to} + i * {out_stride}, {x} + i * {source_stride}"
        self._emit(*_each(count, f"memcpy({places}, {length} * sizeof(float));"))

    def _window(self, arguments: Sequence[int]) -> None:
        source, past, out, first, dilation, count, new = arguments[:7]
        width = self._writer.width(source) // max(1, new)
        frames = (self._writer.width(past) - 1) // width
        places = f"{self._place(source)}, {self._place(past)}, {frames}, {width}"
        self._emit(f"le_window({places}, {first}, {dilation}, {count}, {self._place(out)});")

    def _push(self, arguments: Sequence[int]) -> None:
        source, past, frames = arguments[:3]
        places = f"{self._place(source)}, {self._place(past)}"
        width = (self._writer.width(past) - 1) // frames
        self._emit(f"le_push({places}, {frames}, {width}, {self._writer.width(source) // width});")

    def _depthwise(self, arguments: Sequence[int]) -> None:
        source, out, weights, bias = arguments[:4]
        parameters = self._vectors(weights=weights, bias=bias)
        width = self._writer.width(out)
        taps = self._writer.width(source) // width
        self._emit(f"le_depthwise({self._place(source)}, {parameters}, {taps}, {width}, {self._place(out)});")

    def _constant(self, arguments: Sequence[int]) -> None:
        """Nothing: whoever reads the buffer reads the constant, unless it is an output."""


def _block(head: str, lines: Sequence[str]) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in lines), "}"]


def _each(count: int, line: str) -> list[str]:
    """Return a loop over ``i``."""
    return _block(f"for (int i = 0; i < {count}; i++)", [line])


def _around_time(array: StepArray) -> tuple[int, int]:
    """Return how many elements stand before and within one time step."""
    if array.time_axis is None:
        return 1, array.size
    return prod(array.shape[: array.time_axis]), prod(array.shape[array.time_axis + 1 :])


def _start(bias: str, to: str, rows: int) -> str:
    """Return what a product is added to: its bias, or the result itself, set to zero."""
    return f"le_zeros({to}, {rows})" if bias == "NULL" else bias


def _float(bits: int) -> str:
    """Return a float32 that an operation has as an argument."""
    return literal(np.frombuffer(bits.to_bytes(4, "little"), "<f4")[0])


def _packed(weights: Array) -> Array:
    """Return ``(M, K)`` weights as ``le_product`` takes them."""
    rows = len(weights)
    stops = [*range(0, rows - rows % 4, 16), *range(rows - rows % 4, rows + 1)]
    return np.concatenate([weights[start:stop].T.reshape(-1) for start, stop in pairwise(stops)])
