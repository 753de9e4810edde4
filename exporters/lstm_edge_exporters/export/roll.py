"""The iterations of each loop over time become one ``Scan``; what an iteration computes
from the one before is its state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy  # type: ignore[import-untyped]
from onnx_ir.passes import common

from lstm_edge_runtime.manifest import AxisRange

from ..graph import Builder, axes_of, copied_node, data_inputs
from .capture import axis_text, growing
from .cells import expand_cell, is_cell
from .loops import COLLECT, DOMAIN, MARK, READ, STEPS
from .step_counter import VARIABLE, StepCounter, can_count
from .timed import TimedGraph, plan_layers
from .unrolled import (
    Family,
    Number,
    Operand,
    Read,
    State,
    UnlikeError,
    Unrolled,
    is_loop_node,
)

ROLLED = "loop"
"""Key of a Scan's ``RolledLoop`` in the metadata of the node."""
_READ_BEHIND = (
    "the results of single steps are read behind the loop; stack them, or read them in"
    " another loop by their number, outs[t], and let h be the last one"
)
Ranges = Mapping[str, AxisRange]


@dataclass(frozen=True)
class LoopSlot:
    """A state of the node that a loop became."""

    variable: str
    """The loop's variable; empty if it has no name."""
    input: int
    """Index among the inputs of the node."""
    output: int
    """Index among the outputs of the node."""
    is_counter: bool = False
    """True for the number of the step."""


@dataclass(frozen=True)
class RolledLoop:
    """Description of a loop that has become a Scan or a layer."""

    line: str
    """The user's line."""
    states: tuple["LoopSlot", ...]
    """States, in the order of the node's inputs."""
    steps: int | str
    """Axis of the steps."""
    rest: int | str
    """Axis of all steps but one."""
    grows_with: frozenset[str]
    """The axes that the number of steps grows with."""
    numbers: frozenset[str]
    """Variables that are numbers of Python when the loop starts."""
    peeled: bool
    """True if the first step stands in front of the Scan."""


def loop_sizes(loops: Sequence[sympy.Expr]) -> Iterator[sympy.Expr]:
    """Yield the sizes that ``roll`` writes for loops of these numbers of steps."""
    for steps in loops:
        yield steps
        yield steps - 1


def roll(
    model: ir.Model,
    ranges: Ranges,
    loops: Sequence[sympy.Expr],
    batch: str | None,
) -> Ranges:
    """Replace the iterations of every loop by a Scan, in place.

    Args:
        model: a graph with the marks of ``loops``.
        ranges: the sizes of each dynamic axis.
        loops: the number of steps of each loop, in terms of axes.
        batch: the axis of the rows.

    Returns:
        The ranges; a loop whose first step differs needs two steps.

    Raises:
        UnsupportedError: the iterations are not alike; names the user's line.
    """
    marks = [node for node in model.graph if is_loop_node(node, MARK)]
    numbers = sorted({node.attributes["loop"].as_int() for node in marks})
    for number in reversed(numbers):  # a loop may read the results of earlier ones
        unrolled = Unrolled(model.graph, number)
        try:
            ranges = _roll(model, unrolled, ranges=ranges, loops=loops, batch=batch)
        except UnlikeError as error:
            raise unrolled.refusal(error) from error
    _write_reads(model)
    return ranges


def _roll(
    model: ir.Model,
    unrolled: Unrolled,
    ranges: Ranges,
    loops: Sequence[sympy.Expr],
    batch: str | None,
) -> Ranges:
    """Replace one loop by layers if all states pass through cells only, else by a
    Scan.
    """
    cells = [node for node in unrolled.nodes if is_cell(node)]
    if cells:
        if _Rolled(
            model=model, unrolled=unrolled, loops=loops, batch=batch
        ).write_layers():
            return ranges
        for cell in cells:
            expand_cell(cell, unrolled.line)
        unrolled = Unrolled(model.graph, unrolled.number)
    return _Rolled(model=model, unrolled=unrolled, loops=loops, batch=batch).write_scan(
        ranges
    )


def _write_reads(model: ir.Model) -> None:
    """Replace steps that are read outside of a loop."""
    for node in [node for node in model.graph if is_loop_node(node, READ)]:
        build = Builder(node, "read")
        axis = node.attributes["axis"].as_int()
        index = node.attributes["index"].as_int()
        if width := node.attributes["width"].as_int():
            bounds = [np.array([x]) for x in (index, index + width, axis)]
            value = build.value("Slice", [node.inputs[0], *bounds])
        else:
            value = build.value(
                "Gather", [node.inputs[0], np.array(index)], {"axis": axis}
            )
        value.shape = node.outputs[0].shape
        build.replace([value])


class _Rolled:
    """One loop while it is replaced."""

    def __init__(
        self,
        model: ir.Model,
        unrolled: Unrolled,
        loops: Sequence[sympy.Expr],
        batch: str | None,
    ) -> None:
        """Prepare the Scan of one loop."""
        self.model = model
        self.batch = batch
        self.graph = model.graph
        self.unrolled = unrolled
        self.loops = loops
        self.size = loops[unrolled.number]
        self.steps = axis_text(self.size)
        """Axis of the steps."""
        self.build = Builder(unrolled.marks[-1], f"loop{unrolled.number}")
        self.collects = unrolled.collected()
        self.last_values = unrolled.read_behind()
        self.peeled = False
        self.inner: dict[Family, ir.Value] = {}
        """Values of families in the body."""
        self.entries: dict[Any, tuple[ir.Value, ir.Value]] = {}
        """Scanned inputs: outer value, entry of the body."""
        self.nodes: list[ir.Node] = []
        """Nodes of the body."""
        self.counter: StepCounter | None = None
        """The number of the step, where it is a state."""

    def write_scan(self, ranges: Ranges) -> Ranges:
        """Replace the iterations by a Scan; return the sizes that each axis may have
        now.
        """
        collected, finals = self._results()
        if self.peeled:
            ranges = self._with_two_steps(ranges)
        self._collect_earlier()
        scan = self._scan([*collected, *finals])
        states = self._states()
        scanned = dict.fromkeys(self._scanned([*collected, *finals]))
        carried = len(scan.outputs) - len(scanned)
        outputs = dict(zip(scanned, scan.outputs[carried:], strict=True))
        self._replace_collects([outputs[family] for family in self._scanned(collected)])
        sources = [state.source for state in states]
        for value, family in zip(self.last_values, finals, strict=True):
            if family in sources:
                self._replace(value, scan.outputs[sources.index(family)])
            elif isinstance(family, Family):
                self._replace(value, self._element(outputs[family], -1))
        self._remove()
        return ranges

    def write_layers(self) -> bool:
        """Replace the iterations by recurrent layers and by operators on all steps;
        return False if that is not possible.
        """
        collected, finals = self._results()
        families = self._scanned(collected)
        lasts = self._scanned(finals)
        plan = plan_layers(self.unrolled.families, families, lasts)
        if self.peeled or plan is None:
            return False
        self._collect_earlier()
        timed = TimedGraph(
            self.build,
            plan,
            read=lambda read, number: self._all_steps(read, number),
            number=self._numbers,
            steps=self.steps,
        )
        self._replace_collects([timed.value(family) for family in families])
        for value, last in zip(self.last_values, map(timed.last, lasts), strict=True):
            self._replace(value, last)
        for cell in plan.cells:
            if cell.node in timed.layers:
                self._note(timed.layers[cell.node][0].producer(), cell.states)
        self._remove()
        return True

    def _note(self, layer: ir.Node | None, states: Mapping[int, State]) -> None:
        """Note the names of the states of a layer."""
        assert layer is not None
        slots = [LoopSlot(state.name, at, at) for at, state in states.items()]
        layer.meta[ROLLED] = RolledLoop(
            line=self.unrolled.line,
            states=tuple(slots),
            steps=self.steps,
            rest=self._rest,
            grows_with=frozenset(growing(self.size)),
            numbers=self.unrolled.numbers,
            peeled=False,
        )

    @property
    def _rest(self) -> int | str:
        """Return the axis of all steps but the first."""
        return axis_text(self.size - 1)

    def _results(self) -> tuple[list[Operand], list[Operand]]:
        """Return the families of the collected results, and of the values of the last
        step that are read behind the loop.
        """
        unrolled = self.unrolled
        rows = [node.inputs[1:] for node in self.collects]
        rows += [self._row(value) for value in self.last_values]
        results = unrolled.resolve(rows)
        firsts = [node.inputs[0] for node in self.collects]
        firsts += [self._first_of(value) for value in self.last_values]
        known = all(value is not None for value in firsts)
        pairs = zip(results, firsts, strict=True)
        self.peeled = not (known and unrolled.includes_first(pairs))  # type: ignore[arg-type]
        count = len(self.collects)
        return results[:count], results[count:]

    # What is read of the iterations

    def _row(self, value: ir.Value) -> Sequence[ir.Value | None]:
        """Return the values of the compared iterations that end with ``value``."""
        marks = self.unrolled.variables
        for name, last in marks[-1].items():
            if last is value:
                row = [variables.get(name) for variables in marks[2:]]
                if None not in row:
                    return row
        raise UnlikeError(_READ_BEHIND)

    def _first_of(self, value: ir.Value) -> ir.Value | None:
        """Return the value of the same variable after the first iteration."""
        marks = self.unrolled.variables
        names = [name for name, last in marks[-1].items() if last is value]
        firsts = (marks[1].get(name) for name in names)
        return next((first for first in firsts if first is not None), None)

    def _with_two_steps(self, ranges: Ranges) -> Ranges:
        """Return the ranges that let the loop run one step behind the first one."""
        names = self.size.free_symbols
        missing = self.size - sum(names)
        if len(names) != 1 or not missing.is_number:
            raise UnlikeError("its first step differs from the others")
        name = str(self.size - missing)
        limits = ranges.get(name, AxisRange())
        least = max(limits.least, 2 - int(missing))
        return {**ranges, name: limits._replace(least=least)}

    def _collect_earlier(self) -> None:
        """Collect the results of earlier loops that are read from a list."""
        for family in self.unrolled.families:
            if not isinstance(family, Read) or family.source is not None:
                continue
            if family.first is None:
                raise UnlikeError(
                    "it reads the results of a loop before, and its first"
                    " step differs from the others"
                )
            loop, _ = self.unrolled.iterations[family.node]
            mark = next(
                node
                for node in self.graph
                if is_loop_node(node, MARK)
                and node.attributes["loop"].as_int() == loop
                and node.attributes["iteration"].as_int() == STEPS
            )
            if self.loops[loop] != self.size:
                raise UnlikeError("it reads the results of a loop of another length")
            node = ir.node(
                COLLECT,
                [family.first, *family.members],
                {"axis": 0, "loop": loop},
                domain=DOMAIN,
            )
            (value,) = node.outputs
            value.name = f"{family.value.name}.all"
            value.type = family.value.type
            value.shape = ir.Shape([self.steps, *axes_of(family.value)])
            self.graph.insert_after(mark, node)
            family.source = value

    # The Scan

    def _states(self) -> list[State]:
        """Return the states in the order of the loop's variables."""
        names = self.unrolled.names
        families = self.unrolled.families
        states = [family for family in families if isinstance(family, State)]
        named = [state for state in states if state.name in names]
        named.sort(key=lambda state: names.index(state.name))
        return [*named, *(state for state in states if state not in named)]

    def _scanned(self, results: Sequence[Operand]) -> list[Family]:
        """Return the families whose values of all steps are read."""
        if any(isinstance(result, ir.Value) for result in results):
            raise UnlikeError("a result of it is the same at every step")
        return [result for result in results if isinstance(result, Family)]

    def _scan(self, results: Sequence[Operand]) -> ir.Node:
        """Add the Scan; its outputs are the last states and the results of all steps."""
        states = self._states()
        scanned = list(dict.fromkeys(self._scanned(results)))
        for state in states:
            self._enter_state(state)
        self._start_counter(scanned)
        self._add_nodes()
        before = [self.inner[state] for state in states]
        after = [self._copy(self._value(state.source)) for state in states]
        initial = [self._initial(state) for state in states]
        if self.counter is not None:
            before.append(self.counter.entry)
            after.append(self.counter.after())
            initial.append(self._zeros(self.counter.entry))
        outputs = [*after, *(self._copy(self._value(family)) for family in scanned)]
        made = self._add_scan(initial, before, outputs)
        for value, family in zip(made[len(before) :], scanned, strict=True):
            value.shape = self._of_all_steps(family.value)
        node = made[0].producer()
        assert node is not None
        node.meta[ROLLED] = self._rolled(states)
        return node

    def _enter_state(self, state: State) -> None:
        """Make the body's input of a state."""
        name = self.build.name(state.name or "state")
        like = self._after(state)
        self.inner[state] = ir.val(name, like.dtype, like.shape)

    def _add_scan(
        self,
        initial: Sequence[ir.Value],
        before: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
    ) -> Sequence[ir.Value]:
        """Add the node; return the last states and the values of all steps."""
        if not self.entries:
            self._count()
        outer = [value for value, _ in self.entries.values()]
        entries = [entry for _, entry in self.entries.values()]
        body = ir.Graph(
            [*before, *entries],
            outputs,
            nodes=self.nodes,
            name=f"loop{self.unrolled.number}",
        )
        attributes = {"body": body, "num_scan_inputs": len(entries)}
        made = self.build.node(
            "Scan", [*initial, *outer], attributes, outputs=len(outputs)
        )
        for value, output in zip(made, outputs, strict=True):
            value.type = output.type
        for value, entry in zip(made, before, strict=False):
            value.shape = entry.shape
        return made

    def _rolled(self, states: Sequence[State]) -> RolledLoop:
        """Return the description of the loop, with a slot for each state of its Scan."""
        slots = [LoopSlot(state.name, at, at) for at, state in enumerate(states)]
        if self.counter is not None:
            at = len(slots)
            slots.append(LoopSlot(VARIABLE, at, at, is_counter=True))
        return RolledLoop(
            line=self.unrolled.line,
            states=tuple(slots),
            steps=self.steps,
            rest=self._rest,
            grows_with=frozenset(growing(self.size)),
            numbers=self.unrolled.numbers,
            peeled=self.peeled,
        )

    def _start_counter(self, results: Sequence[Family]) -> None:
        """Make the number of the step a state, if all that read it allow it."""
        families = self.unrolled.families
        sources = [state.source for state in self._states()]
        is_result = any(isinstance(x, Number) for x in (*results, *sources))
        if self.peeled or is_result or not can_count(families, self.batch):
            return
        entry = ir.val(
            self.build.name(VARIABLE), ir.DataType.INT64, ir.Shape([self.batch])
        )
        self.counter = StepCounter(entry, self._inside, self.build.constant)

    def _zeros(self, like: ir.Value) -> ir.Value:
        """Return zeros of the shape of a state."""
        zero = self.build.constant(np.array(0), "zero")
        value = self.build.value("Expand", [zero, self._shape(like)])
        value.shape = like.shape
        value.dtype = ir.DataType.INT64
        return value

    def _of_all_steps(self, value: ir.Value) -> ir.Shape:
        """Return the shape of a value stacked over all steps."""
        return ir.Shape([self._count_text(), *(value.shape or ())])

    def _count_text(self) -> int | str:
        """Return the axis of the Scan's steps."""
        return axis_text(self.size - 1) if self.peeled else self.steps

    def _after(self, state: State) -> ir.Value:
        """Return a value of a state behind a step."""
        source = state.source
        assert source is not None
        value = source if isinstance(source, ir.Value) else source.value
        return self._after(source) if isinstance(source, State) else value

    def _add_nodes(self) -> None:
        """Add the nodes of an iteration to the body, in their order."""
        families: dict[ir.Node, list[Family]] = {}
        for family in self.unrolled.families:
            if type(family) is Family and family not in self.unrolled.invariant:
                families.setdefault(family.node, []).append(family)
        for node in self.graph:
            if node not in families:
                continue
            reader = families[node][0]
            operands = [self._operand(one, reader) for one in reader.operands]
            copy = copied_node(node, operands, name=self.build.name, title=node.op_type)
            self.nodes.append(copy)
            for family in families[node]:
                self.inner[family] = copy.outputs[family.value.index() or 0]

    def _operand(self, operand: Operand, reader: Family) -> ir.Value | None:
        """Return the value of an operand in the body, for its reader."""
        if isinstance(operand, Number) and self.counter is not None:
            return self.counter.operand(operand, reader)
        return self._value(operand)

    def _value(self, operand: Operand) -> ir.Value | None:
        """Return the value of an operand in the body."""
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if operand not in self.inner:
            if isinstance(operand, Read):
                self.inner[operand] = self._read(operand)
            elif isinstance(operand, Number):
                self.inner[operand] = self._number(operand)
        return self.inner[operand]

    def _copy(self, value: ir.Value | None) -> ir.Value:
        """Return a value of its own for an output of the body."""
        assert value is not None
        copied = self._inside("Identity", [value])
        copied.type = value.type
        copied.shape = value.shape
        return copied

    def _inside(
        self, op: str, inputs: Sequence[ir.Value], **attributes: Any
    ) -> ir.Value:
        """Add a node to the body."""
        node = ir.node(op, inputs, attributes, name=self.build.name(op))
        node.outputs[0].name = self.build.name(f"{op}_out")
        node.outputs[0].type = inputs[0].type
        self.nodes.append(node)
        return node.outputs[0]

    def _read(self, read: Read) -> ir.Value:
        """Return the frames that the body reads, with their axis if there are several."""
        if not read.width:
            return self._entry(read, 0)
        axes = self.build.constant(np.array([read.axis]), "axes")
        steps = []
        for number in range(read.width):
            entry = self._entry(read, number)
            steps.append(self._inside("Unsqueeze", [entry, axes]))
        if len(steps) == 1:
            return steps[0]
        return self._inside("Concat", steps, axis=read.axis)

    def _entry(self, read: Read, number: int) -> ir.Value:
        """Return the body's entry for the step at ``number`` behind the read one."""
        source = read.source
        assert source is not None
        start = read.offset + number + self.peeled
        if (key := (source, read.axis, start)) not in self.entries:
            axes = axes_of(source)
            outer = self._all_steps(read, number)
            others = [size for axis, size in enumerate(axes) if axis != read.axis]
            entry = ir.val(self.build.name("x"), source.dtype, ir.Shape(others))
            self.entries[key] = (outer, entry)
        return self.entries[key][1]

    def _all_steps(self, read: Read, number: int) -> ir.Value:
        """Return all steps of what is read, ``number`` steps later, time first."""
        assert read.source is not None
        start = read.offset + number + self.peeled
        return self._time_first(read.source, read.axis, start)

    def _time_first(self, source: ir.Value, axis: int, start: int) -> ir.Value:
        """Return the steps of ``source`` from ``start`` on, with the time axis first."""
        axes = [*axes_of(source)]
        value = source
        if start or axes[axis] != self._count_text():
            first = np.array([start])
            end = self.build.value("Add", [self._length(), first])
            value = self.build.value("Slice", [value, first, end, np.array([axis])])
            sizes = [*axes[:axis], self._count_text(), *axes[axis + 1 :]]
            value.shape = ir.Shape(sizes)
        return self._moved(value, axis, 0)

    def _moved(self, value: ir.Value, axis: int, to: int) -> ir.Value:
        """Move an axis of a value."""
        if axis == to:
            return value
        order = [at for at in range(len(axes_of(value))) if at != axis]
        order.insert(to, axis)
        moved = self.build.value("Transpose", [value], {"perm": order})
        moved.shape = ir.Shape([axes_of(value)[at] for at in order])
        return moved

    def _length(self) -> ir.Value:
        """Return the number of the Scan's steps, ``(1,)``."""
        length = self.build.value("Reshape", [self.unrolled.length, np.array([1])])
        if self.peeled:
            length = self.build.value("Sub", [length, np.array([1])])
        return length

    def _number(self, number: Number) -> ir.Value:
        """Return the body's entry for numbers that grow evenly."""
        value = self._numbers(number)
        entry = ir.val(self.build.name("t"), value.dtype, ir.Shape(axes_of(value)[1:]))
        self.entries[number] = (value, entry)
        return entry

    def _numbers(self, number: Number) -> ir.Value:
        """Return the numbers of all steps, time first."""
        start = np.asarray(number.start - (0 if self.peeled else 1) * number.slope)
        dtype = ir.DataType.from_numpy(start.dtype)
        value = self._range()
        steps = axes_of(value)
        if dtype != ir.DataType.INT64:
            value = self.build.cast(value, dtype)
            value.shape = ir.Shape(steps)
        if start.ndim:
            axes = np.arange(1, 1 + start.ndim)
            value = self.build.value("Unsqueeze", [value, axes])
            value.shape = ir.Shape([*steps, *[1] * start.ndim])
        for op, operand in (("Mul", np.asarray(number.slope)), ("Add", start)):
            value = self.build.value(op, [value, operand])
            value.dtype = dtype
            value.shape = ir.Shape([*steps, *start.shape])
        return value

    def _range(self) -> ir.Value:
        """Return the numbers of all steps."""
        length = self.build.value("Squeeze", [self._length()])
        zero = self.build.constant(np.array(0), "first")
        steps = self.build.value("Range", [zero, length, np.array(1)])
        steps.shape = ir.Shape([self._count_text()])
        return steps

    def _count(self) -> None:
        """Let the Scan run over step numbers, where it reads nothing else."""
        entry = ir.val(self.build.name("t"), ir.DataType.INT64, ir.Shape([]))
        self.entries["steps"] = (self._range(), entry)

    def _initial(self, state: State) -> ir.Value:
        """Return the initial value of a state, with the shape that the state keeps."""
        value = state.members[0] if self.peeled else state.first
        inner = self.inner[state]
        assert value is not None
        if value.dtype is not None and value.dtype != inner.dtype:
            value = self.build.cast(value, inner.dtype)  # type: ignore[arg-type]
        if value.shape is not None and axes_of(value) == axes_of(inner):
            return value
        value = self.build.value("Expand", [value, self._shape(inner)])
        value.shape = inner.shape
        return value

    def _shape(self, value: ir.Value) -> ir.Value:
        """Return the shape of a state, of numbers and of sizes of the inputs."""
        sizes = []
        for size in axes_of(value):
            if isinstance(size, int):
                sizes.append(self.build.constant(np.array([size]), "size"))
                continue
            source, axis = self._with_axis(size)
            ends = {"start": axis, "end": axis + 1}
            length = self.build.value("Shape", [source], ends)
            length.dtype = ir.DataType.INT64
            sizes.append(length)
        return self.build.value("Concat", sizes, {"axis": 0})

    def _with_axis(self, size: str) -> tuple[ir.Value, int]:
        """Return an input with an axis of this size, and the index of the axis."""
        for value in data_inputs(self.graph):
            for axis, name in enumerate(axes_of(value)):
                if name == size:
                    return value, axis
        raise UnlikeError(f"the shape of a state changes to {size}")

    # Behind the loop

    def _replace_collects(self, results: Sequence[ir.Value]) -> None:
        """Let what takes the results of all iterations take those of all steps."""
        for node, result in zip(self.collects, results, strict=True):
            value = result
            first = node.inputs[0]
            assert first is not None
            if self.peeled:
                front = self.build.value("Unsqueeze", [first, np.array([0])])
                value = self.build.value("Concat", [front, value], {"axis": 0})
            value.shape = ir.Shape([self.steps, *axes_of(first)])
            new = self._moved(value, 0, node.attributes["axis"].as_int())
            new.type = node.outputs[0].type
            new.shape = node.outputs[0].shape
            ir.convenience.replace_all_uses_with(
                node.outputs[0], new, replace_graph_outputs=True
            )
            self.graph.remove(node, safe=True)

    def _element(self, values: ir.Value, index: int) -> ir.Value:
        """Return one element along the first axis."""
        return self.build.value("Gather", [values, np.array(index)], {"axis": 0})

    def _replace(self, value: ir.Value, new: ir.Value) -> None:
        """Let the readers outside of the loop read another value."""
        new.type = value.type
        new.shape = value.shape
        iterations = self.unrolled.iterations
        for reader, slot in list(value.uses()):
            inside = iterations.get(reader, (None, 0))[0] == self.unrolled.number
            if not inside and not is_loop_node(reader, MARK):
                reader.replace_input_with(slot, new)
        if value.is_graph_output():
            for index, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[index] = new

    def _remove(self) -> None:
        """Remove the iterations.

        Raises:
            UnlikeError: a value of one is still read.
        """
        for mark in self.unrolled.marks:
            self.graph.outputs.remove(mark.outputs[0])
            self.graph.remove(mark, safe=True)
        common.RemoveUnusedNodesPass()(self.model)
        left = {*self.graph}
        for node, (loop, iteration) in self.unrolled.iterations.items():
            if loop == self.unrolled.number and iteration > 1 and node in left:
                raise UnlikeError(_READ_BEHIND)
