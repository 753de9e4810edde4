"""Lifting: a graph's hidden states become explicit inputs and outputs.

The one mechanism behind ``lift`` (any ONNX file) and the exporter (after translation from PyTorch).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.axes import describe, fits
from lstm_edge_runtime.errors import ContractError, InputError, first_line
from lstm_edge_runtime.manifest import Array, Axes, StateSpec, TensorSpec

from ..evaluate import inputs_above, is_data_free, name_axis
from ..graph import UniqueNames, axes_of, data_inputs, spec_of, walk
from ..pairing import Names, pair_states
from ..recurrent import Slot, is_reversed, label, state_shape
from .axes import follows_input, row_orders
from .paths import Member, Path, StateGroup, find_path, is_order, top_of, wire
from .subgraphs import Place, Recurrence
from .table import Table, values_of

_LAYOUT = frozenset(
    "Cast Concat Gather Identity MatMul Reshape Slice Split Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)
"""Operators that may lie between a last state and the output that it leaves by."""
_SORTS_UPWARDS = 11
"""The opset from which TopK can be asked for the smallest."""
_GENERIC = re.compile(r"(lstm|gru|rnn)?(__?\d+)?", re.IGNORECASE)
"""Parts of a node's name that are no layer's."""

Naming = Callable[[Sequence[StateGroup]], Sequence[tuple[str, str]]]
"""Returns for each group the names of its state's input and output."""


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
    """The inputs that it depends on, if ``given`` or ``data``."""

    @classmethod
    def of(cls, slot: Slot, reason: str, cause: str, sources: Collection[str] = ()) -> "LeftAlone":
        """Leave the state of ``slot`` alone."""
        return cls(label(slot.node), slot.kind, reason, cause, frozenset(sources))


@dataclass(frozen=True)
class LiftedStates:
    """The states of a graph that were lifted."""

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
    """The input that the nodes start from already, None to create one."""


def _name_after_nodes(groups: Sequence[StateGroup]) -> list[tuple[str, str]]:
    """Name a single layer's states ``h_0/h_n`` and ``c_0/c_n``; with more layers, after each layer's node."""
    layers = list(dict.fromkeys(group.node for group in groups))
    if len(layers) <= 1:
        return [group.names() for group in groups]
    known = list(map(_layer_of, layers))
    labels = {
        node: name if name and known.count(name) == 1 else f"{name or node.op_type.lower()}{place}"
        for place, (node, name) in enumerate(zip(layers, known, strict=True))
    }
    return [group.names(f"{labels[group.node]}_") for group in groups]


def _layer_of(node: ir.Node) -> str:
    """Return the part of a node's name that names its layer; empty if there is none.

    ``/encoder/lstm/LSTM`` is ``lstm``; ``model/lstm_1/PartitionedCall/LSTM__32`` is ``lstm_1``.
    """
    parts = [
        part
        for part in re.split(r"[/:.]", node.name or "")
        if part and not re.fullmatch(r"PartitionedCall.*|while_loop", part)
    ]
    while len(parts) > 1 and (_GENERIC.fullmatch(parts[-1]) and parts[-1].split("_")[0].isupper()):
        parts.pop()
    return re.sub(r"\W+", "_", parts[-1]) if parts else ""


def over_time(model: ir.Model, table: Table, batch: str | None, sequence: str | None) -> list[Recurrence]:
    """Return the recurrent nodes, then loops, whose steps are time: all unless running them shows otherwise.

    They are not if their number is the same for every length of the sequence, as in a layer that runs over
    frequencies; nor in a loop over the rows of a batch. If the length is fixed, a layer that reads
    backwards along something that is no axis of an input counts as such a layer.
    """

    def runs_over_time(each: Recurrence) -> bool:
        if sequence is None:
            return not is_reversed(each.node) or any(follows_input(read, model.graph) for read in each.reads)
        if not table.has([read.value for read in each.reads]):
            return True  # the chunks decide
        steps = (name_axis(table.lengths(read.value, read.time), table.sizes) for read in each.reads)
        return any(not isinstance(name, int) and not (each.looped and name == batch) for name in steps)

    found = sorted(table.recurrences, key=lambda each: each.looped)
    return [each for each in found if each.reads and runs_over_time(each)]


def lift_states(
    model: ir.Model,
    nodes: Sequence[Recurrence],
    table: Table,
    *,
    batch: str | None,
    reverse: bool = False,
    carry: Collection[str] = (),
    declared: int | None = None,
    naming: Naming = _name_after_nodes,
) -> LiftedStates:
    """Make an input of every state of ``nodes`` that is constant in all but the batch size, in place.

    A state is lifted at its root: nodes that read rows of one tensor share one state, whose output is their
    last states put together in the same order. Absent states, initializers and any chain of operators over
    constants and shapes count as constant; a batch size that such a chain had fixed becomes dynamic.

    Args:
        model: a graph without model-local functions around its recurrent nodes.
        nodes: those of the table's recurrences whose states are wanted.
        table: the graph's values as far as they are known.
        batch: the name of the batch axis; None if the graph has none and N is 1.
        reverse: lift nodes that read time backwards too. Their states can't be carried from chunk to chunk.
        carry: inputs that no output continues; one that nodes start from gets an output.
        declared: the size that the batch axis had before it was made dynamic; states that can only be
            computed at it, such as a constant with that number of rows, are computed at it.
        naming: names the states; called once with the groups in graph order.

    Returns:
        The states in graph order, and what was not lifted and why.
    """
    places, left = _partition(model, nodes, reverse, carry)
    pinned = {batch: declared} if batch is not None and declared is not None else {}
    planner = _Planner(model, table, batch, pinned)
    states = planner.plan(places)
    names = UniqueNames(model.graph)
    chosen = naming([state.group for state in states])
    written = [_write(model.graph, state, pair, names) for state, pair in zip(states, chosen, strict=True)]
    RemoveUnusedNodesPass()(model)
    _drop_unused_defaults(model.graph)
    model.graph.sort()
    return LiftedStates(tuple(written), (*left, *planner.failed), planner.fixed_batch)


def _partition(
    model: ir.Model, nodes: Iterable[Recurrence], reverse: bool, carry: Collection[str]
) -> tuple[list[Place], list[LeftAlone]]:
    """Partition the states of ``nodes`` into those that can be lifted and those that can't."""
    inputs = set(data_inputs(model.graph))
    places, left = [], []
    known: set[tuple[ir.Node, int]] = set()
    for place in (place for each in nodes for place in each.places):
        if (place.owner, place.input) in known:
            continue
        if not place.reason:
            known.add((place.owner, place.input))
        if (reason := _why_left(place, inputs, reverse, carry)) is None:
            places.append(place)
        else:
            left.append(reason)
    return places, left


def _why_left(place: Place, inputs: set[ir.Value], reverse: bool, carry: Collection[str]) -> LeftAlone | None:
    """Return why the state of a place can't be lifted; None if it can."""
    slot = place.slot
    if is_reversed(slot.node) and not reverse:
        return LeftAlone.of(slot, "it reads time backwards, so no chunk can follow another", "reversed")
    if place.reason:
        return LeftAlone.of(slot, place.reason, "subgraph")
    if place.initial is None or is_data_free(place.initial):
        return None
    top = top_of(place.initial)
    source = str(top.name) if top in inputs else ""
    if source in carry or is_data_free(top):
        return None  # operators between may reorder rows
    if source:
        return LeftAlone.of(slot, f"it comes from input {source!r}", "given", {source})
    return LeftAlone.of(slot, f"it comes from data, {top.name!r}", "data", inputs_above(place.initial))


class _Planner:
    """Groups places into states, and finds each one's dtype, axes and reset value."""

    def __init__(self, model: ir.Model, table: Table, batch: str | None, pinned: dict[str, int]) -> None:
        self._model, self._table, self._batch, self._pinned = model, table, batch, pinned
        self.fixed_batch: int | None = None
        """The ``pinned`` batch size, if a state could be computed at it alone."""
        self.failed: list[LeftAlone] = []
        self._values: dict[Place, list[ir.Value]] = {}
        """What each place's initial state is read off."""

    def plan(self, places: Sequence[Place]) -> list[_State]:
        """Return the states; ``failed`` has the places that make none."""
        self._values = {place: values_of(place) for place in places}
        self._table.has([value for values in self._values.values() for value in values])
        computed = [place for place in places if self._compute(place)]
        states = []
        for group in _group(list(map(self._member, computed)), self._table.runs[0]):
            state = self._describe(group)
            if isinstance(state, str):
                for each in group.members:
                    self._fail(each.place, state)
            else:
                states.append(state)
        return states

    def _fail(self, place: Place, reason: str) -> None:
        self.failed.append(LeftAlone.of(place.slot, reason, "data"))

    def _compute(self, place: Place) -> bool:
        """Find the initial state of the place, at the ``pinned`` batch size if others fail."""
        reason = ""
        for pinned in [{}, self._pinned] if self._pinned else [{}]:
            try:
                self._table.find(self._values[place], pinned)
            except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
                reason = first_line(error)
                continue
            self.fixed_batch = max(pinned.values(), default=self.fixed_batch)
            return True
        self._fail(place, f"it can't be computed: {reason}")
        return False

    def _member(self, place: Place) -> Member:
        batch_axis, path = self._batch_axis(place), None
        if place.initial is not None and not place.branches and batch_axis is not None:
            path = find_path(place.initial, batch_axis, place.slot.node, self._table.runs[0])
        return Member(place, batch_axis, path, self._row_orders(place, path))

    def _batch_axis(self, place: Place) -> int | None:
        """Return a state's batch axis; None if a loop carries one that does not grow with the batch."""
        if not place.looped:
            return state_shape(place.slot.node)[2]
        axes = () if place.initial is None else self._table.axes(place.initial) or ()
        return next((axis for axis, name in enumerate(axes) if str(name).split("*")[-1] == self._batch), None)

    def _row_orders(self, place: Place, path: Path | None) -> tuple[ir.Value, ...]:
        """Return the indices that reorder the rows of the place's node, if its state is not in that order.

        Rows that are picked or repeated are in no order of that kind, and no state follows them.
        """
        node, graph = place.slot.node, self._model.graph
        reordered = path is not None and any(step.undo[0] == "Reorder" for step in path.steps)
        if reordered or place.owner is not node or place.looped or node.graph is not graph:
            return ()
        if graph.opset_imports[""] < _SORTS_UPWARDS:
            return ()
        orders = row_orders(node)
        found = self._table.runs[0]
        known = self._table.has(orders) and all(is_order(found[each], found[each].size) for each in orders)
        return orders if known else ()

    def _describe(self, group: StateGroup) -> _State | str:
        """Find a group's dtype, axes and reset value, or say why it has none."""
        first = group.members[0]
        place, path = first.place, first.path
        initial = place.initial
        carried = [self._values[place][-1], initial] if initial is not None and place.looped else []
        if any(len({run[value].shape for value in carried}) > 1 for run in self._table.runs):
            return "its shape changes from pass to pass"
        root, axis = (path.whole, path.batch_axis) if path else (initial, first.batch_axis)
        if root is None:
            return self._absent(group)
        if is_data_free(root):
            return self._constant(group, root, axis)
        if root.producer() is not None or root.dtype is None:
            return f"it is computed from an input, {root.name!r}, and can't be continued by one output"
        return _State(group, root.dtype, axes_of(root), 0.0, root)

    def _absent(self, group: StateGroup) -> _State | str:
        """Describe the zeros that a recurrent node without an initial state starts from."""
        node = group.members[0].place.slot.node
        directions, hidden, axis = state_shape(node)
        shape: list[int | str] = [directions, hidden]
        shape.insert(axis, 1)
        floats = (each.dtype for each in (node.inputs[2], node.inputs[0]) if each and each.dtype)
        dtype = next((each for each in floats if each.is_floating_point()), ir.DataType.FLOAT)
        return self._with_batch(group, dtype, shape, axis, 0.0, self._batch_rows(node))

    def _constant(self, group: StateGroup, root: ir.Value, axis: int | None) -> _State | str:
        """Describe a state whose initial value depends on sizes alone; ``axis`` is its batch axis."""
        arrays = [run[root] for run in self._table.runs]
        dtype = ir.DataType.from_numpy(arrays[0].dtype)
        firsts = [array if axis is None else array.take([0], axis) for array in arrays]
        reset = firsts[0]
        pairs = zip(arrays, firsts, strict=True)
        if any(first.shape != reset.shape or (array != reset).any() for array, first in pairs):
            return "its value is not the same for every batch member and sequence length"
        value = float(reset.flat[0]) if reset.size and (reset == reset.flat[0]).all() else reset
        if axis is None:
            return _State(group, dtype, reset.shape, value)
        rows = self._table.lengths(root, axis)
        grown = rows if len(set(rows)) > 1 else self._batch_rows(group.members[0].place.slot.node)
        return self._with_batch(group, dtype, list(reset.shape), axis, value, grown)

    def _with_batch(
        self,
        group: StateGroup,
        dtype: ir.DataType,
        shape: list[int | str],
        axis: int,
        reset: float | Array,
        rows: Sequence[int] | None,
    ) -> _State | str:
        """Return the state with its batch axis named, by the ``rows`` that it has in each run."""
        name = (self._batch or 1) if rows is None else name_axis(rows, self._table.sizes)
        if name is None:
            return f"its batch axis has {rows[0] if rows else 0} rows, no multiple of an input's axis"
        return _State(group, dtype, (*shape[:axis], name, *shape[axis + 1 :]), reset)

    def _batch_rows(self, node: ir.Node) -> list[int] | None:
        """Return the batch sizes of the node's X in each run, None if unknown."""
        x, axis = node.inputs[0], state_shape(node)[2]
        if x is None:
            return None
        declared = axes_of(x)[axis] if x.shape is not None and len(x.shape) == 3 else None
        if declared in self._table.sizes[0]:
            return [sizes[str(declared)] for sizes in self._table.sizes]
        return self._table.lengths(x, axis) if self._table.has([x]) else None  # if the graph needs its sizes


def _group(members: Sequence[Member], arrays: Mapping[ir.Value, Array]) -> list[StateGroup]:
    """Put together the members whose rows make up one larger tensor exactly.

    h and c that read one zeros tensor are two states; so are two layers that read the same rows. Rows that
    do not add up to the whole remain separate states.
    """
    order = {member.place: position for position, member in enumerate(members)}
    wholes: dict[ir.Value, list[Member]] = {}
    groups = []
    for member in members:
        if member.path is None:
            groups.append(StateGroup((member,)))
        else:
            wholes.setdefault(member.path.whole, []).append(member)
    for whole, parts in wholes.items():
        shape = arrays[whole].shape
        kinds = dict.fromkeys(part.place.slot.kind for part in parts)
        split = [_pack([each for each in parts if each.place.slot.kind == kind], shape) for kind in kinds]
        if any(packed is None for packed in split):
            split = [_pack(parts, shape)]
        for packed in split:
            alone = [(replace(part, path=None),) for part in parts]
            groups += map(StateGroup, alone if packed is None else packed)
    return sorted(groups, key=lambda group: min(order[each.place] for each in group.members))


def _pack(members: Sequence[Member], shape: tuple[int, ...]) -> list[tuple[Member, ...]] | None:
    """Split ``members`` into sets that each cover ``shape`` once, in graph order; None if they don't."""
    axes = {member.span[0] for member in members if member.span}
    if len(axes) > 1:
        return None
    size = shape[axes.pop()] if axes else 1
    packs: list[tuple[list[Member], npt.NDArray[np.bool_]]] = []
    for member in members:
        _, start, stop = member.span or (0, 0, size)
        pack = next((pack for pack in packs if not pack[1][start:stop].any()), None)
        if pack is None:
            pack = ([], np.zeros(size, dtype=np.bool_))
            packs.append(pack)
        pack[0].append(member)
        pack[1][start:stop] = True
    if not all(taken.all() for _, taken in packs):
        return None
    return [tuple(sorted(found, key=lambda each: (each.span or (0, 0))[1])) for found, _ in packs]


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


def recognize(
    model: ir.Model, table: Table, named: Mapping[str, str], sequence: str | None
) -> tuple[StateSpec, ...]:
    """Pair the state inputs of a graph with the outputs that continue them.

    First as ``named``; then by the graph: an input that recurrent nodes start from and the one output that
    their last states lead to; then as in ``pairing``, if no axis is time (``sequence``).

    Raises:
        InputError: ``named`` names what the graph does not have, one output twice, or a pair whose dtypes or
            shapes differ.
        ContractError: several outputs could continue a state.
    """
    graph = model.graph
    inputs, outputs = (
        {spec.name: spec for spec in map(spec_of, side)} for side in (data_inputs(graph), graph.outputs)
    )
    _check_named(named, inputs, outputs)
    pairs = dict(named)
    for entering, leaving in _by_graph(model.graph, table.recurrences):
        if entering not in pairs and leaving not in pairs.values():
            pairs[entering] = leaving
    places = {name: place for place, name in enumerate(outputs)}
    names = Names({name: {name} for name in inputs}, {place: {name} for name, place in places.items()})
    found = pair_states(
        graph, {name: places[output] for name, output in pairs.items()}, [names], sequence=sequence
    )
    for name, several in found.unclear.items():
        candidates = [output for output, place in places.items() if place in several]
        raise ContractError(
            f"which output continues {name} {inputs[name].dtype} {describe(inputs[name].axes)}? candidates: "
            f"{', '.join(candidates)}; name them: --state {name}={candidates[0]} (states=)"
        )
    titles = [*outputs]
    return tuple(
        StateSpec(name, titles[place], inputs[name].dtype, inputs[name].axes)
        for name, place in found.pairs.items()
    )


def _check_named(
    named: Mapping[str, str], inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> None:
    for entering, leaving in named.items():
        if entering not in inputs or leaving not in outputs:
            raise InputError(
                f"states pair {entering!r} with {leaving!r}; the inputs are {', '.join(inputs)}, "
                f"the outputs {', '.join(outputs)}"
            )
        before, after = inputs[entering], outputs[leaving]
        if before.dtype != after.dtype or not _alike(before.axes, after.axes):
            raise InputError(
                f"states pair {entering} {before.dtype} {describe(before.axes)} with "
                f"{leaving} {after.dtype} {describe(after.axes)}; a state leaves as it enters"
            )
        if list(named.values()).count(leaving) > 1:
            raise InputError(f"states pair several inputs with {leaving!r}; give each its own output")


def _by_graph(graph: ir.Graph, found: Iterable[Recurrence]) -> Iterator[tuple[str, str]]:
    """Pair inputs with outputs if the graph leads from one to the other."""
    inputs = set(data_inputs(graph))
    continued: dict[ir.Value, set[ir.Value]] = {}
    for slot in (place.slot for each in found for place in each.places):
        top = slot.initial and top_of(slot.initial)
        if top in inputs and len(slot.node.outputs) > slot.output:
            continued.setdefault(top, set()).update(walk([slot.node.outputs[slot.output]], _laid_out))
    for entering, reached in continued.items():
        matches = [
            value for value in graph.outputs if value in reached and _alike(axes_of(entering), axes_of(value))
        ]
        if len(matches) == 1:
            yield str(entering.name), str(matches[0].name)


def _laid_out(value: ir.Value) -> Iterator[ir.Value]:
    for node, _ in value.uses():
        if node.op_type in _LAYOUT:
            yield from node.outputs


def _alike(entering: Axes, leaving: Axes) -> bool:
    return not leaving or fits(entering, leaving)
