"""States that a file has as inputs and outputs already."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.axes import fits
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import StateSpec, TensorSpec

from ..graph import data_inputs, describe_value, spec_of, walk
from ..pairing import pair_states
from ..recurrent import Slot
from .recurrences import LAYOUT, recurrences, top_of

_CONVENTIONS = (
    (r"state", "stateN"),
    (r"([hc])0?", r"\1n"),
    (r"([hc])", r"next_\1"),
    (r"((cached|embed|processed|attn|cnn)_.+)", r"new_\1"),
    (r"(cache_last_(?:channel|time))((?:_len)?)", r"\1_next\2"),
)
"""Names of a state's input and output: two of silero-vad, then LSTM, zipformer and NeMo
of sherpa-onnx."""
Specs = Mapping[str, TensorSpec]
"""Inputs or outputs by name."""


@dataclass(frozen=True)
class Recognized:
    """The states that a file has as inputs and outputs."""

    states: tuple[StateSpec, ...]
    """States of the file."""
    question: str
    """Question about other inputs that may be states; empty if there are none."""


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
    _check_named(graph, named, inputs=inputs, outputs=outputs)
    pairs = dict(named)
    _pair_by_conventions(pairs, inputs, outputs)
    _pair_by_recurrences(pairs, model, inputs=inputs, outputs=outputs)
    pairing = pair_states(graph, pairs, sequence)
    states = tuple(
        StateSpec(
            input=name, output=output, dtype=inputs[name].dtype, axes=inputs[name].axes
        )
        for name, output in pairing.pairs.items()
    )
    return Recognized(states, pairing.question)


def _check_named(
    graph: ir.Graph, named: Mapping[str, str], inputs: Specs, outputs: Specs
) -> None:
    """Refuse pairs of the user that are not an input and an output of one shape."""
    leaving = [*named.values()]
    for name, output in named.items():
        is_pair = _may_continue(inputs.get(name), outputs.get(output))
        if not is_pair or leaving.count(output) > 1:
            entering = ", ".join(map(describe_value, data_inputs(graph)))
            returned = ", ".join(map(describe_value, graph.outputs))
            raise InputError(
                f"states pair {name} with {output}, expected each an input and an"
                f" output of one shape: the inputs are {entering}, the outputs {returned}"
            )


def _pair_by_conventions(pairs: dict[str, str], inputs: Specs, outputs: Specs) -> None:
    """Add the pairs that known tools give these names, in place."""
    for pattern, template in _CONVENTIONS:
        for name, spec in inputs.items():
            match = re.fullmatch(pattern, name)
            if match is None or name in pairs:
                continue
            output = match.expand(template)
            is_free = output not in pairs.values()
            if is_free and _may_continue(spec, outputs.get(output)):
                pairs[name] = output


def _pair_by_recurrences(
    pairs: dict[str, str], model: ir.Model, inputs: Specs, outputs: Specs
) -> None:
    """Add the inputs that a recurrence starts from, each with the only output that its
    last state leads to, in place.
    """
    slots = [slot for recurrence in recurrences(model) for slot in recurrence.slots]
    for slot in slots:
        if slot.initial is None:
            continue
        name = str(top_of(slot.initial).name)
        candidates = [
            output
            for output in _outputs_of(slot)
            if _may_continue(inputs.get(name), outputs.get(output))
        ]
        if name in pairs or len(candidates) != 1:
            continue
        (output,) = candidates
        if output not in pairs.values():
            pairs[name] = output


def _outputs_of(slot: Slot) -> list[str]:
    """Return the outputs of the graph that show the last value of a state."""
    last = slot.node.outputs[slot.output : slot.output + 1]
    values = walk(last, _laid_out)
    return [str(value.name) for value in values if value.is_graph_output()]


def _laid_out(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the values that show the numbers of ``value`` in another layout."""
    for node, _ in value.uses():
        if node.op_type in LAYOUT:
            yield from node.outputs


def _may_continue(before: TensorSpec | None, after: TensorSpec | None) -> bool:
    """Return True if an output has the dtype of an input, and may have its shape."""
    if before is None or after is None:
        return False
    may_fit = not after.axes or fits(before.axes, after.axes)
    return before.dtype == after.dtype and may_fit
