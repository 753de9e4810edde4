"""A loop whose states pass through recurrent cells alone, as recurrent layers.

The values of all steps lie along a leading time axis. Cells become the recorded calls
of whole layers; other operators run once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..graph import Builder, axes_of, constant
from ..recurrent import STATES
from .all_steps import AllSteps, apply, for_all_steps
from .cells import is_cell
from .record import DOMAIN, OP
from .unrolled import Family, Number, Operand, Read, State

_H = STATES["h"]
_LENGTHS = 3
_FIRST_WEIGHT = 4


@dataclass(frozen=True)
class CellLoop:
    """A cell whose states pass through nothing but views."""

    outputs: dict[int, Family]
    """Families of its outputs, by index."""
    states: dict[int, State]
    """Its states, by index."""

    @property
    def node(self) -> ir.Node:
        """The cell of the step that stands for all."""
        return next(iter(self.outputs.values())).node


def plan_layers(
    families: Sequence[Family], results: Sequence[Family], lasts: Sequence[Family]
) -> "LayerPlan | None":
    """Return how a loop becomes recurrent layers; None if it stays a loop.

    Args:
        families: all values of a step.
        results: those whose values of all steps are read.
        lasts: those whose last value is read.
    """
    cells = _find_cells(families)
    if cells is None:
        return None
    plan = LayerPlan(cells)
    is_covered = all(map(plan.covers, results)) and all(map(plan.covers_last, lasts))
    return plan if is_covered else None


def _find_cells(families: Sequence[Family]) -> list[CellLoop] | None:
    """Return the cells that all states pass through; None if one passes through
    anything else.
    """
    by_node: dict[ir.Node, dict[int, Family]] = {}
    for family in families:
        if type(family) is Family and is_cell(family.node):
            index = family.value.index() or 0
            by_node.setdefault(family.node, {})[index] = family
    cells = [_cell_loop(node, outputs) for node, outputs in by_node.items()]
    found = [cell for cell in cells if cell is not None]
    carried = {state for cell in found for state in cell.states.values()}
    every = {family for family in families if isinstance(family, State)}
    is_complete = len(found) == len(cells) and carried == every
    return found if found and is_complete else None


def _cell_loop(node: ir.Node, outputs: dict[int, Family]) -> CellLoop | None:
    """Return a cell with its states, None if one passes through anything else."""
    states = {}
    operands = next(iter(outputs.values())).operands
    for index in STATES.values():
        if operands[index] is None:
            continue
        state = _behind_views(operands[index])
        if not isinstance(state, State) or not _returns(state, node, index):
            return None
        states[index] = state
    return CellLoop(outputs, states) if _is_plain(node) else None


def _is_plain(node: ir.Node) -> bool:
    """Return True if a cell runs forward for one step, with fixed weights."""
    x = node.inputs[0]
    steps = x.shape[0] if x is not None and x.shape is not None else None
    weights = node.inputs[_FIRST_WEIGHT:]
    return (
        steps == 1
        and node.attributes["directions"].as_int() == 1
        and node.inputs[_LENGTHS] is None
        and all(constant(weight) is not None for weight in weights)
    )


def _returns(state: State, node: ir.Node, index: int) -> bool:
    """Return True if the next value of a state is the cell's."""
    source = _behind_views(state.source)
    if type(source) is not Family or source.node is not node:
        return False
    output = source.value.index()
    is_single = node.attributes["layers"].as_int() == 1
    return output == index or (output == 0 and index == _H and is_single)


def _behind_views(operand: Operand) -> Operand:
    """Return what an operand is a view of, without or with a first axis of 1."""
    while type(operand) is Family and _is_view(operand.node):
        operand = operand.operands[0]
    return operand


def _is_view(node: ir.Node) -> bool:
    """Return True if the node keeps the elements of one step."""
    if node.op_type == "Identity":
        return True
    if node.op_type not in ("Squeeze", "Unsqueeze"):
        return False
    axes = constant(node.inputs[1])
    return axes is not None and [*np.ravel(axes)] == [0]


@dataclass
class LayerPlan:
    """How a loop becomes layers, and operators on all steps."""

    cells: Sequence[CellLoop]
    """Cells of the loop; each becomes a layer."""
    changes: dict[Family, AllSteps] = field(default_factory=dict)
    """The operators around the cells, and how each is applied to all steps."""
    _seen: dict[Family, bool] = field(default_factory=dict)
    """True for families that are covered, False while their operands are looked at."""

    def covers(self, family: Family) -> bool:
        """Return True if the values of all steps can be computed at once."""
        if family not in self._seen:
            self._seen[family] = False  # a cell may read what it gives in this step
            self._seen[family] = self._covers(family)
        return self._seen[family]

    def covers_last(self, family: Family) -> bool:
        """Return True if the value of the last step can be computed."""
        if type(family) is Family and is_cell(family.node) and family.value.index():
            return self._covers_input(family)
        inner = _viewed(family)
        return self.covers(family) if inner is None else self.covers_last(inner)

    def _covers(self, family: Family) -> bool:
        """Return True if the values of a family can be computed for all steps."""
        if isinstance(family, Read):
            return family.width <= 1
        if isinstance(family, Number):
            return True
        if isinstance(family, State):
            return False
        if is_cell(family.node):
            return _gives_steps(family) and self._covers_input(family)
        inner = [one for one in family.operands if isinstance(one, Family)]
        timed = [isinstance(operand, Family) for operand in family.operands]
        change = for_all_steps(family.node, timed)
        if change is None:
            return False
        self.changes[family] = change
        return all(map(self.covers, inner))

    def _covers_input(self, family: Family) -> bool:
        """Return True if a cell's input can be computed for all steps."""
        x = family.operands[0]
        return isinstance(x, Family) and self.covers(x)


def _viewed(family: Family) -> Family | None:
    """Return the family that ``family`` is a view of."""
    is_inner = type(family) is Family and _is_view(family.node)
    inner = family.operands[0] if is_inner else None
    return inner if isinstance(inner, Family) else None


def _gives_steps(cell: Family) -> bool:
    """Return True if a layer gives this output of its cell at every step."""
    index = cell.value.index()
    is_single = cell.node.attributes["layers"].as_int() == 1
    return index == 0 or (index == _H and is_single)


class TimedGraph:
    """Writes the families of a loop for all steps."""

    def __init__(
        self,
        build: Builder,
        plan: LayerPlan,
        *,
        read: Callable[[Read, int], ir.Value],
        number: Callable[[Number], ir.Value],
        steps: int | str,
    ) -> None:
        """Start to write.

        Args:
            build: adds nodes.
            plan: covers all that is written.
            read: gives all steps of what is read, at a number of steps behind.
            number: gives the numbers of all steps.
            steps: axis of the steps.
        """
        self._build = build
        self._plan = plan
        self._read = read
        self._number = number
        self._steps = steps
        self._values: dict[Family, ir.Value] = {}
        self._made: dict[ir.Node, Sequence[ir.Value]] = {}
        self.layers: dict[ir.Node, Sequence[ir.Value]] = {}
        """Outputs of the layer that each cell became."""

    def value(self, family: Family) -> ir.Value:
        """Return the values of all steps ``(L, ...)``."""
        if family not in self._values:
            self._values[family] = self._write(family)
        return self._values[family]

    def last(self, family: Family) -> ir.Value:
        """Return the value of the last step."""
        if type(family) is Family and is_cell(family.node):
            index = family.value.index() or 0
            if index:
                return self._layer(family)[index]
        inner = _viewed(family)
        if inner is not None:
            return self._view(family.node, self.last(inner))
        return self._build.value(
            "Gather", [self.value(family), np.array(-1)], {"axis": 0}
        )

    def _write(self, family: Family) -> ir.Value:
        """Compute the values of a family for all steps."""
        if isinstance(family, Read):
            return self._steps_read(family)
        if isinstance(family, Number):
            return self._number(family)
        if is_cell(family.node):
            return self._of_cell(family)
        index = family.value.index() or 0
        made = self._operator(family)[index]
        made.type = family.value.type
        made.shape = self._shape(family.value)
        return made

    def _operator(self, family: Family) -> Sequence[ir.Value]:
        """Return the results of an operator at all steps, added where it is new."""
        node = family.node
        if node not in self._made:
            timed = [isinstance(operand, Family) for operand in family.operands]
            operands = [
                self.value(operand) if isinstance(operand, Family) else operand
                for operand in family.operands
            ]
            change = self._plan.changes[family]
            self._made[node] = apply(
                self._build, node, change=change, operands=operands, timed=timed
            )
        return self._made[node]

    def _view(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """Return ``value`` with a first axis of 1, or without it, as ``node`` does."""
        return self._build.value(node.op_type, [value, *node.inputs[1:]])

    def _shape(self, value: ir.Value) -> ir.Shape | None:
        """Return the shape of a step's value with the time axis in front."""
        if value.shape is None:
            return None
        return ir.Shape([self._steps, *axes_of(value)])

    def _steps_read(self, read: Read) -> ir.Value:
        """Return the frames that all steps read."""
        if not read.width:
            return self._read(read, 0)
        values = self._read(read, 0)
        values = self._build.value("Unsqueeze", [values, np.array([read.axis + 1])])
        values.shape = self._shape(read.value)
        return values

    def _of_cell(self, family: Family) -> ir.Value:
        """Return what a cell gives at each step ``(L, layers, N, H)``."""
        y = self._layer(family)[0]
        values = self._build.value("Unsqueeze", [y, np.array([1])])
        values.shape = self._shape(family.value)
        return values

    def _layer(self, family: Family) -> Sequence[ir.Value]:
        """Return the outputs of the layer that a cell is, added where it is new."""
        node = family.node
        if node in self.layers:
            return self.layers[node]
        x = family.operands[0]
        assert isinstance(x, Family)
        values = self._without_row(x)
        starts = [self._start(family, index) for index in STATES.values()]
        inputs = [values, *starts, None, *node.inputs[_FIRST_WEIGHT:]]
        made = ir.node(
            OP,
            inputs,
            node.attributes,
            domain=DOMAIN,
            num_outputs=len(node.outputs),
            name=self._build.name(OP),
        )
        for value, old in zip(made.outputs, node.outputs, strict=True):
            value.name = self._build.name(f"{OP}_out")
            value.type = old.type
            value.shape = old.shape
        made.outputs[0].shape = ir.Shape(
            [self._steps, *(node.outputs[0].shape or ())[1:]]
        )
        self._build.insert(made)
        self.layers[node] = made.outputs
        return made.outputs

    def _without_row(self, x: Family) -> ir.Value:
        """Return the values ``(L, N, I)`` of a cell's input ``(1, N, I)``."""
        inner = _viewed(x)
        if inner is not None and x.node.op_type == "Unsqueeze":
            return self.value(inner)
        return self._build.value("Squeeze", [self.value(x), np.array([1])])

    def _start(self, family: Family, index: int) -> ir.Value | None:
        """Return the initial value ``(layers, N, H)`` of a cell's state."""
        operand = family.operands[index]
        if operand is None:
            return None
        views = []
        while type(operand) is Family:
            views.append(operand.node)
            operand = operand.operands[0]
        assert isinstance(operand, State)
        value = operand.first
        assert value is not None
        for view in reversed(views):
            value = self._view(view, value)
            value.shape = view.outputs[0].shape
        return value
