"""States become inputs and outputs: those of every recurrence over time, one input and one output each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.axes import describe, fits
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.manifest import Array, Axes, StateSpec, TensorSpec

from ..graph import UniqueNames, axes_of, behind_identity, data_inputs, is_data_free, operands, spec_of, walk
from ..pairing import pair_states
from ..recurrent import Slot, label, state_shape
from .axes import Measured, Named
from .recurrences import LAYOUT, Recurrence, recurrences, top_of
from .running import name_axis

_GENERIC = re.compile(r"(LSTM|GRU|RNN|Loop|Scan|PartitionedCall|while_loop|node)(_+\d+)?")
_CONVENTIONS = (
    (r"state", "stateN"),
    (r"([hc])0?", r"\1n"),
    (r"([hc])", r"next_\1"),
    (r"((cached|embed|processed|attn|cnn)_.+)", r"new_\1"),
    (r"(cache_last_(?:channel|time))((?:_len)?)", r"\1_next\2"),
)
"""Names of a state's input and output: two of silero-vad, then LSTM, zipformer and NeMo of sherpa-onnx."""


@dataclass(frozen=True)
class Left:
    """A state that stays inside of the graph."""

    node: str
    state: str
    reason: str


def lift_states(
    model: ir.Model, nodes: Sequence[Recurrence], axes: Named, known: Sequence[StateSpec]
) -> tuple[list[StateSpec], list[Left]]:
    """Let the states of ``nodes`` start from inputs and leave by outputs, but for ``known`` ones."""
    carried, specs, left = {state.input for state in known}, [], []
    slots, runs = [slot for each in nodes for slot in each.slots], axes.runs
    names, titles = UniqueNames(model.graph), _titles([each.node for each in nodes])
    for slot in slots:
        try:
            state = _describe(slot, runs, axes.batch, carried)
        except ContractError as error:
            left.append(Left(label(slot.node), slot.kind, str(error)))
            continue
        if state is not None:
            specs.append(_write(model.graph, slot, state, titles[slot.node], names))
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if value.is_initializer() and not value.uses()]:
        model.graph.inputs.remove(value)
        model.graph.initializers.pop(str(value.name))
    model.graph.sort()
    return specs, left


def recognize(model: ir.Model, named: Mapping[str, str], sequence: str | None) -> list[StateSpec]:
    """Pair the state inputs of a graph with the outputs that continue them.

    First as ``named``; then by the graph: an input that a recurrence starts from, and the one output that its
    last state leads to; then by names, as in ``pairing``.

    Raises:
        InputError: ``named`` names what the graph does not have, or a pair whose dtypes or shapes differ.
        ContractError: several outputs could continue a state.
    """
    graph = model.graph
    inputs = {spec.name: spec for spec in map(spec_of, data_inputs(graph))}
    outputs = {spec.name: spec for spec in map(spec_of, graph.outputs)}
    for entering, leaving in named.items():
        before, after = inputs.get(entering), outputs.get(leaving)
        twice = [*named.values()].count(leaving) > 1
        if before is None or after is None or twice or not _alike(before, after):
            raise InputError(
                f"states pair {entering} with {leaving}, expected each an input and an output of one shape: "
                f"the inputs are {_listed(inputs)}, the outputs {_listed(outputs)}"
            )
    pairs = dict(named)
    for entering, leaving in (*_by_graph(model), *_by_convention(inputs, outputs)):
        if entering not in pairs and leaving not in pairs.values():
            pairs[entering] = leaving
    found, unclear = pair_states(graph, pairs, sequence)
    for name, choices in unclear.items():
        raise ContractError(
            f"which output continues {name} {inputs[name].dtype} {describe(inputs[name].axes)}? candidates: "
            f"{', '.join(choices)}; name them: --state {name}={choices[0]} (states=)"
        )
    return [StateSpec(name, output, inputs[name].dtype, inputs[name].axes) for name, output in found.items()]


def _alike(before: TensorSpec, after: TensorSpec) -> bool:
    return before.dtype == after.dtype and (not after.axes or fits(before.axes, after.axes))


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {describe(spec.axes)}" for spec in specs.values())


def _by_convention(
    inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> Iterator[tuple[str, str]]:
    """Yield inputs and outputs that are named as known tools name states."""
    for pattern, template in _CONVENTIONS:
        for name, spec in inputs.items():
            match = re.fullmatch(pattern, name)
            after = None if match is None else outputs.get(match.expand(template))
            if after is not None and _alike(spec, after):
                yield name, after.name


def _by_graph(model: ir.Model) -> Iterator[tuple[str, str]]:
    """Yield inputs that recurrences start from, with the one output that the last states lead to."""
    inputs = set(data_inputs(model.graph))
    reached: dict[ir.Value, set[ir.Value]] = {}
    for slot in (slot for each in recurrences(model) for slot in each.slots):
        top = None if slot.initial is None else top_of(slot.initial)
        if top in inputs and len(slot.node.outputs) > slot.output:
            reached.setdefault(top, set()).update(walk([slot.node.outputs[slot.output]], _laid_out))
    for entering, leaving in reached.items():
        reachable = [value for value in model.graph.outputs if value in leaving]
        alike = [value for value in reachable if _alike(spec_of(entering), spec_of(value))]
        if len(alike) == 1:
            yield str(entering.name), str(alike[0].name)


def _laid_out(value: ir.Value) -> Iterator[ir.Value]:
    for node, _ in value.uses():
        if node.op_type in LAYOUT:
            yield from node.outputs


@dataclass(frozen=True)
class _State:
    dtype: ir.DataType
    axes: Axes
    reset: float | Array
    given: ir.Value | None = None
    """The input that it starts from already."""


def _describe(slot: Slot, runs: Measured, batch: str | None, carried: set[str]) -> _State | None:
    """Find a state's dtype, axes and reset value; None for one that is an input and an output already."""
    initial = slot.initial
    if initial is None:
        return _absent(slot.node, runs, batch)
    if is_data_free(initial):
        return _constant(slot, initial, runs, batch)
    sources = {str(each.name) for each in walk([initial], operands) if each.is_graph_input()}
    if sources & carried:
        return None
    given = behind_identity(initial)
    if given.is_graph_input() and given.dtype is not None and len(given.uses()) == 1:
        return _State(given.dtype, axes_of(given), 0.0, given)
    names = ", ".join(sorted(sources)) or "random numbers"
    raise ContractError(f"it is computed from {names}, and no output continues it")


def _absent(node: ir.Node, runs: Measured, batch: str | None) -> _State:
    """Describe the zeros that a recurrent node without an initial state starts from."""
    directions, hidden = state_shape(node)
    floats = (each.dtype for each in (node.inputs[2], node.inputs[0]) if each is not None and each.dtype)
    dtype = next((each for each in floats if each.is_floating_point()), ir.DataType.FLOAT)
    return _State(dtype, (directions, _rows(node, runs, batch), hidden), 0.0)


def _constant(slot: Slot, initial: ir.Value, runs: Measured, batch: str | None) -> _State:
    """Describe a state whose initial value depends on sizes alone."""
    arrays, looped = runs.arrays(initial), slot.node.op_type in ("Loop", "Scan")
    if not arrays:
        raise ContractError("its initial value can't be computed at any size that was tried")
    axis = _batch_axis(initial, arrays[0].ndim, runs, batch) if looped else 1
    firsts = [array if axis is None else array.take([0], axis) for array in arrays]
    reset = firsts[0]
    pairs = zip(arrays, firsts, strict=True)
    if any(first.shape != reset.shape or (array != reset).any() for array, first in pairs):
        raise ContractError("its initial value is not the same for every row and sequence length")
    value = float(reset.flat[0]) if reset.size and (reset == reset.flat[0]).all() else reset
    shape: list[int | str] = list(arrays[0].shape)
    if axis is not None:
        shape[axis] = (_name(runs, initial, axis) if looped else None) or _rows(slot.node, runs, batch)
    return _State(ir.DataType.from_numpy(arrays[0].dtype), tuple(shape), value)


def _batch_axis(initial: ir.Value, rank: int, runs: Measured, batch: str | None) -> int | None:
    """Return the axis of a loop's initial state that is as long as the batch."""
    names = (_name(runs, initial, axis) for axis in range(rank))
    return next((axis for axis, name in enumerate(names) if str(name).split("*")[-1] == batch), None)


def _name(runs: Measured, value: ir.Value, axis: int) -> int | str | None:
    """Name an axis by its lengths in the runs that did not fail."""
    known = [
        (n, sizes) for n, sizes in zip(runs.lengths(value, axis), runs.sizes, strict=False) if n is not None
    ]
    return name_axis([length for length, _ in known], [sizes for _, sizes in known]) if known else None


def _rows(node: ir.Node, runs: Measured, batch: str | None) -> int | str:
    """Return the rows of a recurrent node's X: a number, ``N``, or ``6*N`` where others are folded in."""
    x = node.inputs[0]
    name = None if x is None else _name(runs, x, 1)
    if name is None and x is not None and runs.lengths(x, 1):
        raise ContractError("its node reads a number of rows that is no multiple of an input's axis")
    return name or batch or 1


def _write(graph: ir.Graph, slot: Slot, state: _State, title: str, names: UniqueNames) -> StateSpec:
    """Add the input and the output of a state."""
    value, node = state.given, slot.node
    if value is None:
        value = ir.val(names.unique(f"{title}{slot.kind}_0"), state.dtype, state.axes)
        graph.inputs.append(value)
        node.resize_inputs(max(len(node.inputs), slot.input + 1))
        node.replace_input_with(slot.input, value)
    node.resize_outputs(max(len(node.outputs), slot.output + 1))
    for each in node.outputs:
        each.name = each.name or ""
    last = node.outputs[slot.output]
    last.dtype, last.shape = state.dtype, ir.Shape(state.axes)
    if not last.is_graph_output():
        last.name = names.unique(f"{title}{slot.kind}_n")
        graph.outputs.append(last)
    return StateSpec(str(value.name), str(last.name), state.dtype.numpy().name, state.axes, state.reset)


def _titles(nodes: Sequence[ir.Node]) -> dict[ir.Node, str]:
    """Return the prefix of the names of each node's states; none for a single node.

    It is the layer in the node's name, as ``lstm`` in ``/encoder/lstm/LSTM``, and its place if that repeats.
    """
    if len(nodes) == 1:
        return {nodes[0]: ""}
    words = [re.findall(r"\w+", node.name or "") for node in nodes]
    generic = _GENERIC.fullmatch
    known = [
        next((word for word in reversed(each) if not generic(word)), node.op_type.lower())
        for each, node in zip(words, nodes, strict=True)
    ]
    return {
        node: f"{name}_" if known.count(name) == 1 else f"{name}{place}_"
        for place, (node, name) in enumerate(zip(nodes, known, strict=True))
    }
