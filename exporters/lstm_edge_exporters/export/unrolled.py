"""The iterations of a loop over time in a traced graph, and how they are alike.

Values that the iterations compute alike are a *family*. Its operands are the same value
in every iteration, a family of the same iteration, one of an earlier iteration (a
state), a step that is read, or numbers that grow evenly. All iterations but the first
are compared; the first one is either like them, or stays in front of the loop.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ..graph import constant
from .loops import COLLECT, DOMAIN, MARK, READ, STEPS

_FIRST = 1
"""First of the iterations that are compared."""
_COUNT = STEPS - _FIRST
_KEEPING_NUMBERS = frozenset(
    ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Concat")
)
"""Operators that a constant index of a slice passes through."""
_TOLERANCE = 1e-12
"""Relative difference of numbers that grow evenly."""

Members = tuple[ir.Value | None, ...]
"""One value for each iteration that is compared; those of the last may be missing."""


@dataclass(eq=False)
class Family:
    """Values that the iterations compute alike, by an operator."""

    members: Members
    """The value of each iteration that is compared."""
    operands: list["Operand"] = field(default_factory=list)
    """What the operator reads: families, or values of outside."""
    first: ir.Value | None = None
    """The value of the first iteration."""

    @property
    def node(self) -> ir.Node:
        """The operator of the iteration that stands for all."""
        node = self.value.producer()
        assert node is not None
        return node

    @property
    def value(self) -> ir.Value:
        """The value of the iteration that stands for all."""
        value = self.members[0]
        assert value is not None
        return value


@dataclass(eq=False)
class State(Family):
    """Values of the iteration before."""

    source: "Operand" = None
    """The family whose previous value this is."""
    name: str = ""
    """Name of the loop's variable."""


@dataclass(eq=False)
class Number(Family):
    """Numbers that grow evenly."""

    start: Any = 0
    """Number of the first iteration that is compared."""
    slope: Any = 1
    """Growth per iteration."""


@dataclass(eq=False)
class Read(Family):
    """A step of a value."""

    source: ir.Value | None = None
    """The value; None until the results of an earlier loop are collected."""
    axis: int = 0
    """Axis of the steps."""
    offset: int = 0
    """Position of the first iteration."""
    width: int = 0
    """Number of steps that are read at once; 0 for a single one without an axis."""


Operand = Family | ir.Value | None


class UnlikeError(Exception):
    """Iterations are not alike; the message says in what."""


class Unrolled:
    """The iterations of one loop."""

    def __init__(self, graph: ir.Graph, number: int) -> None:
        """Find the marks and the nodes of loop ``number``."""
        self.graph = graph
        self.number = number
        self.iterations: dict[ir.Node, tuple[int, int]] = {}
        """Loop and iteration of the nodes inside of loops."""
        self.marks: list[ir.Node] = []
        current: tuple[int, int] | None = None
        for node in graph:
            if is_loop_node(node, MARK):
                loop = node.attributes["loop"].as_int()
                iteration = node.attributes["iteration"].as_int()
                current = (loop, iteration) if iteration < STEPS else None
                if loop == number:
                    self.marks.append(node)
            elif current is not None:
                self.iterations[node] = current
        self.line = self.marks[0].attributes["line"].as_string()
        self.length = self.marks[0].inputs[0]
        self.numbers = frozenset(self.marks[0].attributes["numbers"].as_strings())
        """Variables that are numbers when the loop starts."""
        self.variables = [_variables(mark) for mark in self.marks]
        """Variables that the loop has set before each mark, by name."""
        self.families: list[Family] = []
        self._made: dict[tuple[Any, ...], list[Family]] = {}
        self._waiting: list[Family] = []
        self.invariant: set[Family] = set()

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes of all iterations."""
        iterations = self.iterations.items()
        return [node for node, (loop, _) in iterations if loop == self.number]

    def iteration(self, value: ir.Value | None) -> int | None:
        """Return the iteration of this loop that computes ``value``."""
        loop, iteration = self._iteration_of(value)
        return iteration if loop == self.number else None

    def _iteration_of(self, value: ir.Value | None) -> tuple[int | None, int]:
        """Return loop and iteration of the node that computes a value."""
        node = value.producer() if value is not None else None
        return self.iterations.get(node, (None, -1)) if node is not None else (None, -1)

    def collected(self) -> list[ir.Node]:
        """Return the nodes that take the results of all iterations."""
        return [
            node
            for node in self.graph
            if is_loop_node(node, COLLECT)
            and node.attributes["loop"].as_int() == self.number
        ]

    def read_behind(self) -> list[ir.Value]:
        """Return the values of iterations that are read outside of the loop.

        The first iteration may stay in the graph, in front of the loop.
        """
        values = (value for node in self.iterations for value in node.outputs)
        return [
            value
            for value in values
            if self.iteration(value) and self._is_read_outside(value)
        ]

    def _is_read_outside(self, value: ir.Value) -> bool:
        """Return True if a node outside of the loop reads the value."""
        outside = (
            reader
            for reader, _ in value.uses()
            if self.iterations.get(reader, (None, 0))[0] != self.number
            and reader not in self.marks
            and not self._collects(reader)
        )
        return value.is_graph_output() or any(outside)

    def _collects(self, node: ir.Node) -> bool:
        """Return True if a node collects the results of this loop."""
        return (
            is_loop_node(node, COLLECT)
            and node.attributes["loop"].as_int() == self.number
        )

    def resolve(self, roots: Iterable[Sequence[ir.Value | None]]) -> list[Operand]:
        """Return the family of each row of values, one per compared iteration."""
        found = [self.family(tuple(root)) for root in roots]
        while self._waiting:
            self._add_operands(self._waiting.pop())
        self._find_invariant()
        return [self.as_value(family) for family in found]

    def as_value(self, operand: Operand) -> Operand:
        """Return ``operand``, as a value if all iterations compute the same."""
        if isinstance(operand, Family) and operand in self.invariant:
            return operand.value
        return operand

    def family(self, members: Members) -> Operand:
        """Return the family of one value per compared iteration, or what they share."""
        first = members[0]
        assert first is not None
        is_shared = all(member is first for member in members if member is not None)
        if is_shared and not self.iteration(first):
            return first
        key = (id(members[0]), id(members[1]))
        for made in self._made.get(key, ()):
            if _agree(made.members, members):
                made.members = _filled(made.members, members)
                return made
        if (arrays := _numbers_of(members)) is not None:
            is_constant = all(np.array_equal(arrays[0], array) for array in arrays)
            return first if is_constant else self._keep(key, _number(members, arrays))
        if (delay := self._delay(members)) is not None:
            return self._with_delay(key, members, delay)
        if (read := self._listed(members)) is not None:
            return self._keep(key, read)
        where = f"{first.name}" if first.producer() is None else _label(first)
        raise UnlikeError(f"its steps do not read the same value ({where})")

    def _keep(self, key: tuple[Any, ...], family: Family) -> Family:
        """Enter a new family."""
        self._made.setdefault(key, []).append(family)
        self.families.append(family)
        return family

    def _delay(self, members: Members) -> int | None:
        """Return by how many iterations the values are older than their readers."""
        at = [self.iteration(member) for member in members]
        for delay in range(_COUNT):
            expected = [index + _FIRST - delay for index in range(_COUNT)]
            pairs = [
                (found, want)
                for found, want, member in zip(at, expected, members, strict=True)
                if want >= 0 and member is not None
            ]
            if len(pairs) >= 2 and all(found == want for found, want in pairs):
                return delay
        return None

    def _with_delay(self, key: tuple[Any, ...], members: Members, delay: int) -> Family:
        """Return the family of values that come ``delay`` iterations later: states,
        reads or results.
        """
        if delay:
            state = self._keep(key, State(members))
            assert isinstance(state, State)
            state.name = self._name_of(members)
            state.source = self.family(self._advanced(members))
            return state
        node = members[0].producer() if members[0] is not None else None
        if node is not None and is_loop_node(node, READ):
            return self._keep(key, self._read(members))
        family = self._keep(key, Family(members))
        self._waiting.append(family)
        return family

    def _advanced(self, members: Members) -> Members:
        """Return the values one iteration later; the last one is found by its name."""
        before, last = members[-2:]
        after = None
        for name, value in self.variables[-2].items():
            is_of_the_row = value is last and self.variables[-3].get(name) is before
            if is_of_the_row:  # and no element of a list, which stays
                after = self.variables[-1].get(name)
        return (*members[1:], after)

    def _name_of(self, members: Members) -> str:
        """Return the variable that has the values when an iteration starts."""
        expected = [_origin(members[1]), _origin(members[2])]
        for name, value in self.variables[_FIRST + 1].items():
            later = self.variables[_FIRST + 2].get(name)
            if [_origin(value), _origin(later)] == expected:
                return name.removesuffix(".last")
        return ""

    @property
    def names(self) -> list[str]:
        """The names of the loop's variables, in order."""
        return [name.removesuffix(".last") for name in self.variables[_FIRST + 1]]

    def _read(self, members: Members) -> Read:
        """Return reads of consecutive frames of one tensor."""
        nodes = [member.producer() for member in members if member is not None]
        indices = [node.attributes["index"].as_int() for node in nodes if node]
        sources = {node.inputs[0] for node in nodes if node}
        layouts = {
            (node.attributes["axis"].as_int(), node.attributes["width"].as_int())
            for node in nodes
            if node
        }
        first = indices[0]
        is_steady = indices == [first + step for step in range(len(indices))]
        if len(sources) > 1 or len(layouts) > 1 or not is_steady:
            raise UnlikeError("its steps do not read one value after the other")
        ((axis, width),) = layouts
        offset = first - _FIRST
        return Read(
            members, source=sources.pop(), axis=axis, offset=offset, width=width
        )

    def _listed(self, members: Members) -> Read | None:
        """Return the results of an earlier loop that are read from its list."""
        made_in = [self._iteration_of(member) for member in members]
        loop = made_in[0][0]
        same = [(loop, _FIRST + index) for index in range(_COUNT)]
        return Read(members) if loop is not None and made_in == same else None

    def _add_operands(self, family: Family) -> None:
        """Find the operands of a family; its members must be computed alike."""
        nodes = [
            member.producer() if member is not None else None
            for member in family.members
        ]
        node = family.node
        index = family.value.index()
        for other, member in zip(nodes, family.members, strict=True):
            if other is None or member is None:
                continue
            if not _is_like(other, node) or member.index() != index:
                raise UnlikeError(
                    f"its steps compute differently ({other.op_type} and {node.op_type})"
                )
        for slot, operand in enumerate(node.inputs):
            if operand is None:
                family.operands.append(None)
                continue
            row = tuple(None if n is None else n.inputs[slot] for n in nodes)
            family.operands.append(self.family(row))

    def _find_invariant(self) -> None:
        """Find the families that compute the same in every iteration."""
        varying = {family for family in self.families if not self._is_computed(family)}
        grown = True
        while grown:
            grown = False
            for family in self.families:
                if family in varying:
                    continue
                if any(operand in varying for operand in family.operands):
                    varying.add(family)
                    grown = True
        self.invariant = {*self.families} - varying
        for family in self.families:
            family.operands = [self.as_value(operand) for operand in family.operands]
            if isinstance(family, State):
                family.source = self.as_value(family.source)

    @staticmethod
    def _is_computed(family: Family) -> bool:
        """Return True for values that a node of the step computes."""
        return type(family) is Family

    def includes_first(self, pairs: Iterable[tuple[Operand, ir.Value]]) -> bool:
        """Return True if the first iteration is like the others.

        Args:
            pairs: families, and their values in the first iteration.
        """
        waiting = [*pairs]
        states = [family for family in self.families if isinstance(family, State)]
        for state in states:
            first = state.members[0]
            assert first is not None
            waiting.append((state.source, first))
        while waiting:
            operand, value = waiting.pop()
            inner = self._first_operands(operand, value)
            if inner is None:
                return False
            waiting += inner
        return all(state.first is not None for state in states)

    def _first_operands(
        self, operand: Operand, value: ir.Value
    ) -> list[tuple[Operand, ir.Value]] | None:
        """Note ``value`` as the first iteration's; return the operands to compare, None
        if it is not like the others.
        """
        known = operand.first if isinstance(operand, Family) else operand
        if known is not None:
            return [] if _is_same(known, value) else None
        if not isinstance(operand, Family) or not self._is_first(operand, value):
            return None
        operand.first = value
        node = value.producer()
        if not self._is_computed(operand) or node is None:
            return []
        pairs = [*zip(operand.operands, node.inputs, strict=True)]
        if any((one is None) != (other is None) for one, other in pairs):
            return None
        return [(one, other) for one, other in pairs if other is not None]

    def _is_first(self, family: Family, value: ir.Value) -> bool:
        """Return True if ``value`` may be the first iteration's value of a family."""
        if isinstance(family, State):
            return True
        if isinstance(family, Number):
            return _is_number_before(family, value)
        node = value.producer()
        if node is None or self.iteration(value) != 0:
            is_list = isinstance(family, Read) and family.source is None
            return is_list and self._iteration_of(value)[1] == 0
        if isinstance(family, Read):
            return _is_first_read(family, node)
        return _is_like(node, family.node) and value.index() == family.value.index()

    def refusal(self, reason: object) -> UnsupportedError:
        """Return the error for a loop that can't become one recurrence."""
        return UnsupportedError(
            f"forward has a loop over time that can't be exported ({self.line}):"
            f" {reason}. Every step has to compute the same from x[:, t] and from the"
            " variables of the step before"
        )


def _numbers_of(members: Members) -> list[Array] | None:
    """Return the constants that the iterations read; None if one is computed."""
    known = [member for member in members if member is not None]
    arrays = [array for array in map(number_of, known) if array is not None]
    return arrays if len(arrays) == len(known) else None


def _number(members: Members, arrays: Sequence[Any]) -> Number:
    """Return constants that grow by the same amount per iteration."""
    start = np.asarray(arrays[0])
    if any(array.shape != start.shape for array in arrays):
        raise UnlikeError("its steps use constants of different shapes")
    if start.dtype == np.bool_:
        raise UnlikeError("its steps use different constants")
    slope = np.asarray(arrays[1] - start)
    for index, array in enumerate(arrays):
        expected = start + slope * index
        if not np.allclose(array, expected, rtol=_TOLERANCE, atol=0):
            raise UnlikeError("its steps use numbers that do not grow evenly")
    return Number(members, start=start, slope=slope)


def _agree(one: Members, other: Members) -> bool:
    """Return True if two rows have the same values where both are known."""
    pairs = zip(one, other, strict=True)
    return all(a is b for a, b in pairs if a is not None and b is not None)


def _filled(members: Members, others: Members) -> Members:
    """Return ``members``, and those of ``others`` where one is missing."""
    return tuple(old or new for old, new in zip(members, others, strict=True))


def _is_number_before(family: Number, value: ir.Value) -> bool:
    """Return True for the last number before the compared ones."""
    array = number_of(value)
    before = family.start - family.slope
    return (
        array is not None
        and array.shape == np.shape(before)
        and np.allclose(array, before, rtol=_TOLERANCE, atol=1e-300)
    )


def _is_first_read(family: Read, node: ir.Node) -> bool:
    """Return True if ``node`` reads the last step before the compared ones."""
    if not is_loop_node(node, READ) or node.inputs[0] is not family.source:
        return False
    read = [node.attributes[name].as_int() for name in ("axis", "width", "index")]
    is_step_before = read == [family.axis, family.width, family.offset]
    return is_step_before and family.offset >= 0


def _is_same(one: ir.Value, other: ir.Value) -> bool:
    """Return True if two values are computed alike from the same values."""
    waiting = [(one, other)]
    while waiting:
        left, right = waiting.pop()
        if left is right:
            continue
        number = number_of(left)
        other_number = number_of(right)
        if number is not None and other_number is not None:
            if not np.array_equal(number, other_number):
                return False
            continue
        nodes = left.producer(), right.producer()
        if nodes[0] is None or nodes[1] is None or left.index() != right.index():
            return False
        if not _is_like(nodes[0], nodes[1]) or _index(nodes[0]) != _index(nodes[1]):
            return False
        for pair in zip(nodes[0].inputs, nodes[1].inputs, strict=True):
            if pair[0] is not None and pair[1] is not None:
                waiting.append((pair[0], pair[1]))
            elif pair[0] is not pair[1]:
                return False
    return True


def is_loop_node(node: ir.Node, op: str) -> bool:
    """Return True if ``node`` is the marker ``op`` of a loop."""
    return node.domain == DOMAIN and node.op_type == op


def number_of(value: ir.Value | None) -> Array | None:
    """Return the array of a constant, also behind operators that keep its numbers."""
    array = constant(value)
    node = value.producer() if value is not None else None
    if array is not None or node is None or node.op_type not in _KEEPING_NUMBERS:
        return array
    inputs = [number_of(operand) for operand in node.inputs]
    if any(operand is None for operand in inputs):
        return None
    return _moved(node, inputs)


def _moved(node: ir.Node, inputs: Sequence[Any]) -> Array:
    """Return the result of an operator that keeps numbers."""
    array: Array = inputs[0]
    if node.op_type == "Cast":
        dtype = ir.DataType(node.attributes["to"].as_int()).numpy()
        return array.astype(dtype)
    if node.op_type == "Concat":
        return np.concatenate(inputs, node.attributes["axis"].as_int())
    if node.op_type == "Reshape":
        return array.reshape([int(size) for size in inputs[1]])
    if node.op_type in ("Squeeze", "Unsqueeze") and len(inputs) > 1:
        axes = tuple(int(axis) for axis in np.ravel(inputs[1]))
        change = np.squeeze if node.op_type == "Squeeze" else np.expand_dims
        return change(array, axes)
    return array if node.op_type == "Identity" else array.squeeze()


def _variables(mark: ir.Node) -> dict[str, ir.Value]:
    """Return the Python variables at a mark by name."""
    names = mark.attributes["names"].as_strings()
    values = zip(names, mark.inputs[1:], strict=False)
    return {name: value for name, value in values if value is not None}


def _origin(value: ir.Value | None) -> ir.Value | None:
    """Return what ``value`` is a view of."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Identity", "Squeeze", "Unsqueeze"):
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return value


def _label(value: ir.Value) -> str:
    """Describe a value in a message."""
    node = value.producer()
    return f"result of {node.op_type}" if node is not None else str(value.name)


def _index(node: ir.Node) -> int:
    """Return the position that a node reads; 0 for other nodes."""
    return node.attributes.get_int("index", 0)


def _is_like(one: ir.Node, other: ir.Node) -> bool:
    """Return True if two nodes compute the same from operands of their own."""
    return (
        (one.domain, one.op_type) == (other.domain, other.op_type)
        and len(one.inputs) == len(other.inputs)
        and len(one.outputs) == len(other.outputs)
        and _attributes(one) == _attributes(other)
    )


def _attributes(node: ir.Node) -> dict[str, Any]:
    """Return the attributes of a node in a form that can be compared."""
    left_out = ("call", "index") if node.domain else ()
    return {
        name: _comparable(attribute)
        for name, attribute in node.attributes.items()
        if name not in left_out
    }


def _comparable(attribute: ir.Attr) -> Any:
    """Return an attribute in a form that can be compared."""
    if attribute.type is ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return (array.dtype.str, array.shape, array.tobytes())
    return repr(attribute.value)
