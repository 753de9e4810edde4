"""A graph that is rewritten node by node, so that what it looks back at along time is a state.

Each value that grows with time has a ``Fact``, and each node that looks along time has a rule in ``rules``;
all others compute a frame from that frame of their operands. Where branches of different delay meet, the
earlier one waits in a state. What stands behind a delay begins with its first real frame: its states are held
at their reset values until then (their ``start``).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.manifest import Axes, StateSpec, rate_name

from ..evaluate import inputs_above
from ..graph import (
    END,
    Builder,
    UniqueNames,
    axes_of,
    behind_identity,
    constant,
    data_inputs,
    is_used,
    values_read,
)
from .facts import (
    Fact,
    GathersTimeError,
    GrowsTwiceError,
    Growth,
    NotStreamableError,
    Shapes,
    name_node,
)

_MOST_FRAMES = 1 << 20
"""Frames that one state holds at the most."""
_LAYOUT = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that change no number: padding in front of them may be put in behind them."""
_CARRYING = ("Loop", "Scan")
"""What may carry states of its own, which begin with its first step."""
_READS_SHAPE = ("Shape", "Size")
_GATHERING = {
    "Softmax": "a softmax over time",
    "LogSoftmax": "a softmax over time",
    "Einsum": "a product over time",
    "Gemm": "a product over time",
    "MatMul": "a product over time",
    "InstanceNormalization": "a normalization over all time",
    "GroupNormalization": "a normalization over all time",
    "LayerNormalization": "a normalization over all time",
    "GlobalAveragePool": "a pooling over all time",
    "GlobalMaxPool": "a pooling over all time",
    "ReverseSequence": "a reversal of time",
    "TopK": "a sort over time",
}


class Rewriter:
    """A graph that is being rewritten, and what is known of its values so far."""

    def __init__(self, model: ir.Model, shapes: Shapes, sequence: str) -> None:
        self.graph, self.shapes, self.unit = model.graph, shapes, shapes.unit
        self.facts = {
            value: Fact(axes_of(value).index(sequence))
            for value in data_inputs(self.graph)
            if sequence in axes_of(value)
        }
        self.states: list[StateSpec] = []
        self.starts: dict[str, int] = {}
        """Steps for which the states that were inputs already are held, where any."""
        self.delays: dict[str, int] = {}
        """Of each output, the frames that it is behind; of one of the last step, units."""
        self.surpluses: dict[str, int] = {}
        """Of each output, how many frames more than the stream it has in the whole."""
        self.paced = self.unit > 1
        """Whether there are fewer or more frames than steps."""
        self.early: dict[str, int] = {}
        """Of each value of the last step alone, how many frames after its frame the whole has."""
        self.end: int | None = None
        """Steps from reset after which a table of positions ends, where there is one."""
        self.reach = 0
        """Steps that the states hold together, rounded up for each."""
        self._model, self._sequence = model, sequence
        self._from_data = set(data_inputs(self.graph))
        self._last: dict[ir.Value, tuple[Fact, int, int]] = {}
        """Values of the last frames alone: the fact of what they are of, that value's surplus, how many."""
        self._joined: dict[tuple[ir.Value, int, float, int], ir.Value] = {}
        """Values with their past in front, which several nodes may read."""
        self._padded: dict[tuple[ir.Value, int, float], ir.Value] = {}
        """Values whose first unit begins with padding."""
        self._waiting: dict[ir.Value, ir.Value] = {}
        """Of each value that waits, the one in the whole."""
        self._counts: dict[tuple[ir.Value, Axes, int], ir.Value] = {}
        """What counts steps, counting on; by that value, and the axes and the start of its state."""
        self._positions: dict[tuple[Fraction, int], tuple[ir.Value, ir.Value]] = {}
        """Positions of the frames of all rows, in two shapes, by rate and by the start of their state."""
        self._refused: dict[ir.Value, str] = {}
        """Values that no stream can give, and why; their shape may be read."""
        self._handed_on: list[ir.Node] = []

    def visit(self, node: ir.Node, rules: Mapping[str, "Rule"]) -> None:
        """Find the facts of what a node gives, and give it the states that it needs."""
        if node.op_type in _READS_SHAPE:
            return
        read = list(values_read(node))
        self._refuse(read)
        moving = [value for value in read if value in self.facts and not self.facts[value].constant]
        if not moving:
            self._visit_timeless(node, read)
            return
        if any(value in self._last for value in read):
            raise NotStreamableError(f"a latent repeated over time, {name_node(node)}")
        self._from_data.update(node.outputs)
        rule = rules.get(node.op_type) if node.domain == "" else None
        leads = moving[0] is node.inputs[0] or node.op_type in ("Concat", "Scan")
        if rule is None or not leads or not rule(self, node, moving[0], self.facts[moving[0]]):
            self._same_step(node, moving)

    def _visit_timeless(self, node: ir.Node, read: list[ir.Value]) -> None:
        """Take a node that reads no step, or only the last one."""
        if any(value in self._from_data for value in read):
            self._from_data.update(node.outputs)
        lasts = (self._last[value] for value in read if value in self._last)
        last = max(lasts, key=lambda each: (each[0].delay + each[2]) / each[0].rate, default=None)
        for value in node.outputs:
            if value not in self._from_data and isinstance(self.shapes.growths.get(value), GrowsTwiceError):
                continue  # a mask of an attention, which is refused where it meets the data
            if (found := self.growth(value)) is None:
                self._last.update({} if last is None else {value: last})
            elif last is not None:
                raise NotStreamableError(f"a latent repeated over time, {name_node(node)}")
            elif value in self.shapes.even:
                self.facts[value] = Fact(**found._asdict(), constant=True)
            # what counts from the start of a call has no fact: see ``_same_step``

    def _same_step(self, node: ir.Node, moving: Iterable[ir.Value]) -> None:
        """Take a node whose results of a step depend on that step alone; operands wait for one another."""
        facts = {value: self.facts[value] for value in moving}
        first = next(iter(facts.values()))
        counted = any(self._counts_on(operand) for operand in node.inputs)
        delay = max(self.ready(fact, held=counted) for fact in facts.values())
        if delay and (node.domain or node.op_type in _CARRYING):
            raise NotStreamableError(f"{name_node(node)} would start late: {first.ahead} looks ahead")
        if counted:
            self._continue_counts(node, next(iter(facts)), int(delay / first.rate))
        if first.pad and len(facts) == 1 and node.op_type in _LAYOUT:
            found = self.growth(node.outputs[0])
            if found is not None and not found.merged:
                self.set_fact(node, node.outputs[0], first)
                return
        self.wait_together(node, facts, delay)
        ahead = next((fact.ahead for fact in facts.values() if fact.delay == delay), "")
        fact = replace(first, delay=delay, pad=0, ahead=ahead)
        for value in node.outputs:
            if node.op_type in _CARRYING and self.growth(value) is None:
                self.set_last(value, next(iter(facts)), fact)
            else:
                self.set_fact(node, value, fact)

    def _continue_counts(self, node: ir.Node, moving: ir.Value, start: int) -> None:
        """Let the operands that count from the start of a call count on from the calls before."""
        for place, operand in enumerate(node.inputs):
            if operand is not None and self._counts_on(operand):
                node.replace_input_with(place, self._count_on(node, operand, moving, start))

    def growth(self, value: ir.Value) -> Growth | None:
        """Return how a value grows with time; None if it does not.

        Raises:
            NotStreamableError: it grows on several axes, or not evenly.
        """
        found = self.shapes.growths.get(value)
        if isinstance(found, NotStreamableError):
            raise found
        return found

    def set_fact(self, node: ir.Node, value: ir.Value, fact: Fact) -> None:
        """Record the fact of a node's output; its axis is found.

        Raises:
            GathersTimeError: it does not grow with time.
        """
        if not is_used(value):
            return
        found = self.growth(value)
        if found is None:
            raise GathersTimeError(describe_gathering(node))
        if found.rate != fact.rate:
            norm = next((each.node for each in value.uses() if "Norm" in each.node.op_type), None)
            other = f"another number of frames than steps, {name_node(node)}"
            raise GathersTimeError(describe_gathering(norm) if norm else other)
        ahead = fact.ahead or (name_node(node) if fact.delay > 0 else "")
        self.facts[value] = replace(fact, axis=found.axis, merged=found.merged, ahead=ahead)

    def set_last(self, value: ir.Value, source: ir.Value, fact: Fact, frames: int = 1) -> None:
        """Record that a value is of the last frames of ``source``, as it is with this fact."""
        self._last[value] = fact, (surplus := self.shapes.surplus(source, fact)), frames
        self.early[str(value.name)] = fact.delay + surplus

    def refuse_readers(self, node: ir.Node, reason: str) -> None:
        """Refuse whatever reads more than the shape of a node's results."""
        self._refused.update(dict.fromkeys(node.outputs, f"{reason}, {name_node(node)}"))

    def _refuse(self, read: Iterable[ir.Value]) -> None:
        for value in read:
            if value in self._refused:
                raise GathersTimeError(self._refused[value])

    def filled(self, value: ir.Value | None) -> float | None:
        """Return the number that all elements of a constant are; None for what is none."""
        if value is None or value in self._from_data:
            return None
        array = constant(value)
        if array is None:
            return self.shapes.uniform.get(value)
        return float(array.flat[0]) if array.size and (array == array.flat[0]).all() else None

    def ready(self, fact: Fact, *, held: bool = False) -> int:
        """Return the delay of a value whose padding is in the stream.

        Args:
            fact: the value's.
            held: whether a state is held until then, which ends with a unit, as a call does.
        """
        return fact.start + (-fact.start % self._unit_of(fact) if held or (fact.pad and fact.merged) else 0)

    def _unit_of(self, fact: Fact) -> int:
        """Return the frames of a unit."""
        return int(self.unit * fact.rate)

    def _first_step(self, fact: Fact) -> int:
        """Return the first step of the unit in which a value begins."""
        return fact.start // self._unit_of(fact) * self.unit

    def align(self, node: ir.Node, value: ir.Value, fact: Fact) -> tuple[ir.Value, Fact]:
        """Return a value in whose past padding can be put in, and its fact.

        Where the padding ends within a unit, the frames of this unit before are padding too.
        """
        late = replace(fact, delay=self.ready(fact) - fact.pad)
        value = self.wait(node, value, replace(fact, pad=0), late.delay)
        if not (early := late.start % self._unit_of(late)):
            return value, late
        key = (value, late.start, late.fill)
        if key not in self._padded:
            dtype = np.dtype(self.shapes.dtypes[self._waiting.get(value, value)])
            build, begun = Builder(node, "pad"), self._begun(node, value, late, dtype)
            first = build.slice(value, late.axis, 0, early)
            (padded,) = build.node("Mul", [first, begun])
            if late.fill:
                one, fill = (build.constant(np.array(each, dtype), "fill") for each in (1, late.fill))
                (missing,) = build.node("Sub", [one, begun])
                (padded,) = build.node("Add", [padded, build.node("Mul", [missing, fill])[0]])
            made = build.concat([padded, build.slice(value, late.axis, early, END)], late.axis)
            self._waiting[made] = self._waiting.get(value, value)
            self._padded[key] = made
        return self._padded[key], late

    def _begun(self, node: ir.Node, value: ir.Value, fact: Fact, dtype: np.dtype[Any]) -> ir.Value:
        """Return 0 in the unit in which a value begins, then 1."""
        rows = self.shapes.axes(self._waiting.get(value, value))
        axes = tuple(
            each if isinstance(each, str) and place != fact.axis else 1 for place, each in enumerate(rows)
        )
        build = Builder(node, "begun")
        zero, one = (build.constant(np.array(each, dtype), "number") for each in (0, 1))
        state = self.state(axes, dtype.name, 0.0, "begun", self._first_step(fact))
        self.end_state(build.node("Add", [build.node("Mul", [state, zero])[0], one])[0])
        return state

    def past(self, node: ir.Node, value: ir.Value, fact: Fact, frames: int, kind: str) -> ir.Value:
        """Return ``value`` with its last ``frames`` of earlier calls in front; nodes go before ``node``."""
        if not frames:
            return value
        shown, value = self._waiting.get(value, value), behind_identity(value)
        self._waiting.setdefault(value, shown)
        reset, start = (fact.fill, self._first_step(fact)) if fact.pad else (0.0, 0)
        if (value, frames, reset, start) in self._joined:
            return self._joined[value, frames, reset, start]
        if fact.merged:
            raise NotStreamableError(f"{name_node(node)} would keep rows that are merged with time")
        if frames > _MOST_FRAMES:
            raise NotStreamableError(f"{name_node(node)} looks back {frames} steps")
        state, build = self.frames_of(value, fact, frames, reset, kind, start), Builder(node, kind)
        joined = build.concat([state, value], fact.axis)
        self.end_state(build.slice(joined, fact.axis, -frames, END))
        self._joined[value, frames, reset, start] = joined
        return joined

    def state(self, axes: Axes, dtype: str, reset: float, kind: str, start: int) -> ir.Value:
        """Add a state's input; ``end_state`` adds its output."""
        check_sizes(axes, self.shapes.batch)
        names = UniqueNames(self.graph)
        count = sum(state.input.startswith(f"{kind}_") for state in self.states)
        added = ir.val(names.unique(f"{kind}_{count}"), ir.DataType.from_numpy(np.dtype(dtype)), axes)
        self.graph.inputs.append(added)
        output = names.unique(f"{added.name}_n")
        self.states.append(StateSpec(str(added.name), output, dtype, axes, reset, start))
        return added

    def frames_of(
        self, value: ir.Value, fact: Fact, frames: int, reset: float, kind: str, start: int
    ) -> ir.Value:
        """Add a state of ``frames`` of ``value``."""
        value = self._waiting.get(value, value)
        sizes = enumerate(self.shapes.axes(value))
        axes = tuple(frames if place == fact.axis else each for place, each in sizes)
        self.reach += ceil(frames / fact.rate)
        return self.state(axes, self.shapes.dtypes[value], reset, kind, start)

    def end_state(self, value: ir.Value) -> None:
        """Make ``value`` the output of the state that was added last."""
        state = self.states[-1]
        value.name, value.shape = state.output, ir.Shape(state.axes)
        value.dtype = ir.DataType.from_numpy(np.dtype(state.dtype))
        self.graph.outputs.append(value)

    def _counts_on(self, value: ir.Value | None) -> bool:
        """Return whether a value counts steps: it grows with time, and depends on no data."""
        known = value is None or value in self.facts or value in self._from_data
        return value is not None and not known and self.growth(value) is not None

    def _count_on(self, node: ir.Node, value: ir.Value, beside: ir.Value, start: int) -> ir.Value:
        """Return ``value``, which is computed from a count of steps, from one that goes on from call to call.

        Each row has a count of its own, on the batch axis of ``beside``, which is read with it.
        """
        from .positions import Positions, split_rows

        fact, rows, own = self.facts[beside], self.shapes.axes(beside), self.shapes.axes(value)
        named = [place for place, axis in enumerate(rows) if isinstance(axis, str)]
        found, missing = self.growth(value), len(rows) - len(own)
        assert found is not None
        apart = found.axis + missing != fact.axis or missing < 0
        if apart or fact.merged or found.merged or len(named) > 1:
            raise NotStreamableError(f"positions that restart with every call, {name_node(node)}")
        build, batch = Builder(node, "position"), [rows[place] for place in named]
        key = (value, tuple(rows), start)
        if key in self._counts:
            return self._counts[key]
        (shape,) = build.node("Shape", [beside])
        shape.dtype = ir.DataType.INT64
        frames = build.slice(shape, 0, fact.axis, fact.axis + 1)
        positions, joined = self._frames_since_reset(node, frames, (*batch, 1), fact.rate, start)
        made = Positions(self.shapes, self.growth, build, joined)
        total = made.per_row(value, positions, fact.axis, named, len(rows))
        if total is None:
            total = made.of(value)
            if named:
                sizes = [1] * missing + [1 if isinstance(axis, str) else axis for axis in own]
                total = split_rows(build, total, sizes, fact.axis, named[0], frames)
        if made.end is not None:
            steps = int((made.end + start * fact.rate) / fact.rate) // self.unit * self.unit
            self.end = steps if self.end is None else min(self.end, steps)
        self._counts[key] = total
        return total

    def _frames_since_reset(
        self, node: ir.Node, frames: ir.Value, axes: Axes, rate: Fraction, start: int
    ) -> tuple[ir.Value, ir.Value]:
        """Return the positions of each row's frames ``(N, frames)``, and of all rows' one after another.

        They are counted by a state.
        """
        if (rate, start) not in self._positions:
            build = Builder(node, "count")
            count = self.state(axes, "int64", 0.0, "count", start)
            self.end_state(build.node("Add", [count, frames])[0])
            zero, one = (build.constant(np.array(each), "number") for each in (0, 1))
            (steps,) = build.node("Range", [zero, build.node("Squeeze", [frames])[0], one])
            (positions,) = build.node("Add", [count, steps])
            shape = build.constant(np.array([-1]), "shape")
            (joined,) = build.node("Reshape", [positions, shape])
            self._positions[rate, start] = positions, joined
        return self._positions[rate, start]

    def wait(self, node: ir.Node, value: ir.Value, fact: Fact, delay: int) -> ir.Value:
        """Return ``value`` delayed until it has ``delay``; its padding is in, which ``ready`` says when."""
        if fact.pad:
            value, fact = self.align(node, value, fact)
        frames = delay - fact.delay
        if not frames:
            return value
        joined = self.past(node, value, fact, frames, "delay")
        late = Builder(node, "delay").slice(joined, fact.axis, 0, -frames)
        self._waiting[late] = self._waiting.get(value, value)
        return late

    def settle(
        self, node: ir.Node, value: ir.Value, fact: Fact, *, held: bool = False
    ) -> tuple[ir.Value, Fact]:
        """Return ``value`` delayed until its padding is in, and its fact; for ``held`` see ``ready``."""
        ready = self.ready(fact, held=held)
        return self.wait(node, value, fact, ready), replace(fact, delay=ready, pad=0)

    def wait_together(self, node: ir.Node, facts: Mapping[ir.Value, Fact], delay: int) -> None:
        """Let the operands of a node that have ``facts`` wait until all have ``delay``."""
        for place, operand in enumerate(node.inputs):
            if operand is not None and operand in facts:
                node.replace_input_with(place, self.wait(node, operand, facts[operand], delay))

    def hand_on(self, node: ir.Node, fact: Fact) -> None:
        """Make a node hand on its first operand: ``fact`` says which frame stands where."""
        node.op_type = "Identity"
        node.resize_inputs(1)
        node.attributes.clear()
        self._handed_on.append(node)
        self.set_fact(node, node.outputs[0], fact)

    def check_outputs(self) -> None:
        """Find how far behind each output is, and let it wait for frames that the whole does not have."""
        states = {state.output for state in self.states}
        self._refuse(self.graph.outputs)
        for value in [value for value in self.graph.outputs if value.name not in states]:
            name, fact = str(value.name), self.facts.get(value)
            self.delays[name] = 0
            if value in self._last:
                fact, self.surpluses[name], frames = self._last[value]
                if fact.pad or fact.delay + self.surpluses[name] < 0:
                    raise NotStreamableError(f"{name} is of another step than the last")
                self.delays[name] = (fact.delay + frames - 1) // self._unit_of(fact)
            elif fact is not None and value.producer() is not None:
                self.surpluses[name] = self.shapes.surplus(value, fact)
                self.delays[name] = max(self.ready(fact), -self.surpluses[name])
                self.paced |= fact.rate != 1
                self._give_late(value, fact, self.delays[name])

    def _give_late(self, value: ir.Value, fact: Fact, delay: int) -> None:
        """Let an output wait until it has ``delay``, and name its axis of time."""
        node = value.producer()
        if node is not None and delay > fact.delay:
            node = node if node in self._handed_on else self._behind(value)
            value = node.outputs[0]
            source = node.inputs[0]
            assert source is not None
            node.replace_input_with(0, self.wait(node, source, fact, delay))
        axes = [*axes_of(value)]
        axes[fact.axis] = rate_name(self._sequence, fact.rate.numerator, fact.rate.denominator)
        value.shape = ir.Shape(axes)

    def _behind(self, value: ir.Value) -> ir.Node:
        """Return a node that hands ``value`` on as the output in its place."""
        made = ir.node("Identity", [value])
        output = made.outputs[0]
        output.name, value.name = value.name, UniqueNames(self.graph).unique(f"{value.name}_early")
        output.shape, output.type = value.shape, value.type
        self.graph.append(made)
        self.graph.outputs[list(self.graph.outputs).index(value)] = output
        return made

    def hold(self, node: ir.Node, value: ir.Value | None, fact: Fact) -> None:
        """Hold the states that ``value``, a recurrent node's initial state, is read from until it starts."""
        start = fact.start_step
        if value is None or not start:
            return
        if not (names := inputs_above(value)):
            raise NotStreamableError(f"{name_node(node)} would start late, and its state is not an input")
        for name in names:
            if self.starts.setdefault(name, start) != start:
                raise NotStreamableError(f"layers at two delays start from one state, {name}")

    def finish(self) -> None:
        """Tidy the graph."""
        for node in self._handed_on:
            value, source = node.outputs[0], node.inputs[0]
            if source is not None and not value.is_graph_output():
                ir.convenience.replace_all_uses_with(value, source)
                self.graph.remove(node, safe=True)
        RemoveUnusedNodesPass()(self._model)
        outputs = set(self.graph.outputs)
        for node in ir.traversal.RecursiveGraphIterator(self.graph):
            for value in node.outputs:
                if value not in outputs:
                    value.shape = None


Rule = Callable[[Rewriter, ir.Node, ir.Value, Fact], bool]
"""Gives a node the states that it needs to look along time at its first moving operand, of such a fact; False
if it does not look along it."""


def describe_gathering(node: ir.Node) -> str:
    """Return what a node does that takes all steps together."""
    kind = "a reduction over time" if node.op_type.startswith("Reduce") else "an operator over all time"
    return f"{_GATHERING.get(node.op_type, kind)}, {name_node(node)}"


def check_sizes(axes: Axes, batch: str | None) -> None:
    """Raise NotStreamableError if an axis of a state has no fixed size and is not that of rows."""
    others = (axis for axis in axes if isinstance(axis, str) and axis.split("*")[-1] != batch)
    if (other := next(others, None)) is not None:
        raise NotStreamableError(
            f"a state needs each of its axes but that of rows at one size, and {other} takes any; give "
            "its size with --input NAME=AXES"
        )
