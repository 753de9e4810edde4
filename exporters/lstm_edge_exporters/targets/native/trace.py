"""Replay the golden cases of a program on this machine, and find the first operation
whose values differ from those of the graph in float64.

The program runs as in the self-test: all rows at once, a unit and then the rest, with
carried states. Every buffer is compared at every unit. The graph runs row by row and unit
by unit, from states of its own.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lstm_edge_runtime.chunks import Runner, run_chunks, take_steps
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.files import read_content
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.model import open_content
from lstm_edge_runtime.native import NativeEngine, NativeStates

from ...cast import widened
from ...graph import to_proto
from ...verify.cases import Feeds, case_size, split_rows
from ...verify.compare import Pair, distance
from ...verify.float64 import Graph64
from .compiler import Compiled
from .convert import compile_file, read
from .listing import ProgramFile, title
from .memory import INT8, PADDING
from .operations import Code


@dataclass(frozen=True)
class Difference:
    """The values of an operation that are furthest beyond their limit."""

    number: int
    """The operation's index in the program."""
    operation: str
    """Its code, and the function of an elementwise operation."""
    value: str
    """The graph's name of the value."""
    node: str
    """The name and the operator of the node that computes it."""
    case: int
    """The golden case, from 1."""
    row: int
    """The row of the case."""
    step: int
    """The first time step of the unit."""
    computed: float
    """The number on this machine."""
    expected: float
    """The number in the graph."""
    limit: float
    """Largest difference that rounding explains."""
    unknown: tuple[int, ...]
    """Operations just before it that the graph has no value for: the fault may be in
    one of these."""

    def __str__(self) -> str:
        """Return the operation and the difference in one line."""
        text = (
            f"operation {self.number} ({self.operation}) is the first that differs:"
            f" {self.value} of {self.node} is {self.computed:.6g} at step {self.step},"
            f" {self.expected:.6g} in the graph"
        )
        if not self.unknown:
            return text
        numbers = ", ".join(map(str, self.unknown))
        return f"{text}; or one of {numbers}, which the graph has no value for"


@dataclass(frozen=True)
class Trace:
    """The comparison of a program with its graph, operation by operation."""

    operations: int
    """Operations of the program."""
    compared: int
    """How many of them the graph has a value for."""
    worst: float
    """Largest difference, as a fraction of its limit."""
    first: Difference | None
    """The first difference that rounding does not explain; None if there is none."""


def trace(program: str | os.PathLike[str], source: str | os.PathLike[str]) -> Trace:
    """Compare each operation of a ``.lep`` file with the graph on the golden cases.

    Args:
        program: the ``.lep`` file.
        source: the ``.onnx`` file that it was converted from.

    Raises:
        InputError: ``program`` is no program, ``source`` is another file, or there is no
            golden case.
        UnsupportedError: the graph can't be evaluated in float64, as in int8.
    """
    name, content = read_content(program)
    with open_content(name, content) as model:
        engine = model._engine
        if not isinstance(engine, NativeEngine):
            raise InputError(
                f"{name} is not a program; convert it and trace the .lep file"
            )
        original, proto = read(source)
        with original:
            if original.identity != model.identity:
                raise InputError(
                    f"{source} is not the file that {name} was converted from; give that"
                    " file, or convert this one again"
                )
            compiled = compile_file(proto, original.manifest)
            pair = _pair(original.manifest, compiled)
        file = ProgramFile(content)
        if file.operations != compiled.writer.operations:
            raise InputError(
                f"{name} was written by another version of lstm-edge; convert {source}"
                " again"
            )
        return _Tracer(engine=engine, file=file, compiled=compiled, pair=pair).trace()


def _pair(manifest: Manifest, compiled: Compiled) -> Pair:
    """Return the graph in float64 with every value that the program computes as an
    output.
    """
    if manifest.arithmetic in INT8:
        raise UnsupportedError(
            "layers in int8 have no values in float64 to compare with; trace the"
            " float32 file of this network"
        )
    model = widened(to_proto(compiled.followed.model))
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name in compiled.followed.values and value.name not in outputs:
                model.graph.outputs.append(value)
    graph = Graph64(model)
    # without axes, so that all of a value is one channel
    bare = manifest._replace(inputs=(), outputs=(), states=())
    return Pair(manifest=bare, graph=graph, reference=graph, engine=graph)


class _Row(NamedTuple):
    """One row of a golden case, on this machine and in the graph."""

    case: int
    """From 1."""
    row: int
    """From 0."""
    computed: Sequence[Array]
    """The values of each buffer, ``(units, width)``."""
    expected: Array
    """The graph's values by address in the program's memory, ``(units, addresses)``;
    NaN where the graph has none."""
    limits: Array
    """Largest differences, ``(units, addresses)``; NaN where the graph has no value."""


class _Tracer:
    """The comparison of one program."""

    def __init__(
        self, engine: NativeEngine, file: ProgramFile, compiled: Compiled, pair: Pair
    ) -> None:
        """Compare a program's buffers with the graph of ``pair``."""
        self._engine = engine
        self._manifest = engine.manifest
        self._file = file
        self._memory = compiled.followed.memory
        self._values = compiled.followed.values
        self._graph = compiled.followed.model.graph
        self._pair = pair
        self._at = [self._memory.at(buffer) for buffer in range(len(file.buffers))]
        """The addresses of each buffer."""
        constants = compiled.writer.constants
        self._constants = [
            (self._at[operation.argument("y")], constants[operation.argument("values")])
            for operation in compiled.writer.operations
            if operation.code is Code.CONSTANT
        ]
        """The addresses and numbers of stored values."""

    def trace(self) -> Trace:
        """Replay every golden case."""
        golden = self._manifest.golden
        if golden is None:
            raise InputError("the file has no golden case; export it again")
        count = len(self._file.operations)
        compared = np.zeros(count, bool)
        worst = 0.0
        first = None
        for number, case in enumerate((golden, *golden.more), 1):
            for row in self._rows(number, case):
                shares = np.stack(
                    [self._share(row, index) for index in range(count)], 1
                )
                compared |= ~np.isnan(shares).all(0)
                worst = max(worst, float(np.nan_to_num(shares, nan=0.0).max(initial=0)))
                beyond = np.argwhere(shares > 1)
                if first is None and len(beyond):
                    unit, index = beyond[0].tolist()
                    first = self._difference(row, unit, number=index, compared=compared)
        return Trace(
            operations=count, compared=int(compared.sum()), worst=worst, first=first
        )

    # both sides

    def _rows(self, number: int, case: Golden) -> Iterator[_Row]:
        """Yield the rows of a case. Those of unequal lengths run one by one."""
        manifest = self._manifest
        alone: list[Feeds] = list(split_rows(manifest, case.inputs))
        if manifest.lengths is None:
            computed = [self._run(case.inputs)]
        else:
            alone = [self._cut(feeds) for feeds in alone]
            computed = [self._run(feeds) for feeds in alone]
        rows = []
        for buffers in computed:
            rows += [[*row] for row in zip(*buffers, strict=True)]
        for index, (values, feeds) in enumerate(zip(rows, alone, strict=True)):
            yield _Row(number, index, values, *self._expect(feeds))

    def _cut(self, feeds: Feeds) -> Feeds:
        """Return a row's inputs up to its length."""
        length = int(feeds[self._manifest.lengths or ""].reshape(-1)[0])
        return take_steps(self._manifest.time_axes, feeds, start=0, stop=length)

    def _run(self, feeds: Feeds) -> list[Array]:
        """Return the values ``(rows, units, width)`` of each buffer on this machine."""
        manifest = self._manifest
        engine = self._engine
        rows, steps = case_size(manifest, feeds)
        states = NativeStates(engine, rows, feeds)
        unit = manifest.unit
        cuts = [0, unit, steps] if steps > unit else [0, steps]
        values_of_calls = []
        for start, stop in pairwise(cuts):
            chunk = take_steps(manifest.time_axes, feeds, start=start, stop=stop)
            inputs = {
                layout.name: layout.from_file(chunk[layout.name])
                for layout in engine.inputs
            }
            units = max(1, (stop - start) // unit)
            values_of_calls.append(
                [
                    np.zeros((rows, units, width), dtype)
                    for width, dtype in self._file.buffers
                ]
            )
            states.trace(inputs, values_of_calls[-1])
        return [
            np.concatenate(values, 1) for values in zip(*values_of_calls, strict=True)
        ]

    def _expect(self, feeds: Feeds) -> tuple[Array, Array]:
        """Return the graph's values and their limits by addresses, see ``_Row``."""
        steps = self._manifest.steps(feeds)
        sizes = [self._manifest.unit] * max(1, steps // self._manifest.unit)

        def unit_by_unit(run: Runner, feeds: Feeds) -> Feeds:
            """Run one unit after the other, with states carried."""
            units = list(run_chunks(run, self._manifest, feeds=feeds, sizes=sizes))
            values = {}
            for name in self._values:
                values[name] = np.stack([unit[name] for unit in units])
            return values

        values = unit_by_unit(self._pair.graph, feeds)
        limits = self._pair.limits(feeds, unit_by_unit)
        expected = np.full((len(sizes), self._memory.end), np.nan)
        allowed = expected.copy()
        for name, value in self._values.items():
            flat = value.addresses.reshape(-1)
            if values[name][0].size != flat.size:
                continue
            given = flat != PADDING
            where = flat[given]
            array = values[name].reshape(len(sizes), -1)
            limit = np.broadcast_to(limits[name], values[name].shape)
            expected[:, where] = array[:, given]
            allowed[:, where] = limit.reshape(array.shape)[:, given]
        for addresses, numbers in self._constants:
            expected[:, addresses] = numbers
            allowed[:, addresses] = 0.0
        for buffer, addresses in self._memory.copies():
            unknown = np.isnan(allowed[0, self._at[buffer]]) & (addresses != PADDING)
            for array in (expected, allowed):
                array[:, self._at[buffer][unknown]] = array[:, addresses[unknown]]
        return expected, allowed

    # differences

    def _written(self, number: int) -> Iterator[tuple[int, Array, Array]]:
        """Yield each buffer that an operation writes, with the elements and their
        addresses.
        """
        operation = self._file.operations[number]
        for buffer in operation.writes:
            elements = np.arange(self._file.widths[buffer])
            if operation.code is Code.COPY:
                given = operation.named
                starts = given["offset_y"] + given["step_y"] * np.arange(given["count"])
                elements = (starts[:, None] + np.arange(given["length"])).reshape(-1)
            yield buffer, elements, self._at[buffer][elements]

    def _shares(self, row: _Row, number: int) -> tuple[Array, Array, Array]:
        """Return the values, addresses and differences as fractions of the limits of what
        an operation writes.
        """
        values = []
        addresses = []
        for buffer, elements, at in self._written(number):
            values.append(row.computed[buffer][:, elements].astype(np.float64))
            addresses.append(at)
        if not addresses:
            nothing = np.zeros((len(row.expected), 0))
            return nothing, np.zeros(0, np.int64), nothing
        computed = np.concatenate(values, 1)
        where = np.concatenate(addresses)
        limits = row.limits[:, where]
        away = distance(computed, row.expected[:, where])
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(away > 0, away / limits, 0.0)
        return computed, where, np.where(np.isnan(limits), np.nan, shares)

    def _share(self, row: _Row, number: int) -> Array:
        """Return the largest difference of an operation at each unit, as a fraction of
        its limit; NaN where the graph has no value for it.
        """
        shares = self._shares(row, number)[2]
        largest = np.nan_to_num(shares, nan=-1.0).max(1, initial=-1.0)
        return np.where(largest < 0, np.nan, largest)

    def _difference(
        self, row: _Row, unit: int, number: int, compared: Array
    ) -> Difference:
        """Return the worst element of an operation at a unit."""
        computed, addresses, shares = self._shares(row, number)
        worst = int(np.nan_to_num(shares[unit], nan=-1.0).argmax())
        address = int(addresses[worst])
        name, node = self._name(address)
        operations = self._file.operations
        before = np.flatnonzero(compared[:number])
        first = int(before[-1]) + 1 if before.size else 0
        unknown = [index for index in range(first, number) if operations[index].writes]
        return Difference(
            number=number,
            operation=title(operations[number]),
            value=name,
            node=node,
            case=row.case,
            row=row.row,
            step=unit * self._manifest.unit,
            computed=float(computed[unit, worst]),
            expected=float(row.expected[unit, address]),
            limit=float(row.limits[unit, address]),
            unknown=tuple(unknown),
        )

    def _name(self, address: int) -> tuple[str, str]:
        """Return the first value of the graph that has an address, and its node."""
        for target, addresses in self._memory.copies():
            index = np.flatnonzero(self._at[target] == address)
            if index.size:
                address = int(addresses[index[0]])
        for node in self._graph:
            for value in node.outputs:
                known = self._values.get(str(value.name))
                if known is not None and (known.addresses == address).any():
                    return str(value.name), f"{node.name} ({node.op_type})".strip()
        return "a number", "the stored values"
