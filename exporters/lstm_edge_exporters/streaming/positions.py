"""Values that grow with time and depend on no data: step counters, tables of positions.

A call of the whole counts from 0; in a stream they go on from call to call. A state counts the frames since
the reset, in int64, for each row. What is computed from a counter is computed again from what it is in the
stream, for the frames of all rows one after another on the axis of time, and split where it meets the data.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ..graph import Builder, constant
from .facts import Growth, NotStreamableError, Shapes, name_node

_PER_FRAME = frozenset(
    """Abs Add And Cast Ceil Clip Concat Cos Div Equal Erf Exp Expand Floor Gather Gelu Gemm Greater
    GreaterOrEqual Identity LayerNormalization LeakyRelu Less LessOrEqual Log MatMul Max Min Mod Mul Neg Not
    Or Pow Reciprocal Relu Reshape Round Sigmoid Sin Softplus Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
    Xor""".split()  # noqa: SIM905
)
"""Operators that compute a frame from that frame of their operands, if no axis of theirs is that of time."""


class Positions:
    """What is computed from the frames since the reset, in front of one node."""

    def __init__(
        self,
        shapes: Shapes,
        growth: Callable[[ir.Value], Growth | None],
        build: Builder,
        positions: ir.Value,
    ) -> None:
        """Take what gives the ``growth`` of values, and ``positions (rows * frames,)``, int64."""
        self.end: int | None = None
        """Positions that the tables have, where there are any."""
        self._shapes, self._growth, self._build, self._positions = shapes, growth, build, positions
        self._made: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value) -> ir.Value:
        """Return ``value`` with the frames of all rows on its axis of time."""
        found = self._growth(value)
        if found is None:
            return value
        if value not in self._made:
            counted = self.count(value, self._positions)
            if counted is None:
                self._continue(value)
            else:
                shape = [1] * len(self._shapes.shape(value))
                shape[found.axis] = -1
                self._made[value] = self.spread(
                    value,
                    self._build.node("Reshape", [counted, self._build.constant(np.array(shape), "shape")])[0],
                )
        return self._made[value]

    def per_row(
        self, value: ir.Value, positions: ir.Value, time: int, rows: Sequence[int], rank: int
    ) -> ir.Value | None:
        """Return a value that counts in whole numbers, of ``rank`` axes with the frames of each row.

        Args:
            value: what counts; with another value None is returned.
            positions: ``(rows, frames)``.
            time: the axis of frames.
            rows: the axis of rows, if any; one behind that of frames, or the first.
            rank: the number of axes.
        """
        places = sorted((time, *rows))
        counted = self.count(value, positions) if places[0] == 0 or not rows else None
        if counted is None:
            return None
        build, wanted = self._build, [1] * rank
        if [*rows] > [time]:
            (counted,) = build.node("Transpose", [counted], {"perm": [1, 0]})
        for place in places:
            wanted[place] = 0 if rows and place == 0 else -1
        (counted,) = build.node("Reshape", [counted, build.constant(np.array(wanted), "shape")])
        return self.spread(value, counted)

    def count(self, value: ir.Value, positions: ir.Value) -> ir.Value | None:
        """Return the numbers at ``positions`` of a value that counts in whole ones; None if it does not."""
        counter = self._shapes.counters.get(value)
        if counter is None or counter.first is None:
            return None
        if not (counter.first.is_integer() and counter.more.is_integer()):
            return None
        build, made = self._build, positions
        for op, number, neutral in (("Mul", counter.more, 1), ("Add", counter.first, 0)):
            if number != neutral:
                (made,) = build.node(op, [made, build.constant(np.array(int(number)), "number")])
        if (dtype := self._shapes.dtypes[value]) != "int64":
            wanted = ir.DataType.from_numpy(np.dtype(dtype))
            (made,) = build.node("Cast", [made], {"to": wanted.value})
            made.dtype = wanted
        return made

    def spread(self, value: ir.Value, counted: ir.Value) -> ir.Value:
        """Return ``counted``, of 1 on all fixed axes of ``value``, of their sizes."""
        found = self._growth(value)
        assert found is not None
        sizes = np.array([1 if isinstance(each, str) else each for each in self._shapes.axes(value)])
        sizes[found.axis] = 1
        build = self._build
        return (
            build.node("Expand", [counted, build.constant(sizes, "sizes")])[0] if sizes.max() > 1 else counted
        )

    def _continue(self, value: ir.Value) -> None:
        """Compute the node that gives ``value`` again."""
        node = value.producer()
        if node is None or node.domain:
            raise NotStreamableError(f"{value.name} counts the steps of a call")
        if node.op_type == "Slice":
            self._made[value] = self._part(node)
            return
        if node.op_type not in _PER_FRAME:
            raise NotStreamableError(_restarts(node))
        if node.op_type == "Gather":
            self._note_table(node)
        operands = [None if each is None else self.of(each) for each in node.inputs]
        if node.op_type in ("Expand", "Reshape"):
            operands[1] = self._sizes(node)
        made = self._build.node(
            node.op_type, operands, dict(node.attributes), outputs=len(node.outputs), name="position"
        )
        for old, new in zip(node.outputs, made, strict=True):
            new.dtype = ir.DataType.from_numpy(np.dtype(self._shapes.dtypes[old]))
            self._made[old] = new

    def _part(self, node: ir.Node) -> ir.Value:
        """Return rows of a table of which a call of the whole takes the first ones."""
        table, starts = node.inputs[0], node.inputs[1]
        found = self._growth(node.outputs[0])
        start = self._shapes.number(starts, 0)
        steps = [1] if len(node.inputs) < 5 or node.inputs[4] is None else constant(node.inputs[4])
        rows = constant(table)
        assert found is not None
        single = self._shapes.shape(starts) == (1,) and steps is not None and list(steps) == [1]
        if rows is None or not single or start is None or start < 0:
            raise NotStreamableError(_restarts(node))
        self._ends(rows.shape[found.axis] - start)
        index = self._positions
        if start:
            (index,) = self._build.node("Add", [index, self._build.constant(np.array(start), "start")])
        return self._build.node("Gather", [table, index], {"axis": found.axis})[0]

    def _note_table(self, node: ir.Node) -> None:
        """Note how many positions the table of a Gather has."""
        table, index = node.inputs[0], node.inputs[1]
        if table is None or index is None or self._growth(index) is None:
            return
        axis = node.attributes.get_int("axis", 0) or 0
        size, counter = self._shapes.shape(table)[axis], self._shapes.counters.get(index)
        if self._growth(table) is not None:
            raise NotStreamableError(_restarts(node))
        if counter is not None and counter.first is not None and counter.more > 0:
            self._ends(int((size - 1 - counter.first) // counter.more) + 1)
        elif not self._is_bounded(index, size):
            raise NotStreamableError(_restarts(node))

    def _is_bounded(self, index: ir.Value, size: int) -> bool:
        """Return whether indices stay in a table at any position: ``positions % 24``, a limit."""
        node = index.producer()
        while node is not None and node.op_type in ("Cast", "Expand", "Identity", "Reshape", "Unsqueeze"):
            node = None if node.inputs[0] is None else node.inputs[0].producer()
        if node is None or node.op_type not in ("Clip", "Min", "Mod"):
            return False
        limit = constant(node.inputs[2 if node.op_type == "Clip" else 1]) if len(node.inputs) > 1 else None
        return limit is not None and int(limit.max()) < size + (node.op_type == "Mod")

    def _ends(self, positions: int) -> None:
        self.end = positions if self.end is None else min(self.end, positions)

    def _sizes(self, node: ir.Node) -> ir.Value:
        """Return what an Expand or a Reshape of one row makes of the frames of all."""
        result = node.outputs[0]
        found, axes = self._growth(result), self._shapes.axes(result)
        assert found is not None
        sizes = [1 if isinstance(each, str) else each for each in axes]
        sizes[found.axis] = -1 if node.op_type == "Reshape" else 1
        return self._build.constant(np.array(sizes), "shape")


def split_rows(
    build: Builder, value: ir.Value, sizes: Sequence[int], time: int, rows: int, frames: ir.Value
) -> ir.Value:
    """Return ``value`` with the frames of all rows, on axis ``time``, as a row each, on axis ``rows``.

    Args:
        build: adds the nodes.
        value: what is split.
        sizes: of the axes of the result, those two aside.
        time: the axis of frames.
        rows: the axis of rows.
        frames: their number, int64 ``(1,)``.
    """
    kept = [place for place in range(len(sizes)) if place not in (time, rows)]
    before = [place for place in kept if place < time]
    after = [place for place in kept if place > time]
    parts = [
        build.constant(np.array([*(sizes[place] for place in before), -1]), "rows"),
        frames,
        *([build.constant(np.array([sizes[place] for place in after]), "sizes")] if after else []),
    ]
    (made,) = build.node("Reshape", [value, build.concat(parts, 0)])
    order = [*before, rows, time, *after]
    if order != sorted(order):
        (made,) = build.node(
            "Transpose", [made], {"perm": [order.index(place) for place in range(len(order))]}
        )
    return made


def _restarts(node: ir.Node) -> str:
    return f"positions that restart with every call, {name_node(node)}"
