"""Lifting: a graph's hidden states become explicit inputs and outputs.

The one mechanism behind ``lift`` (any ONNX file) and the exporter (after translation from PyTorch).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Array, Axes, StateSpec

from ..graph import UniqueNames, axes_of, data_inputs
from ..recurrent import is_recurrent, is_reversed, label, recurrent_nodes, slots, state_shape
from .axis_roles import follows_input, row_orders
from .evaluate import evaluate, inputs_above, is_data_free, name_axis, two_sizes
from .paths import Path, StateGroup, find_path, is_order, operators_above, wire
from .state_names import Naming, name_after_nodes
from .subgraphs import Place, locate, loop_slots, parents_of, recurrences, sequences

__all__ = ["LeftAlone", "LiftedStates", "lift_states"]

_SORTS_UPWARDS = 11
"""The opset from which TopK can be asked for the smallest."""


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
    reads time backwards) or ``subgraph`` (a loop around the node starts it again)."""
    sources: frozenset[str] = frozenset()
    """The inputs that it depends on, where ``given`` or ``data``."""


@dataclass(frozen=True)
class LiftedStates:
    """A graph with its states lifted."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    left: tuple[LeftAlone, ...]
    fixed_batch: int | None
    """Batch size at which alone an initial state could be computed, or None."""


@dataclass(frozen=True)
class _State:
    """One state to be written into the graph."""

    group: StateGroup
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
    loops: bool = False,
    sequence: str | None = None,
    naming: Naming = name_after_nodes,
) -> LiftedStates:
    """Return a copy of ``model`` in which every state that is constant in all but the batch size is an input.

    A state is lifted at its root: nodes that read rows of one tensor share one state, whose output is their
    last states put together in the same order. Absent states, initializers and any chain of operators over
    constants and shapes count as constant; a batch size that such a chain had fixed becomes dynamic.

    Args:
        model: a graph without model-local functions around its recurrent nodes; left as it is.
        batch: the name of the batch axis; None where the graph has none and N is 1.
        reverse: lift nodes that read time backwards too. Their states can't be carried from chunk to chunk.
        carry: inputs that no output continues; where nodes start from one, it gets its output.
        declared: the size that the batch axis had before it was made dynamic; states that can only be
            computed at it, as a constant of so many rows that is expanded, are computed at it.
        loops: lift what a ``Loop`` or ``Scan`` carries too, where it is floating point, and leave alone what
            runs over another axis than time.
        sequence: the name of the time axis, None where it has a fixed size; only needed with ``loops``.
        naming: names the states; called once with the groups in graph order.

    Returns:
        The copy, the states in graph order, and what was left alone and why.
    """
    model = model.clone()
    nodes = list(recurrent_nodes(model))
    if loops:
        nodes += [node for node in recurrences(model) if not is_recurrent(node)]
        nodes = _over_time(model, nodes, batch, sequence)
    places, left = _partition(model, nodes, reverse, carry)
    pinned = {batch: declared} if batch is not None and declared is not None else {}
    states, failed, fixed_batch = _plan(model, places, batch, pinned)
    names = UniqueNames(model.graph)
    written = []
    chosen = naming([state.group for state in states])
    for state, pair in zip(states, chosen, strict=True):
        written.append(_write(model.graph, state, pair, names))
    RemoveUnusedNodesPass()(model)
    _drop_unused_defaults(model.graph)
    model.graph.sort()
    return LiftedStates(model, tuple(written), (*left, *failed), fixed_batch)


def _over_time(
    model: ir.Model, nodes: Sequence[ir.Node], batch: str | None, sequence: str | None
) -> list[ir.Node]:
    """Return the nodes whose steps are time: where running them does not tell otherwise, they are.

    They are not where their number is the same for every length of the sequence, as in a layer that runs over
    frequencies; nor in a loop over the rows of a batch. Where the length is fixed, a layer that reads
    backwards what is no axis of an input is taken for such a layer.
    """
    read = {node: list(sequences(node)) for node in nodes}
    nodes = [node for node in nodes if read[node]]
    if sequence is None:
        return [
            node
            for node in nodes
            if not is_reversed(node) or any(follows_input(each, model.graph) for each in read[node])
        ]
    cases = two_sizes(model.graph)

    def grows(node: ir.Node, small: Mapping[ir.Value, Array], large: Mapping[ir.Value, Array]) -> bool:
        steps = [tuple(run[each.value].shape[each.time] for run in (small, large)) for each in read[node]]
        return any(
            short != long and (is_recurrent(node) or name_axis((short, long), cases) != batch)
            for short, long in steps
        )

    try:
        found = evaluate(model, [each.value for node in nodes for each in read[node]], cases)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        if len(nodes) > 1:
            return [node for each in nodes for node in _over_time(model, [each], batch, sequence)]
        return nodes  # the chunks decide
    return [node for node in nodes if grows(node, *found)]


def _partition(
    model: ir.Model, nodes: Iterable[ir.Node], reverse: bool, carry: Collection[str]
) -> tuple[list[Place], list[LeftAlone]]:
    """Partition the states of ``nodes`` into those that can be lifted and those that can't."""
    parents, main_inputs = parents_of(model), set(data_inputs(model.graph))
    places, left = [], []
    known: set[tuple[ir.Node, int]] = set()
    for node in nodes:
        for slot in slots(node) if is_recurrent(node) else loop_slots(node):
            place = locate(slot, parents)
            if isinstance(place, Place):
                if (place.owner, place.input) in known:
                    continue
                known.add((place.owner, place.input))
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
                source = str(top.name) if top is not None and top in main_inputs else ""
                if source in carry or (top is not None and is_data_free(top)):
                    places.append(place)  # what lies between may put rows in another order
                elif source:
                    reason = f"it comes from input {source!r}"
                    left.append(LeftAlone(label(node), slot.kind, reason, "given", frozenset({source})))
                else:
                    reason = f"it comes from data, {top and top.name!r}"
                    sources = inputs_above(place.initial)
                    left.append(LeftAlone(label(node), slot.kind, reason, "data", sources))
    return places, left


def _plan(
    model: ir.Model, places: Sequence[Place], batch: str | None, pinned: dict[str, int]
) -> tuple[list[_State], list[LeftAlone], int | None]:
    """Group the places; find each state's dtype, axes and reset value, and the batch size that fixed them."""
    small, large = two_sizes(model.graph)
    fixed_batch = None
    at_small: dict[ir.Value, Array] = {}
    at_large: dict[ir.Value, Array] = {}
    computed, failed = [], []
    for place in places:
        try:
            found, batch_size = _compute(model, [*_operands(place), *_last(place)], (small, large), pinned)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            failed.append(_failed(place, f"it can't be computed: {first_line(error)}"))
            continue
        computed.append(place)
        fixed_batch = batch_size or fixed_batch
        at_small |= found[0]
        at_large |= found[1]
    cases = (small | pinned, large | pinned) if fixed_batch else (small, large)
    axes = {place: _batch_axis(place, batch, cases, (at_small, at_large)) for place in computed}
    paths = {place: _path(place, axes[place], at_small) for place in computed}
    states = []
    orders = {place: _row_orders(model, place, paths[place], small) for place in computed}
    for group in _group_places(computed, paths, orders, at_small):
        axis = axes[group.places[0]]
        state = _describe(model, group, batch, axis, (small, large), (at_small, at_large))
        if isinstance(state, str):
            failed += [_failed(place, state) for place in group.places]
        else:
            states.append(state)
    return states, failed, fixed_batch


def _compute(
    model: ir.Model,
    values: Sequence[ir.Value],
    cases: tuple[dict[str, int], dict[str, int]],
    pinned: dict[str, int],
) -> tuple[list[dict[ir.Value, Array]], int | None]:
    """Evaluate ``values``, at the ``pinned`` batch size where others do not do; return that size too."""
    try:
        return evaluate(model, values, cases), None
    except Exception:
        if not pinned:
            raise
        return evaluate(model, values, [case | pinned for case in cases]), max(pinned.values())


def _operands(place: Place) -> list[ir.Value]:
    """Return the place's initial value, and what the layout operators above it read."""
    if place.initial is None:
        return []
    above = [] if place.branches else operators_above(place.initial)
    return [place.initial, *(value for node in above for value in node.inputs if value is not None)]


def _failed(place: Place, reason: str) -> LeftAlone:
    return LeftAlone(label(place.slot.node), place.slot.kind, reason, "data")


def _last(place: Place) -> list[ir.Value]:
    """Return the value that a loop leaves a state of its own as; its shape must be the initial one."""
    return [] if is_recurrent(place.slot.node) else [place.owner.outputs[place.output]]


def _batch_axis(
    place: Place,
    batch: str | None,
    cases: tuple[dict[str, int], dict[str, int]],
    arrays: tuple[dict[ir.Value, Array], dict[ir.Value, Array]],
) -> int | None:
    """Return the batch axis of a state; None where a loop carries one that does not grow with the batch."""
    if is_recurrent(place.slot.node):
        return state_shape(place.slot.node)[2]
    if place.initial is None or place.initial not in arrays[0]:
        return None
    pairs = zip(*(found[place.initial].shape for found in arrays), strict=True)
    names = [name_axis(rows, cases) for rows in pairs]
    return next((axis for axis, name in enumerate(names) if str(name).split("*")[-1] == batch), None)


def _path(place: Place, batch_axis: int | None, arrays: Mapping[ir.Value, Array]) -> Path | None:
    if place.initial is None or place.branches or batch_axis is None:
        return None
    return find_path(place.initial, batch_axis, place.slot.node, arrays)


def _row_orders(
    model: ir.Model, place: Place, path: Path | None, sizes: Mapping[str, int]
) -> tuple[ir.Value, ...]:
    """Return the indices that the rows of the place's node are put in order by, where its state is not yet.

    Rows that are picked or repeated are in no order of that kind, and no state follows them.
    """
    node = place.slot.node
    reordered = path is not None and any(step.undo[0] == "Reorder" for step in path.steps)
    if reordered or place.owner is not node or not is_recurrent(node) or node.graph is not model.graph:
        return ()
    if model.graph.opset_imports[""] < _SORTS_UPWARDS:
        return ()
    orders = row_orders(node)
    try:
        (arrays,) = evaluate(model, orders, [sizes])
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return ()
    return orders if all(is_order(arrays[each], arrays[each].size) for each in orders) else ()


def _group_places(
    places: Iterable[Place],
    paths: Mapping[Place, Path | None],
    orders: Mapping[Place, tuple[ir.Value, ...]],
    arrays: Mapping[ir.Value, Array],
) -> list[StateGroup]:
    """Put together the places whose rows make up one larger tensor exactly.

    h and c that read one zeros tensor are two states; so are two layers that read the same rows. Rows that
    do not add up to the whole stay states of their own.
    """
    places = list(places)
    order = {place: position for position, place in enumerate(places)}
    wholes: dict[ir.Value, list[Place]] = {}
    groups = []
    for place in places:
        path = paths[place]
        if path is None:
            groups.append(StateGroup((place,), (None,), (orders[place],)))
        else:
            wholes.setdefault(path.whole, []).append(place)
    for whole, members in wholes.items():
        shape = arrays[whole].shape
        kinds = dict.fromkeys(place.slot.kind for place in members)
        split = [_pack([each for each in members if each.slot.kind == kind], paths, shape) for kind in kinds]
        if any(packed is None for packed in split):
            split = [_pack(members, paths, shape)]
        for packed in split:
            for rows in [[member] for member in members] if packed is None else packed:
                chosen = tuple(None if packed is None else paths[place] for place in rows)
                groups.append(StateGroup(tuple(rows), chosen, tuple(orders[place] for place in rows)))
    return sorted(groups, key=lambda group: min(order[place] for place in group.places))


def _pack(
    places: list[Place], paths: Mapping[Place, Path | None], shape: tuple[int, ...]
) -> list[list[Place]] | None:
    """Split ``places`` into sets that each cover ``shape`` once, in graph order; None where they don't."""
    axes = {path.span[0] for place in places if (path := paths[place]) is not None and path.span}
    if len(axes) > 1:
        return None
    size = shape[axes.pop()] if axes else 1
    packs: list[tuple[list[Place], npt.NDArray[np.bool_]]] = []
    for place in places:
        path = paths[place]
        span = path.span if path is not None else None
        start, stop = (span[1], span[2]) if span else (0, size)
        pack = next((pack for pack in packs if not pack[1][start:stop].any()), None)
        if pack is None:
            pack = ([], np.zeros(size, dtype=np.bool_))
            packs.append(pack)
        pack[0].append(place)
        pack[1][start:stop] = True
    if not all(taken.all() for _, taken in packs):
        return None
    return [sorted(members, key=lambda place: _start(paths[place])) for members, _ in packs]


def _start(path: Path | None) -> int:
    return path.span[1] if path is not None and path.span else 0


def _describe(
    model: ir.Model,
    group: StateGroup,
    batch: str | None,
    axis: int | None,
    cases: tuple[dict[str, int], dict[str, int]],
    arrays: tuple[dict[ir.Value, Array], dict[ir.Value, Array]],
) -> _State | str:
    """Find a group's dtype, axes and reset value, or say why it has none."""
    place, path = group.places[0], group.paths[0]
    node = place.slot.node
    root = path.whole if path else place.initial
    axis = path.batch_axis if path else axis
    for last in _last(place):
        if place.initial is not None and any(
            found[last].shape != found[place.initial].shape for found in arrays
        ):
            return "its shape changes from pass to pass"
    if root is not None and not is_data_free(root):
        if root.producer() is not None or root.dtype is None:
            return f"it is computed from an input, {root.name!r}, and can't be continued by one output"
        return _State(group, root.dtype, axes_of(root), 0.0, root)
    rows = _batch_rows(model, node, cases) if root is None else None
    if root is None:
        directions, hidden, axis = state_shape(node)
        shape: list[int | str] = [directions, hidden]
        shape.insert(axis, 1)
        reset: float | Array = 0.0
        dtype = next(
            (
                v.dtype
                for v in (node.inputs[2], node.inputs[0])
                if v and v.dtype and v.dtype.is_floating_point()
            ),
            None,
        )
        dtype = dtype or ir.DataType.FLOAT
    elif axis is None:
        small, large = arrays[0][root], arrays[1][root]
        if not np.array_equal(small, large):
            return "its value is not the same for every batch member and sequence length"
        reset = float(small.flat[0]) if small.size and (small == small.flat[0]).all() else small
        return _State(group, ir.DataType.from_numpy(small.dtype), small.shape, reset)
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
    name = (batch or 1) if rows is None else name_axis(rows, cases)
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


def _write(graph: ir.Graph, state: _State, chosen: tuple[str, str], names: UniqueNames) -> StateSpec:
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
