"""Recognizing states that a file already has as inputs and outputs."""

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from lstm_edge_runtime.axes import describe, fits
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.manifest import Axes, StateSpec, TensorSpec

from ..graph import axes_of, data_inputs, walk
from ..pairing import Names, pair_states, spec_of
from .paths import top_of
from .subgraphs import recurrences, slots_of

_LAYOUT = (
    "Cast",
    "Concat",
    "Gather",
    "Identity",
    "MatMul",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)


def recognize(model: ir.Model, named: Mapping[str, str], sequence: str | None) -> tuple[StateSpec, ...]:
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
    for entering, leaving in _by_graph(model):
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


def _by_graph(model: ir.Model) -> Iterator[tuple[str, str]]:
    """Pair inputs with outputs if the graph leads from one to the other."""
    inputs = set(data_inputs(model.graph))
    continued: dict[ir.Value, set[ir.Value]] = {}
    for node in recurrences(model):
        for slot in slots_of(node):
            top = slot.initial and top_of(slot.initial)
            if top in inputs and len(node.outputs) > slot.output:
                continued.setdefault(top, set()).update(walk([node.outputs[slot.output]], _laid_out))
    for entering, reached in continued.items():
        matches = [
            value
            for value in model.graph.outputs
            if value in reached and _alike(axes_of(entering), axes_of(value))
        ]
        if len(matches) == 1:
            yield str(entering.name), str(matches[0].name)


def _laid_out(value: ir.Value) -> Iterator[ir.Value]:
    for node, _ in value.uses():
        if node.op_type in _LAYOUT:
            yield from node.outputs


def _alike(entering: Axes, leaving: Axes) -> bool:
    return not leaving or fits(entering, leaving)
