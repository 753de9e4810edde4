"""Operators of a loop's step, for all steps at once.

The values of all steps lie along a leading time axis. Operators that no state passes
through run once; recurrent cells become the recorded calls of whole layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..graph import Builder, axes_of, constant
from .cells import is_cell
from .record import DOMAIN, OP
from .unrolled import Family, Number, Operand, Read, State

ELEMENTWISE = frozenset(
    """Abs Add Cast Ceil Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Min
    Mish Mul Neg Not Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign
    Sqrt Sub Sum Tanh Where""".split()  # noqa: SIM905
)
_ALONG_ONE_AXIS = frozenset(("Concat", "LogSoftmax", "Softmax", "Split"))
"""Operators with an attribute ``axis``."""
_H = 1
_C = 2
"""Index of a cell's states among its inputs, and among its outputs."""
_LENGTHS = 3
_FIRST_WEIGHT = 4


class NotTimedError(Exception):
    """A step can't be written for all steps at once."""


@dataclass(frozen=True)
class CellLoop:
    """A cell whose states pass through nothing but views."""

    outputs: dict[int, Family]
    """Families of its outputs, by index."""
    states: dict[int, State]
    """Its states, by index."""


def find_cells(families: Sequence[Family]) -> list[CellLoop] | None:
    """Return the cells that all states pass through; None if one passes through
    anything else.
    """
    by_node: dict[ir.Node, dict[int, Family]] = {}
    for family in families:
        if type(family) is Family and is_cell(family.node):
            index = family.value.index() or 0
            by_node.setdefault(family.node, {})[index] = family
    cells = []
    for node, outputs in by_node.items():
        any_output = next(iter(outputs.values()))
        states = {}
        for index in (_H, _C):
            if (operand := any_output.operands[index]) is None:
                continue
            state = _behind_views(operand)
            if not isinstance(state, State) or not _returns(state, node, index):
                return None
            states[index] = state
        if not _is_plain(node):
            return None
        cells.append(CellLoop(outputs, states))
    found = {state for cell in cells for state in cell.states.values()}
    every = {family for family in families if isinstance(family, State)}
    return cells if cells and found == every else None


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


class TimedGraph:
    """Writes the families of a loop for all steps."""

    def __init__(
        self,
        build: Builder,
        cells: Sequence[CellLoop],
        *,
        read: Callable[[Read, int], ir.Value],
        number: Callable[[Number], ir.Value],
        steps: int | str,
    ) -> None:
        """Start to write.

        Args:
            build: adds nodes.
            cells: the cells of the loop.
            read: gives all steps of what is read, at a number of steps behind.
            number: gives the numbers of all steps.
            steps: axis of the steps.
        """
        self._build = build
        self._cells = {cell: family for family in cells for cell in _nodes_of(family)}
        self._read = read
        self._number = number
        self._steps = steps
        self._values: dict[Family, ir.Value] = {}
        self._open: set[Family] = set()
        self.layers: dict[ir.Node, Sequence[ir.Value]] = {}
        """Outputs of the layer that each cell became."""

    def value(self, family: Family) -> ir.Value:
        """Return the values of all steps ``(L, ...)``.

        Raises:
            NotTimedError: an operator is not covered.
        """
        if family not in self._values:
            if family in self._open:
                raise NotTimedError("a cell reads what it gives in the same step")
            self._open.add(family)
            self._values[family] = self._write(family)
        return self._values[family]

    def last(self, family: Family) -> ir.Value:
        """Return the value of the last step."""
        if type(family) is Family and is_cell(family.node):
            index = family.value.index() or 0
            if index:
                return self._layer(family)[index]
        if type(family) is Family and _is_view(family.node):
            inner = family.operands[0]
            if isinstance(inner, Family):
                inputs = [self.last(inner), *family.node.inputs[1:]]
                return self._add(family.node, inputs, {})
        (last,) = self._build.node(
            "Gather", [self.value(family), np.array(-1)], {"axis": 0}
        )
        return last

    def _write(self, family: Family) -> ir.Value:
        """Compute the values of a family for all steps."""
        if isinstance(family, Read):
            return self._steps_read(family)
        if isinstance(family, Number):
            return self._number(family)
        if isinstance(family, State):
            raise NotTimedError("a state is read in front of its cell")
        if is_cell(family.node):
            return self._of_cell(family)
        made = self._spread(family)
        made.type = family.value.type
        made.shape = self._shape(family.value)
        return made

    def _shape(self, value: ir.Value) -> ir.Shape | None:
        """Return the shape of a step's value with the time axis in front."""
        if value.shape is None:
            return None
        return ir.Shape([self._steps, *axes_of(value)])

    def _steps_read(self, read: Read) -> ir.Value:
        """Return the frames that all steps read."""
        if not read.width:
            return self._read(read, 0)
        if read.width > 1:
            raise NotTimedError("several steps are read at once")
        values = self._read(read, 0)
        (values,) = self._build.node("Unsqueeze", [values, np.array([read.axis + 1])])
        values.shape = self._shape(read.value)
        return values

    def _of_cell(self, family: Family) -> ir.Value:
        """Return what a cell gives at each step ``(L, layers, N, H)``."""
        index = family.value.index()
        layers = family.node.attributes["layers"].as_int()
        if index == _C or (index == _H and layers > 1):
            raise NotTimedError("the cell state is read at each step")
        y = self._layer(family)[0]
        (values,) = self._build.node("Unsqueeze", [y, np.array([1])])
        values.shape = self._shape(family.value)
        return values

    def _layer(self, family: Family) -> Sequence[ir.Value]:
        """Return the outputs of the layer that a cell is, added where it is new."""
        node = family.node
        if node in self.layers:
            return self.layers[node]
        x = family.operands[0]
        assert isinstance(x, Family)
        if _is_view(x.node) if type(x) is Family else False:
            inner = x.operands[0]
            assert isinstance(inner, Family)
            values = self.value(inner)
        else:
            (values,) = self._build.node("Squeeze", [self.value(x), np.array([1])])
        starts = [self._start(family, index) for index in (_H, _C)]
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
            value = self._add(view, [value, *view.inputs[1:]], {})
            value.shape = view.outputs[0].shape
        return value

    # Operators

    def _spread(self, family: Family) -> ir.Value:
        """Return the results of an operator at all steps."""
        node = family.node
        if node.op_type in ELEMENTWISE:
            rank = _rank(family.value)
            operands = [self._aligned(one, rank) for one in family.operands]
            return self._add(node, operands, {})
        if node.op_type == "Gemm":
            return self._gemm(family)
        first, *rest = family.operands
        if not isinstance(first, Family):
            raise NotTimedError(f"{node.op_type} of a constant")
        values = self.value(first)
        if node.op_type == "MatMul" and _is_matrix(rest[0]):
            return self._add(node, [values, rest[0]], {})
        if node.op_type in _ALONG_ONE_AXIS:
            return self._along_one_axis(family)
        if node.op_type == "LayerNormalization" and _all_values(rest):
            axis = _shifted(node.attributes.get_int("axis", -1))
            return self._add(node, [values, *rest], {"axis": axis})
        if node.op_type == "Transpose":
            perm = [axis + 1 for axis in node.attributes["perm"].as_ints()]
            return self._add(node, [values], {"perm": [0, *perm]})
        if node.op_type in ("Squeeze", "Unsqueeze") and _all_values(rest):
            axes = constant(rest[0])  # type: ignore[arg-type]
            if axes is not None:
                moved = np.array([_shifted(int(axis)) for axis in np.ravel(axes)])
                return self._add(node, [values, moved], {})
        raise NotTimedError(f"{node.op_type} is not covered")

    def _aligned(self, operand: Operand, rank: int) -> ir.Value | None:
        """Return an operand of an elementwise operator whose result has ``rank``
        axes at each step.
        """
        if not isinstance(operand, Family):
            return operand
        values = self.value(operand)
        missing = rank - _rank(operand.value)
        if not missing:
            return values
        axes = np.arange(1, 1 + missing)
        return self._build.node("Unsqueeze", [values, axes])[0]

    def _gemm(self, family: Family) -> ir.Value:
        """Write Gemm as a product and a sum, which take a time axis."""
        node = family.node
        x, weight, *bias = family.operands
        factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        is_plain = factors == [1.0, 1.0] and not node.attributes.get_int("transA", 0)
        if (
            not isinstance(x, Family)
            or not is_plain
            or not _all_values([weight, *bias])
        ):
            raise NotTimedError("Gemm of another form")
        assert isinstance(weight, ir.Value)
        if node.attributes.get_int("transB", 0):
            (weight,) = self._build.node("Transpose", [weight], {"perm": [1, 0]})
        (product,) = self._build.node("MatMul", [self.value(x), weight])
        for value in bias:
            assert isinstance(value, ir.Value)
            (product,) = self._build.node("Add", [product, value])
        return product

    def _along_one_axis(self, family: Family) -> ir.Value:
        """Add an operator that works along one axis, which moves by the time axis."""
        node = family.node
        operands = [
            self.value(operand) if isinstance(operand, Family) else operand
            for operand in family.operands
        ]
        is_joining = node.op_type == "Concat"
        if is_joining and not all(isinstance(x, Family) for x in family.operands):
            raise NotTimedError("Concat with a constant")
        default = 0 if is_joining or node.op_type == "Split" else -1
        axis = _shifted(node.attributes.get_int("axis", default))
        return self._add(node, operands, {"axis": axis}, family.value.index() or 0)

    def _add(
        self,
        node: ir.Node,
        operands: Sequence[Any],
        changed: dict[str, Any],
        index: int = 0,
    ) -> ir.Value:
        """Add a node like ``node``, with other attributes; return an output."""
        attributes = {
            name: attribute.value for name, attribute in node.attributes.items()
        }
        made = self._build.node(
            node.op_type,
            operands,
            attributes | changed,
            outputs=len(node.outputs),
        )
        return made[index]


def _nodes_of(cell: CellLoop) -> set[ir.Node]:
    """Return the nodes that compute a cell's outputs."""
    return {family.node for family in cell.outputs.values()}


def _rank(value: ir.Value) -> int:
    """Return the number of axes."""
    if value.shape is None:
        raise NotTimedError("the shape of a value is unknown")
    return len(value.shape)


def _shifted(axis: int) -> int:
    """Return an axis of a step's value in the values of all steps."""
    return axis if axis < 0 else axis + 1


def _is_matrix(operand: Operand) -> bool:
    """Return True for a value with two axes, such as a weight."""
    return (
        isinstance(operand, ir.Value)
        and operand.shape is not None
        and len(operand.shape) == 2
    )


def _all_values(operands: Sequence[Operand]) -> bool:
    """Return True if no operand changes from step to step."""
    return all(operand is None or isinstance(operand, ir.Value) for operand in operands)
