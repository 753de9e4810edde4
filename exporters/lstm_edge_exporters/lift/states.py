"""States become inputs and outputs: those of every recurrence over time, one input and
one output each.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.axes import fits
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.manifest import Array, StateSpec, TensorSpec

from ..graph import (
    UniqueNames,
    axes_of,
    behind_identity,
    data_inputs,
    describe_value,
    is_data_free,
    operands,
    spec_of,
    walk,
)
from ..pairing import pair_states
from ..recurrent import Slot, label, state_shape
from .axes import NamedAxes
from .measurements import Measurements
from .recurrences import LAYOUT, Recurrence, recurrences, top_of

_GENERIC = re.compile(
    r"(LSTM|GRU|RNN|Loop|Scan|PartitionedCall|while_loop|node)(_+\d+)?"
)
_CONVENTIONS = (
    (r"state", "stateN"),
    (r"([hc])0?", r"\1n"),
    (r"([hc])", r"next_\1"),
    (r"((cached|embed|processed|attn|cnn)_.+)", r"new_\1"),
    (r"(cache_last_(?:channel|time))((?:_len)?)", r"\1_next\2"),
)
"""Names of a state's input and output: two of silero-vad, then LSTM, zipformer and NeMo
of sherpa-onnx."""


def lift_states(
    model: ir.Model,
    nodes: Sequence[Recurrence],
    axes: NamedAxes,
    declared: Sequence[StateSpec],
) -> list[StateSpec]:
    """Let the states of ``nodes`` start from inputs and leave by outputs, except the
    ``declared`` ones.

    A state that data gives stays as it is: chunks decide.

    Raises:
        ContractError: no state can be carried; the message names the first.
    """
    carried = {state.input for state in declared}
    specs = []
    names = UniqueNames(model.graph)
    reason = ""
    for slot in (slot for node in nodes for slot in node.slots):
        try:
            state = _describe(slot, axes.measured, axes.batch, carried)
        except ContractError as error:
            reason = (
                reason or f"{slot.kind} of {label(slot.node)} can't be carried: {error}"
            )
            continue
        if state is not None:
            title = "" if len(nodes) == 1 else _title(slot.node)
            specs.append(_write(model.graph, slot, state, title, names))
    if reason and not specs and not declared:
        raise ContractError(reason)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()
    return specs


class Recognized(NamedTuple):
    """The states that a file has as inputs and outputs."""

    states: list[StateSpec]
    question: str
    """Asks for inputs that may be states, too; empty if there are none."""


def recognize(
    model: ir.Model, named: Mapping[str, str], sequence: str | None
) -> Recognized:
    """Pair the state inputs of a graph with the outputs that continue them.

    First as ``named``, then by ``_CONVENTIONS``, then by the graph (an input that a
    recurrence starts from, and the one output that its last state leads to), then as in
    ``pairing``.

    Raises:
        InputError: ``named`` names what the graph does not have, or a pair whose dtypes
            or shapes differ.
    """
    graph = model.graph
    inputs = {spec.name: spec for spec in map(spec_of, data_inputs(graph))}
    outputs = {spec.name: spec for spec in map(spec_of, graph.outputs)}
    for pair in named.items():
        if (
            not _alike(inputs.get(pair[0]), outputs.get(pair[1]))
            or [*named.values()].count(pair[1]) > 1
        ):
            listed = (
                ", ".join(map(describe_value, group))
                for group in (data_inputs(graph), graph.outputs)
            )
            raise InputError(
                f"states pair {' with '.join(pair)}, expected each an input and an"
                f" output of one shape: the inputs are {next(listed)}, the outputs"
                f" {next(listed)}"
            )
    pairs = dict(named)
    for (pattern, template), name in product(_CONVENTIONS, inputs):
        match = re.fullmatch(pattern, name)
        leaving = match.expand(template) if match else ""
        if (
            name not in pairs
            and leaving not in pairs.values()
            and _alike(inputs[name], outputs.get(leaving))
        ):
            pairs[name] = leaving
    for slot in (
        slot for recurrence in recurrences(model) for slot in recurrence.slots
    ):
        name = "" if slot.initial is None else str(top_of(slot.initial).name)
        last = slot.node.outputs[slot.output : slot.output + 1]
        reached = {
            str(value.name)
            for value in walk(last, _laid_out)
            if value.is_graph_output()
        }
        alike = [
            leaving
            for leaving in reached
            if _alike(inputs.get(name), outputs.get(leaving))
        ]
        if name not in pairs and len(alike) == 1 and alike[0] not in pairs.values():
            pairs[name] = alike[0]
    pairing = pair_states(graph, pairs, sequence)
    states = []
    for name, output in pairing.pairs.items():
        states.append(StateSpec(name, output, *inputs[name][1:]))
    return Recognized(states, pairing.question)


def _laid_out(value: ir.Value) -> Iterator[ir.Value]:
    return (
        output
        for node, _ in value.uses()
        if node.op_type in LAYOUT
        for output in node.outputs
    )


def _alike(before: TensorSpec | None, after: TensorSpec | None) -> bool:
    if before is None or after is None:
        return False
    return before.dtype == after.dtype and (
        not after.axes or fits(before.axes, after.axes)
    )


_State = tuple[ir.Value, float | Array]
"""An input, with a name if the graph has it already, and its reset value."""


def _describe(
    slot: Slot, runs: Measurements, batch: str | None, carried: set[str]
) -> _State | None:
    """Find a state's dtype, axes and reset value; None for one that is an input and an
    output already.
    """
    initial = slot.initial
    node = slot.node
    if initial is None:  # zeros
        directions, hidden = state_shape(node)
        dtypes = (
            value.dtype
            for value in (node.inputs[2], node.inputs[0])
            if value is not None
        )
        dtype = next(
            (dtype for dtype in dtypes if dtype and dtype.is_floating_point()),
            ir.DataType.FLOAT,
        )
        return ir.val(None, dtype, (directions, _rows(node, runs, batch), hidden)), 0.0
    if is_data_free(initial):
        return _constant(slot, initial, runs, batch)
    sources = {
        str(source.name)
        for source in walk([initial], operands)
        if source.is_graph_input()
    }
    if sources & carried:
        return None
    given = behind_identity(initial)
    if given.is_graph_input() and given.dtype is not None and len(given.uses()) == 1:
        return given, 0.0
    names = ", ".join(sorted(sources)) or "random numbers"
    raise ContractError(f"it is computed from {names}, and no output continues it")


def _constant(
    slot: Slot, initial: ir.Value, runs: Measurements, batch: str | None
) -> _State:
    """Describe a state whose initial value depends on sizes alone."""
    arrays = runs.arrays(initial)
    axis = 1
    if not arrays:
        raise ContractError(
            "its initial value can't be computed at any size that was tried"
        )
    names = [runs.name((initial, axis)) for axis in range(arrays[0].ndim)]
    if slot.node.op_type in ("Loop", "Scan"):  # any axis may be the batch, or none
        axis = next(
            (
                axis
                for axis, name in enumerate(names)
                if str(name).split("*")[-1] == batch
            ),
            -1,
        )
    firsts = [array if axis < 0 else array.take([0], axis) for array in arrays]
    reset = firsts[0]
    pairs = zip(arrays, firsts, strict=True)
    if any(
        first.shape != reset.shape or (array != reset).any() for array, first in pairs
    ):
        raise ContractError(
            "its initial value is not the same for every row and sequence length"
        )
    value = (
        float(reset.flat[0]) if reset.size and (reset == reset.flat[0]).all() else reset
    )
    shape: list[int | str] = list(arrays[0].shape)
    if axis >= 0:
        looped = slot.node.op_type in ("Loop", "Scan")
        shape[axis] = (
            names[axis] or batch or 1 if looped else _rows(slot.node, runs, batch)
        )
    return ir.val(None, ir.DataType.from_numpy(arrays[0].dtype), shape), value


def _rows(node: ir.Node, runs: Measurements, batch: str | None) -> int | str:
    """Return the rows of a recurrent node's X: a number, ``N``, or ``6*N`` where others
    are folded in.
    """
    x = node.inputs[0]
    assert x is not None
    name = runs.name((x, 1))
    if name is None and runs.lengths((x, 1)):
        raise ContractError(
            "its node reads a number of rows that is no multiple of an input's axis"
        )
    return name or batch or 1


def _write(
    graph: ir.Graph, slot: Slot, state: _State, title: str, names: UniqueNames
) -> StateSpec:
    """Add the input and the output of a state."""
    (value, reset), node = state, slot.node
    if not value.name:
        value.name = names.unique(f"{title}{slot.kind}_0")
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
        last.name = names.unique(f"{title}{slot.kind}_n")
        graph.outputs.append(last)
    spec = spec_of(value)
    return StateSpec(spec.name, str(last.name), spec.dtype, spec.axes, reset)


def _title(node: ir.Node) -> str:
    words = reversed(
        re.findall(r"\w+", node.name or "")
    )  # the layer, as lstm in /encoder/lstm/LSTM
    return f"{next((word for word in words if not _GENERIC.fullmatch(word)), node.op_type.lower())}_"
