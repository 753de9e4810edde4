"""Lifting: a graph's hidden states become explicit inputs and outputs.

The one mechanism behind ``lift`` (any ONNX file) and the exporter (after translation from PyTorch).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Axes, StateSpec

from ..recurrent import is_reversed, label, recurrent_nodes, slots, state_shape
from ._axes import axes_of, axis_name, data_inputs, sizes_for, symbols
from ._groups import Group, group_places
from .evaluate import evaluate, is_data_free
from .paths import Path, operators_above, trace
from .state_names import Naming, default_naming
from .subgraphs import Place, locate, parents_of
from .wiring import Names, wire

__all__ = ["LeftAlone", "LiftedStates", "lift_states"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LeftAlone:
    """A state that was not lifted."""

    node: str
    """The node, as ``LSTM 'name'``."""
    state: str
    """``h`` or ``c``."""
    reason: str
    cause: str
    """``given`` (an input feeds it already), ``data`` (it is computed from data), ``reversed`` (the node
    reads time backwards) or ``subgraph`` (a loop around the node starts it anew)."""


@dataclass(frozen=True)
class LiftedStates:
    """A graph with its states lifted."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    left: tuple[LeftAlone, ...]
    rows: int
    """The batch size that an initial state held the graph at; 1 where none did."""


@dataclass(frozen=True)
class _State:
    """One state to be written into the graph."""

    group: Group
    dtype: ir.DataType
    axes: Axes
    reset: float | Array
    given: ir.Value | None = None
    """The input that the nodes start from already, None where one is to be made."""


def lift_states(
    model: ir.Model,
    *,
    batch: str | None = "N",
    reverse: bool = False,
    carry: Collection[str] = (),
    declared: int | None = None,
    naming: Naming = default_naming,
) -> LiftedStates:
    """Return a copy of ``model`` in which every state that is constant in all but the batch size is an input.

    A state is lifted at its root: nodes that read rows of one tensor share one state, whose output is their
    last states put together in the same order. Absent states, initializers and any chain of operators over
    constants and shapes count as constant; a batch size that such a chain had fixed is freed.

    Args:
        model: a graph without model-local functions around its recurrent nodes; left as it is.
        batch: the name of the batch axis; None where the graph has none and N is 1.
        reverse: lift nodes that read time backwards too. Their states can't be carried from chunk to chunk.
        carry: inputs that no output continues; where nodes start from one, it gets its output.
        declared: the size that the batch axis had before it was freed; states that can only be computed at
            it, as a constant of so many rows that is expanded, are computed at it.
        naming: names the states; called once with the groups in graph order.

    Returns:
        The copy, the states in graph order, and what was left alone and why.
    """
    model = model.clone()
    places, left = _sort_out(model, reverse, carry)
    held = {batch: declared} if batch is not None and declared is not None else {}
    states, failed, rows = _plan(model, places, batch, held)
    names = Names(model)
    written = []
    chosen = naming([state.group for state in states])
    for state, pair in zip(states, chosen, strict=True):
        written.append(_write(model.graph, state, pair, names))
    RemoveUnusedNodesPass()(model)
    _drop_unused_defaults(model.graph)
    model.graph.sort()
    return LiftedStates(model, tuple(written), (*left, *failed), rows)


def _sort_out(model: ir.Model, reverse: bool, carry: Collection[str]) -> tuple[list[Place], list[LeftAlone]]:
    """Tell the slots that can be lifted from those that can't."""
    parents, main_inputs = parents_of(model), set(data_inputs(model.graph))
    places, left = [], []
    loops: set[tuple[ir.Node, int]] = set()
    for node in recurrent_nodes(model):
        for slot in slots(node):
            place = locate(slot, parents)
            if isinstance(place, Place) and place.owner is not node:
                if (place.owner, place.input) in loops:
                    continue
                loops.add((place.owner, place.input))
            if is_reversed(node) and not reverse:
                reason = "it reads time backwards, so no chunk can follow another"
                left.append(LeftAlone(label(node), slot.kind, reason, "reversed"))
            elif isinstance(place, str):
                left.append(LeftAlone(label(node), slot.kind, place, "subgraph"))
            elif place.initial is None or is_data_free(place.initial):
                places.append(place)
            else:
                above = operators_above(place.initial)
                top = above[-1].inputs[0] if above else place.initial
                if top in main_inputs and top is not None and top.name in carry:
                    places.append(place)
                    continue
                cause = "given" if top in main_inputs else "data"
                reason = f"it comes from {'input' if cause == 'given' else 'data,'} {top and top.name!r}"
                left.append(LeftAlone(label(node), slot.kind, reason, cause))
    return places, left


def _plan(
    model: ir.Model, places: Sequence[Place], batch: str | None, held: dict[str, int]
) -> tuple[list[_State], list[LeftAlone], int]:
    """Group the places and find each state's dtype, axes and reset value, and the rows that held them."""
    small, large = _two_cases(model.graph)
    rows = 1
    at_small: dict[ir.Value, Array] = {}
    at_large: dict[ir.Value, Array] = {}
    computed, failed = [], []
    for place in places:
        try:
            found, alone = _compute(model, _operands(place), (small, large), held)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            failed.append(_failed(place, f"it can't be computed: {first_line(error)}"))
            continue
        computed.append(place)
        rows = max(rows, alone)
        at_small |= found[0]
        at_large |= found[1]
    paths = {place: _path(place, at_small) for place in computed}
    states = []
    for group in group_places(computed, paths, at_small):
        state = _describe(model, group, batch, (small, large), (at_small, at_large))
        if isinstance(state, str):
            failed += [_failed(place, state) for place in group.places]
        else:
            states.append(state)
    return states, failed, rows


def _compute(
    model: ir.Model,
    values: Sequence[ir.Value],
    cases: tuple[dict[str, int], dict[str, int]],
    held: dict[str, int],
) -> tuple[list[dict[ir.Value, Array]], int]:
    """Evaluate ``values``, at the batch size of ``held`` where others do not do; gives that size too."""
    try:
        return evaluate(model, values, cases), 1
    except Exception:
        if not held:
            raise
        return evaluate(model, values, [case | held for case in cases]), max(held.values())


def _operands(place: Place) -> list[ir.Value]:
    """Return the place's initial value, and what the layout operators above it read."""
    if place.initial is None:
        return []
    above = [] if place.branches else operators_above(place.initial)
    return [place.initial, *(value for node in above for value in node.inputs if value is not None)]


def _failed(place: Place, reason: str) -> LeftAlone:
    return LeftAlone(label(place.slot.node), place.slot.kind, reason, "data")


def _path(place: Place, arrays: Mapping[ir.Value, Array]) -> Path | None:
    if place.initial is None or place.branches:
        return None
    _, _, batch_axis = state_shape(place.slot.node)
    return trace(place.initial, batch_axis, place.slot.node, arrays)


def _two_cases(graph: ir.Graph) -> tuple[dict[str, int], dict[str, int]]:
    """Return two sets of sizes in which no two numbers are the same."""
    return sizes_for(graph, 2), sizes_for(graph, 2 + len(symbols(graph)))


def _describe(
    model: ir.Model,
    group: Group,
    batch: str | None,
    cases: tuple[dict[str, int], dict[str, int]],
    arrays: tuple[dict[ir.Value, Array], dict[ir.Value, Array]],
) -> _State | str:
    """Find a group's dtype, axes and reset value, or say why it has none."""
    place, path = group.places[0], group.paths[0]
    node = place.slot.node
    directions, hidden, axis = state_shape(node)
    root = path.whole if path else place.initial
    axis = path.batch_axis if path else axis
    if root is not None and not is_data_free(root):
        if root.producer() is not None or root.dtype is None:
            return f"it is computed from an input, {root.name!r}, and can't be continued by one output"
        return _State(group, root.dtype, axes_of(root), 0.0, root)
    rows = _batch_rows(model, node, cases) if root is None else None
    if root is None:
        shape: list[int | str] = [directions, hidden]
        shape.insert(axis, 1)
        reset: float | Array = 0.0
        dtype = next(
            (value.dtype for value in (node.inputs[2], node.inputs[0]) if value and value.dtype), None
        )
        dtype = dtype or ir.DataType.FLOAT
    else:
        small, large = arrays[0][root], arrays[1][root]
        first, again = small.take([0], axis), large.take([0], axis)
        steady = first.shape == again.shape and np.array_equal(first, again)
        if not steady or (small != first).any() or (large != first).any():
            return "its value is not the same for every batch member and sequence length"
        shape, dtype = list(first.shape), ir.DataType.from_numpy(small.dtype)
        reset = float(first.flat[0]) if (first == first.flat[0]).all() else first
        if small.shape[axis] != large.shape[axis]:
            rows = (small.shape[axis], large.shape[axis])
        else:
            rows = _batch_rows(model, node, cases)
    name = (batch or 1) if rows is None else axis_name(rows, cases)
    if name is None:
        return f"its batch axis has {rows[0] if rows else 0} rows, no multiple of an input's axis"
    shape[axis] = name
    return _State(group, dtype, tuple(shape), reset)


def _batch_rows(
    model: ir.Model, node: ir.Node, cases: tuple[dict[str, int], dict[str, int]]
) -> tuple[int, int] | None:
    """Return the batch sizes that the node's X has in both cases, None where it can't be told."""
    x = node.inputs[0]
    _, _, axis = state_shape(node)
    if x is None:
        return None
    declared = axes_of(x)[axis] if x.shape is not None and len(x.shape) == 3 else None
    if isinstance(declared, str) and declared in cases[0]:
        return cases[0][declared], cases[1][declared]
    try:
        small, large = evaluate(model, [x], cases)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class; the graph may need its sizes
        return None
    return small[x].shape[axis], large[x].shape[axis]


def _write(graph: ir.Graph, state: _State, chosen: tuple[str, str], names: Names) -> StateSpec:
    value = state.given
    if value is None:
        value = ir.val(names.unique(chosen[0]), state.dtype, state.axes)
        graph.inputs.append(value)
    last = wire(graph, state.group, value, names)
    last.dtype, last.shape = state.dtype, ir.Shape(state.axes)
    if not last.is_graph_output():
        last.name = names.unique(chosen[1])
        graph.outputs.append(last)
    return StateSpec(str(value.name), str(last.name), state.dtype.numpy().name, state.axes, state.reset)


def _drop_unused_defaults(graph: ir.Graph) -> None:
    """Take out inputs that only gave an initial state a default value."""
    for value in [value for value in graph.inputs if value.is_initializer() and not value.uses()]:
        graph.inputs.remove(value)
        graph.initializers.pop(str(value.name))
