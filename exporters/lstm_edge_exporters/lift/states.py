"""States become inputs and outputs: those of every recurrence over time, one input and
one output each.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.axes import row_factor
from lstm_edge_runtime.errors import ContractError
from lstm_edge_runtime.manifest import Array, StateSpec

from ..graph import (
    UniqueNames,
    axes_of,
    behind_identity,
    is_data_free,
    operands,
    spec_of,
    walk,
)
from ..recurrent import Slot, is_recurrent, label, state_shape
from .axes import NamedAxes
from .recurrences import Recurrence

_GENERIC = re.compile(
    r"(LSTM|GRU|RNN|Loop|Scan|PartitionedCall|while_loop|node)(_+\d+)?"
)
"""Words of a node's name that do not tell which layer it is."""


@dataclass(frozen=True)
class _Initial:
    """The initial state of a recurrence."""

    value: ir.Value
    """Its input; without a name if the graph does not have it."""
    reset: float | Array
    """Its value at the start of a stream."""


def lift_states(
    model: ir.Model,
    layers: Sequence[Recurrence],
    axes: NamedAxes,
    recognized: Sequence[StateSpec],
) -> list[StateSpec]:
    """Make the states of ``layers`` inputs and outputs, except the ``recognized`` ones.

    A state that data gives stays as it is: chunks decide.

    Raises:
        ContractError: no state can be carried; the message names the first.
    """
    entering = {state.input for state in recognized}
    specs = []
    names = UniqueNames(model.graph)
    reason = ""
    slots = [slot for layer in layers for slot in layer.slots]
    for slot in slots:
        try:
            initial = _initial_state(slot, axes, entering)
        except ContractError as error:
            state = f"{slot.letter} of {label(slot.node)}"
            reason = reason or f"{state} can't be carried: {error}"
            continue
        if initial is not None:
            title = "" if len(layers) == 1 else f"{_layer_name(slot.node)}_"
            specs.append(
                _write(model.graph, slot, initial=initial, title=title, names=names)
            )
    if reason and not specs and not recognized:
        raise ContractError(reason)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()
    return specs


def _initial_state(
    slot: Slot, axes: NamedAxes, entering: Collection[str]
) -> _Initial | None:
    """Return the initial value of a state; None if it is an input and an output
    already.
    """
    initial = slot.initial
    if initial is None:
        return _Initial(_zeros(slot.node, axes), 0.0)
    if is_data_free(initial):
        return _constant(slot, initial, axes)
    above = walk([initial], operands)
    sources = {str(value.name) for value in above if value.is_graph_input()}
    if not sources.isdisjoint(entering):
        return None
    source = behind_identity(initial)
    is_unshared_input = source.is_graph_input() and len(source.uses()) == 1
    if is_unshared_input and source.dtype is not None:
        return _Initial(source, 0.0)
    names = ", ".join(sorted(sources)) or "random numbers"
    raise ContractError(f"it is computed from {names}, and no output continues it")


def _zeros(node: ir.Node, axes: NamedAxes) -> ir.Value:
    """Return an input for a state that a recurrent node does not have."""
    directions, hidden = state_shape(node)
    dtype = ir.DataType.FLOAT
    for value in (node.inputs[0], node.inputs[2]):
        if value is not None and value.dtype and value.dtype.is_floating_point():
            dtype = value.dtype
    return ir.val(None, dtype, (directions, _rows(node, axes), hidden))


def _constant(slot: Slot, initial: ir.Value, axes: NamedAxes) -> _Initial:
    """Return a state whose initial value depends on sizes alone."""
    arrays = axes.measured.arrays(initial)
    if not arrays:
        raise ContractError(
            "its initial value can't be computed at any size that was tried"
        )
    batch_axis = _batch_axis(slot, initial, rank=arrays[0].ndim, axes=axes)
    rows = arrays
    if batch_axis is not None:
        rows = [array.take([0], batch_axis) for array in arrays]
    reset = rows[0]
    for array, row in zip(arrays, rows, strict=True):
        if row.shape != reset.shape or (array != reset).any():
            raise ContractError(
                "its initial value is not the same for every row and sequence length"
            )
    shape: list[int | str] = [*arrays[0].shape]
    if batch_axis is not None and is_recurrent(slot.node):
        shape[batch_axis] = _rows(slot.node, axes)
    elif batch_axis is not None:
        name = axes.measured.name((initial, batch_axis))
        shape[batch_axis] = name or axes.batch or 1
    value = ir.val(None, ir.DataType.from_numpy(arrays[0].dtype), shape)
    is_uniform = reset.size > 0 and bool((reset == reset.flat[0]).all())
    return _Initial(value, float(reset.flat[0]) if is_uniform else reset)


def _batch_axis(
    slot: Slot, initial: ir.Value, rank: int, axes: NamedAxes
) -> int | None:
    """Return the axis of the rows; of a loop's state any may be it, or none."""
    if is_recurrent(slot.node):
        return 1
    for axis in range(rank):
        name = axes.measured.name((initial, axis))
        if name is not None and row_factor(name, axes.batch) is not None:
            return axis
    return None


def _rows(node: ir.Node, axes: NamedAxes) -> int | str:
    """Return the rows of a recurrent node's X: a number, ``N``, or ``6*N`` if other
    axes are folded in.
    """
    x = node.inputs[0]
    assert x is not None
    name = axes.measured.name((x, 1))
    if name is None and axes.measured.lengths((x, 1)):
        raise ContractError(
            "its node reads a number of rows that is not a multiple of an input's axis"
        )
    return name or axes.batch or 1


def _write(
    graph: ir.Graph, slot: Slot, initial: _Initial, title: str, names: UniqueNames
) -> StateSpec:
    """Add the input and the output of a state."""
    node = slot.node
    value = initial.value
    if not value.name:
        value.name = names.unique(f"{title}{slot.letter}_0")
        graph.inputs.append(value)
        node.resize_inputs(max(len(node.inputs), slot.input + 1))
        node.replace_input_with(slot.input, value)
    node.resize_outputs(max(len(node.outputs), slot.output + 1))
    for output in node.outputs:
        output.name = output.name or ""
    last = node.outputs[slot.output]
    last.type = value.type
    last.shape = ir.Shape(axes_of(value))
    if not last.is_graph_output():
        last.name = names.unique(f"{title}{slot.letter}_n")
        graph.outputs.append(last)
    spec = spec_of(value)
    return StateSpec(
        input=spec.name,
        output=str(last.name),
        dtype=spec.dtype,
        axes=spec.axes,
        reset=initial.reset,
    )


def _layer_name(node: ir.Node) -> str:
    """Return the name of a node's layer: ``lstm`` for ``/encoder/lstm/LSTM``."""
    for word in reversed(re.findall(r"\w+", node.name or "")):
        if not _GENERIC.fullmatch(word):
            return str(word)
    return str(node.op_type.lower())
