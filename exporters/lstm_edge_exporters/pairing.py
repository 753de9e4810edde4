"""Which output continues which state input: the one rule of ``export`` and ``lift``.

First names, then structure, then nothing: an output depends on the state that it continues, and has its shape
and dtype; where that leaves a choice, the user makes it. Positions decide nothing.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import onnx_ir as ir

from lstm_edge_runtime.axes import fits
from lstm_edge_runtime.manifest import TensorSpec

from .graph import axes_of, behind_identity, data_inputs, spec_of, walk

_SIZES = ("Shape", "Size")
"""Operators that read no values."""
_STATE_WORD = (
    r"(^|[_./])(h|c|hx|cx|hidden|cell|state|states|cache|memory|mem|buffer|rnn|gru|lstm|carry)"
    r"([_./]?(\d+|n|t|in|out|init|prev|state|states))*$"
)
_BEFORE = (
    r"^(initial|init|prev|previous|past|old|in|input)[_./]",
    r"([_./](in|init|past|prev|previous|old)|[_./]?0)$",
)
_AFTER = (
    r"^(new|next|present|final|last|updated|out|output|y)[_./]",
    r"([_./](out|new|next|present|updated)|[_./]?[n1])$",
)
_RENAMED = (
    r"^(past|prev|previous|old)[_./]|[_./](past|prev|previous|old)$",
    r"^(new|next|present|updated)[_./]|[_./](new|next|present|updated)$",
)
"""What in the name of an input, or of an output, says that the one comes before the other."""


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
    choices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of each input that is not paired, the outputs that might continue it."""
    called: Collection[str] = ()
    """Inputs that are called like states."""
    by_name: tuple[str, ...] = ()
    """Inputs that are paired although nothing but an output's name says that they are states."""

    @property
    def unclear(self) -> dict[str, tuple[int, ...]]:
        """The choices of inputs that are called like states."""
        return {name: each for name, each in self.choices.items() if each and name in self.called}

    @property
    def unnamed(self) -> dict[str, tuple[int, ...]]:
        """The choices of other inputs. The first input has none: it is the signal."""
        return {name: each for name, each in self.choices.items() if each and name not in self.called}

    @property
    def ended(self) -> tuple[str, ...]:
        """Inputs that are called like states, and that no output of their shape and dtype depends on."""
        return tuple(name for name, each in self.choices.items() if not each and name in self.called)


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
    signal = next((value.name for value in graph.inputs if value.name not in called), "")
    inputs.pop(str(signal), None)
    alike, depends = _choices(inputs, _free_outputs(graph, known.values(), sequence))
    pairs, same = _settle(names, known, called, alike, depends)
    left = {name: tuple(sorted(places)) for name, places in _without(depends, pairs).items()}
    order = (str(value.name) for value in graph.inputs)
    return Pairing({name: pairs[name] for name in order if name in pairs}, left, called, same)


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
        for value in data_inputs(graph)
        if sequence not in axes_of(value) and value.name not in plain
    }


def _free_outputs(graph: ir.Graph, known: Collection[int], sequence: str | None) -> dict[int, ir.Value]:
    """Return the outputs that may continue a state, each value once, by place."""
    taken = {behind_identity(graph.outputs[place]) for place in known}
    last = {behind_identity(value): place for place, value in enumerate(graph.outputs)}
    free = {place: graph.outputs[place] for value, place in last.items() if value not in taken}
    return {place: value for place, value in free.items() if sequence not in axes_of(value)}


def _choices(
    inputs: Mapping[str, ir.Value], free: Mapping[int, ir.Value]
) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Return the places of outputs that have an input's dtype and axes, and which of them follow from it."""
    outputs = {place: spec_of(value) for place, value in free.items()}
    alike, depends = {}, {}
    for name, value in inputs.items():
        spec, reached = spec_of(value), {*walk([value], _uses)} - {value}
        alike[name] = {
            place
            for place, after in outputs.items()
            if after.dtype == spec.dtype and fits(spec.axes, after.axes)
        }
        computed = {place for place in alike[name] if free[place] in reached}
        depends[name] = {place for place in computed if could_continue(spec, outputs[place])}
    return alike, depends


def _without(choices: Mapping[str, set[int]], pairs: Mapping[str, int]) -> dict[str, set[int]]:
    """Return the choices of inputs that have no output yet among the outputs that continue none."""
    return {name: places - {*pairs.values()} for name, places in choices.items() if name not in pairs}


def _by_name(group: Names, choices: Mapping[str, set[int]], called: Collection[str]) -> dict[str, int]:
    """Pair the inputs and outputs of which each shares the longest stem of its names with the other alone.

    One that is not called like a state is paired if names say before and after: ``past_k`` and ``k``.
    """
    shared = {
        (name, place): max((shared_stem(*pair) for pair in _names_of(group, name, place, called)), default=0)
        for name, places in choices.items()
        for place in places
    }
    best = _best(shared, 0) & _best(shared, 1)
    return dict(pair for pair in shared if pair in best)


def _names_of(group: Names, name: str, place: int, called: Collection[str]) -> Iterator[tuple[str, str]]:
    """Return what an input and an output are called, in pairs whose stems may tell."""
    for pair in product(group.inputs.get(name, ()), group.outputs.get(place, ())):
        if name in called or is_renamed(*pair):
            yield pair


def _best(shared: Mapping[tuple[str, int], int], side: int) -> set[tuple[str, int]]:
    """Return the pairs that share more than any other with the same input (side 0) or output (1)."""
    found: set[tuple[str, int]] = set()
    for key in {pair[side] for pair in shared}:
        scores = {pair: score for pair, score in shared.items() if pair[side] == key}
        best = [pair for pair, score in scores.items() if score == max(scores.values()) > 0]
        found.update(best if len(best) == 1 else ())
    return found


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


def is_called_like_a_state(name: str) -> bool:
    """Return whether an input's name says that it is a state: ``h``, ``hx_0``, ``cell_in``."""
    return re.search(_STATE_WORD, name, re.IGNORECASE) is not None


def shared_stem(before: str, after: str) -> int:
    """Return how much of their names an input and an output share: 1 for ``h_0`` and ``h_n``, 0 for none."""
    return max(map(len, _stems(before, _BEFORE) & _stems(after, _AFTER)), default=0)


def is_renamed(before: str, after: str) -> bool:
    """Return whether names alone say that an output continues an input: ``past_k`` and ``k``."""
    marked = re.search(_RENAMED[0], before, re.IGNORECASE) or re.search(_RENAMED[1], after, re.IGNORECASE)
    return marked is not None and shared_stem(before, after) > 0


def _stems(name: str, marks: tuple[str, str]) -> set[str]:
    """Return ``name`` with and without its prefix and its suffix."""
    stems = {name.lower()}
    for mark in marks:
        stems |= {re.sub(mark, "", stem) for stem in stems}
    return stems - {""}


def could_continue(entering: TensorSpec, leaving: TensorSpec) -> bool:
    """Return whether shapes alone make a pair: equal axes, or ones that the output leaves without a name."""
    axes = zip(entering.axes, leaving.axes, strict=False)
    return (
        entering.dtype == leaving.dtype
        and len(entering.axes) == len(leaving.axes)
        and all(a == b or str(b).startswith(f"{leaving.name}.") for a, b in axes)
    )
