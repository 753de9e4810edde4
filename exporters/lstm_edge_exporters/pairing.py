"""Which output continues which state input: the one rule of ``export`` and ``lift``.

First names, then structure, then nothing: an output depends on the state that it continues, and has its shape
and dtype; where that leaves a choice, the user makes it. Positions decide nothing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from lstm_edge_runtime.axes import describe, fits
from lstm_edge_runtime.graph_check import could_continue, is_called_like_a_state, is_renamed, shared_stem
from lstm_edge_runtime.manifest import TensorSpec

from .graph import axes_of, behind_identity, walk

_SIZES = ("Shape", "Size")
"""Operators that read no values."""


@dataclass(frozen=True)
class Names:
    """What one place, such as a function's body, calls inputs and outputs; one may have several names."""

    inputs: Mapping[str, set[str]]
    """By the input's name in the graph."""
    outputs: Mapping[int, set[str]]
    """By the output's place in the graph."""


@dataclass(frozen=True)
class Pairing:
    """The states of a graph, and what may be more of them."""

    pairs: Mapping[str, int] = field(default_factory=dict)
    """Input name to the output's place."""
    unclear: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Inputs that are called like states, and the outputs of which each might continue it."""
    unnamed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Other inputs that outputs might continue. The first input is none: it is the signal."""
    by_name: tuple[str, ...] = ()
    """Inputs that are paired although nothing but an output's name says that they are states."""
    ended: tuple[str, ...] = ()
    """Inputs that are called like states, and that no output of their shape and dtype depends on."""


def pair_states(
    graph: ir.Graph,
    known: Mapping[str, int],
    names: Sequence[Names],
    *,
    positional: Collection[str] = (),
    starts: Collection[str] = (),
    plain: Collection[str] = (),
    sequence: str | None = None,
) -> Pairing:
    """Pair state inputs with the outputs that continue them.

    Args:
        graph: the graph.
        known: pairs that are certain, input name to the output's place.
        names: what inputs and outputs are called, the most specific first.
        positional: inputs without a name of their own, as in a tuple.
        starts: inputs that are states, whatever their names.
        plain: inputs that are not states.
        sequence: the time axis, which no state has.
    """
    inputs = _possible_states(graph, plain, sequence)
    called = {name for name in inputs if name in starts or _is_called_like_a_state(name, names, positional)}
    others = (str(value.name) for value in graph.inputs if value.name not in called)
    possible = inputs.keys() - known.keys() - {next(others, "")}
    free = _free_outputs(graph, known, sequence)
    alike = {name: _fitting(value, free) for name, value in inputs.items() if name in possible}
    depends = {name: _computed_from(inputs[name], places, free) for name, places in alike.items()}
    pairs, same = _settle(names, known, called, alike, depends)
    left = {name: tuple(sorted(places)) for name, places in _without(depends, pairs).items()}
    unclear, unnamed = (
        {name: places for name, places in left.items() if places and (name in called) == is_called}
        for is_called in (True, False)
    )
    return Pairing(
        {name: pairs[name] for value in graph.inputs if (name := str(value.name)) in pairs},
        unclear,
        unnamed,
        same,
        tuple(name for name in left if name in called and not left[name] and _is_small(inputs[name])),
    )


def _is_called_like_a_state(name: str, names: Sequence[Names], positional: Collection[str]) -> bool:
    called = {name, *(names[0].inputs.get(name, ()) if name in positional else ())}
    return any(map(is_called_like_a_state, called))


def _settle(
    names: Sequence[Names],
    known: Mapping[str, int],
    called: Collection[str],
    alike: Mapping[str, set[int]],
    depends: Mapping[str, set[int]],
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the pairs that names and then structure decide, and those that an output's name alone does."""
    pairs = dict(known)
    for each in names:
        pairs |= _by_name(each, _without(alike, pairs), called)
    same = _by_same_name(names[0], _without(depends, pairs)) if names else {}
    pairs |= same
    likely = {name: places for name, places in depends.items() if name in called}
    while found := _only_choices(_without(likely, pairs)):
        pairs |= found
    return pairs, tuple(same)


def _possible_states(graph: ir.Graph, plain: Collection[str], sequence: str | None) -> dict[str, ir.Value]:
    return {
        str(value.name): value
        for value in graph.inputs
        if not value.is_initializer() and sequence not in axes_of(value) and value.name not in plain
    }


def _free_outputs(graph: ir.Graph, known: Mapping[str, int], sequence: str | None) -> dict[int, ir.Value]:
    """Return the outputs that may continue a state, each value once, by place."""
    taken = {behind_identity(graph.outputs[place]) for place in known.values()}
    last = {behind_identity(value): place for place, value in enumerate(graph.outputs)}
    return {
        place: graph.outputs[place]
        for value, place in last.items()
        if value not in taken and sequence not in axes_of(graph.outputs[place])
    }


def _computed_from(before: ir.Value, places: Collection[int], free: Mapping[int, ir.Value]) -> set[int]:
    """Return which of ``places`` hold values that are computed from ``before`` and could continue it."""
    reached = {*walk([before], _uses)} - {before}
    return {
        place
        for place in places
        if free[place] in reached and could_continue(spec_of(before), spec_of(free[place]))
    }


def _fitting(before: ir.Value, free: Mapping[int, ir.Value]) -> set[int]:
    """Return the places of outputs that have an input's dtype and axes."""
    axes = axes_of(before)
    return {
        place for place, after in free.items() if after.dtype == before.dtype and fits(axes, axes_of(after))
    }


def _without(choices: Mapping[str, set[int]], pairs: Mapping[str, int]) -> dict[str, set[int]]:
    """Return the choices of inputs that have no output yet among the outputs that continue none."""
    return {name: places - {*pairs.values()} for name, places in choices.items() if name not in pairs}


def _is_small(value: ir.Value) -> bool:
    """Return whether a value has the axes of a state: at most one of them, the batch, is dynamic."""
    return sum(isinstance(axis, str) for axis in axes_of(value)) <= 1


def _by_name(group: Names, choices: Mapping[str, set[int]], called: Collection[str]) -> dict[str, int]:
    """Pair the inputs and outputs of which each shares the longest stem of its names with the other alone.

    One that is not called like a state is paired if names say before and after: ``past_k`` and ``k``.
    """
    shared = {
        (name, place): max(
            (
                shared_stem(before, after)
                for before in group.inputs.get(name, ())
                for after in group.outputs.get(place, ())
                if name in called or is_renamed(before, after)
            ),
            default=0,
        )
        for name, places in choices.items()
        for place in places
    }
    best: dict[str | int, list[tuple[str, int]]] = {}
    for side in (0, 1):
        for key in {pair[side] for pair in shared}:
            most = max(score for pair, score in shared.items() if pair[side] == key)
            best[key] = [pair for pair, score in shared.items() if pair[side] == key and score == most > 0]
    return dict(pair for pair in shared if best[pair[0]] == [pair] and best[pair[1]] == [pair])


def _by_same_name(group: Names, choices: Mapping[str, set[int]]) -> dict[str, int]:
    """Pair an input with the one output that is called as it is and computed from it."""
    found = {
        name: [place for place in places if group.outputs.get(place, set()) & group.inputs.get(name, set())]
        for name, places in choices.items()
    }
    return _only_choices({name: set(places) for name, places in found.items()})


def _only_choices(choices: Mapping[str, set[int]]) -> dict[str, int]:
    """Pair the inputs that have one output left with it, if no two of them have the same."""
    single = [next(iter(places)) for places in choices.values() if len(places) == 1]
    return {
        name: next(iter(places))
        for name, places in choices.items()
        if len(places) == 1 and single.count(next(iter(places))) == 1
    }


def _uses(value: ir.Value) -> Iterator[ir.Value]:
    """Return what is computed from the values of ``value``, and not from its size alone."""
    return (output for node, _ in value.uses() if node.op_type not in _SIZES for output in node.outputs)


def spec_of(value: ir.Value) -> TensorSpec:
    """Return name, dtype and axes of a value."""
    dtype = "float32" if value.dtype is None else str(value.dtype.numpy().name)
    return TensorSpec(str(value.name), dtype, axes_of(value))


def describe_value(value: ir.Value) -> str:
    """Return name, dtype and axes for a message."""
    spec = spec_of(value)
    return f"{spec.name} {spec.dtype} {describe(spec.axes)}"
