"""The way from a recurrent node's initial state back to the value that it is a part of.

PyTorch makes one zeros ``(layers*D, N, H)`` and hands each layer its rows; a file that carries that tensor
has one state, not one a layer. A path is the chain of layout operators between the whole tensor and a
node, each of which can be undone, so that the last states can be put together the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ._projection import undoing

__all__ = ["Path", "Step", "operators_above", "trace"]

Array = npt.NDArray[Any]

_OPERATORS = ("Gather", "Identity", "MatMul", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Step:
    """One operator on the path, read from the node's side towards the whole tensor."""

    node: ir.Node
    output: int
    """Which of the operator's outputs is on the path."""
    undo: tuple[str, Any]
    """How to undo it: an operator and its argument."""
    span: tuple[int, int, int] | None = None
    """``(axis, start, stop)`` of the rows that it selects, None where it takes all."""


@dataclass(frozen=True)
class Path:
    """How one slot's state sits in a larger tensor."""

    whole: ir.Value
    """The larger tensor."""
    batch_axis: int
    """The batch axis of ``whole``."""
    steps: tuple[Step, ...]
    """From the slot up to ``whole``."""

    @property
    def span(self) -> tuple[int, int, int] | None:
        """``(axis, start, stop)`` of the slot's rows in ``whole``, None where it is all of it."""
        return next((step.span for step in self.steps if step.span), None)


def operators_above(value: ir.Value) -> list[ir.Node]:
    """Return the chain of layout operators that produce ``value``, nearest first."""
    found = []
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in _OPERATORS:
        found.append(node)
        above = node.inputs[0]
        node = None if above is None else above.producer()
    return found


def trace(
    slot: ir.Value, batch_axis: int, recurrent: ir.Node, arrays: Mapping[ir.Value, Array]
) -> Path | None:
    """Follow ``slot`` up to the operand of the topmost operator that selects or projects.

    Args:
        slot: the initial state that ``recurrent`` reads.
        batch_axis: its batch axis.
        recurrent: the node.
        arrays: a value for each operand of ``operators_above(slot)``.

    Returns:
        The path, or None where there is nothing to follow: the slot is the whole state.
    """
    steps: list[Step] = []
    best: Path | None = None
    value = slot
    selected = False
    for node in operators_above(slot):
        above = node.inputs[0]
        if above is None or value.index() is None:
            break
        step, next_axis = _read(node, value.index() or 0, batch_axis, recurrent, arrays)
        if step is None or (step.span and selected):
            break
        steps.append(step)
        selected |= step.span is not None
        value, batch_axis = above, next_axis
        if step.span or node.op_type == "MatMul":
            best = Path(value, batch_axis, tuple(steps))
    return best


def _read(
    node: ir.Node, output: int, batch: int, recurrent: ir.Node, arrays: Mapping[ir.Value, Array]
) -> tuple[Step | None, int]:
    """Read one operator: the step, and the batch axis above it."""
    above = node.inputs[0]
    if above is None:
        return None, batch
    shape = arrays[above].shape
    rank = len(shape)
    match node.op_type:
        case "Identity":
            return Step(node, output, ("Identity", None)), batch
        case "Transpose":
            order = list(node.attributes.get_ints("perm", ()) or range(rank)[::-1])
            return Step(node, output, ("Transpose", [order.index(axis) for axis in range(rank)])), order[
                batch
            ]
        case "Squeeze":
            axes = [axis % rank for axis in _numbers(node, 1, "axes", arrays)]
            axes = axes or [axis for axis, size in enumerate(shape) if size == 1]
            kept = [axis for axis in range(rank) if axis not in axes]
            return Step(node, output, ("Unsqueeze", sorted(axes))), kept[batch]
        case "Unsqueeze":
            added = _numbers(node, 1, "axes", arrays)
            axes = [axis % (rank + len(added)) for axis in added]
            if batch in axes:
                return None, batch
            return Step(node, output, ("Squeeze", sorted(axes))), batch - sum(axis < batch for axis in axes)
        case "MatMul":
            weight = node.inputs[1]
            back = None if weight is None or batch == rank - 1 else undoing(weight, recurrent, arrays)
            return (None if back is None else Step(node, output, ("MatMul", back))), batch
        case _:
            return _select(node, output, batch, shape, arrays)


def _select(
    node: ir.Node, output: int, batch: int, shape: Sequence[int], arrays: Mapping[ir.Value, Array]
) -> tuple[Step | None, int]:
    """Read an operator that selects rows along one axis."""
    rank = len(shape)
    axis = start = stop = 0
    undo: tuple[str, Any] = ("Identity", None)
    if node.op_type == "Slice":
        starts, stops, axes, steps = (
            _numbers(node, place, name, arrays)
            for place, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
        )
        if len(starts) != 1 or set(steps or [1]) != {1}:
            return None, batch
        axis = (axes or [0])[0] % rank
        start, stop, _ = slice(starts[0], stops[0]).indices(shape[axis])
    elif node.op_type == "Split":
        axis = (node.attributes.get_int("axis", 0) or 0) % rank
        count = len(node.outputs)
        even = -(-shape[axis] // count)
        parts = _numbers(node, 1, "split", arrays) or [even] * (count - 1) + [
            shape[axis] - even * (count - 1)
        ]
        start = sum(parts[:output])
        stop = start + parts[output]
    else:
        axis = (node.attributes.get_int("axis", 0) or 0) % rank
        picked = arrays[node.inputs[1]] if node.inputs[1] is not None else np.zeros(0)
        rows = [int(row) % shape[axis] for row in picked.ravel()]
        if picked.ndim > 1 or not rows or rows != list(range(rows[0], rows[0] + len(rows))):
            return None, batch
        start, stop = rows[0], rows[-1] + 1
        if picked.ndim == 0:
            undo = ("Unsqueeze", [axis])
            batch += axis <= batch
    if axis == batch:
        return None, batch
    return Step(node, output, undo, (axis, start, stop)), batch


def _numbers(node: ir.Node, place: int, name: str, arrays: Mapping[ir.Value, Array]) -> list[int]:
    """Return an argument that newer opsets take as an input and older ones as an attribute."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = node.inputs[place] if len(node.inputs) > place else None
    return [] if value is None else [int(number) for number in arrays[value].ravel()]
