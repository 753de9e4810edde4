"""Which output continues which state input: first names, then structure; positions decide nothing."""

import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from lstm_edge_runtime.axes import fits

from .graph import axes_of, behind_identity, data_inputs, spec_of, walk

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
"""Parts of an input's and of an output's name that alone say that the one comes before the other."""


def pair_states(
    graph: ir.Graph, known: Mapping[str, str], sequence: str | None
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Pair state inputs with the outputs that continue them, of the same dtype and shape.

    An input that is called like a state is paired with the output that shares most of its name (``h_in`` and
    ``h_out``), else with the only one that depends on it.

    Args:
        graph: the graph. Its first input that is not called like a state is the signal.
        known: pairs that are certain, input name to output name.
        sequence: the time axis, which no state has.

    Returns:
        The pairs, and the possible outputs of each input called like a state that has several.
    """
    inputs = {str(input_.name): input_ for input_ in data_inputs(graph) if sequence not in axes_of(input_)}
    called = {name for name in inputs if is_called_like_a_state(name)}
    inputs.pop(next((str(value.name) for value in graph.inputs if value.name not in called), ""), None)
    alike, follows = dict[str, set[str]](), dict[str, set[str]]()
    for name, value in inputs.items():
        spec, reached = spec_of(value), {*walk([value], _uses)} - {value}
        own = {o: end for o, end in _ends(graph, known, sequence).items() if end.dtype == value.dtype}
        alike[name] = {o for o, end in own.items() if fits(spec.axes, axes_of(end))}
        follows[name] = {
            output
            for output in alike[name]
            if own[output] in reached and _may_equal(spec.axes, axes_of(own[output]), output)
        }
    pairs = dict(known)
    pairs |= _most_alike(
        {
            (name, output): _shared_stem(name, output)
            for name, outputs in _left(alike, pairs).items()
            for output in outputs
            if name in called or (re.search(_RENAMED[0], name, re.I) or re.search(_RENAMED[1], output, re.I))
        }
    )
    follows = {name: outputs for name, outputs in follows.items() if name in called}
    while single := _single(_left(follows, pairs)):
        pairs |= single
    unclear = {name: sorted(outputs) for name, outputs in _left(follows, pairs).items() if outputs}
    return {str(value.name): pairs[str(value.name)] for value in graph.inputs if value.name in pairs}, unclear


def is_called_like_a_state(name: str) -> bool:
    """Return True if an input's name says that it is a state: ``h``, ``hx_0``, ``cell_in``."""
    return re.search(_STATE_WORD, name, re.IGNORECASE) is not None


def _ends(graph: ir.Graph, known: Mapping[str, str], sequence: str | None) -> dict[str, ir.Value]:
    """Return the outputs that may continue a state, each value once."""
    last = {behind_identity(value): value for value in graph.outputs}
    taken = {behind_identity(value) for value in graph.outputs if value.name in known.values()}
    free = (value for end, value in last.items() if end not in taken and sequence not in axes_of(value))
    return {str(value.name): value for value in free}


def _may_equal(before: tuple[int | str, ...], after: tuple[int | str, ...], output: str) -> bool:
    """Return True for equal axes, or ones that the output leaves without a name."""
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(a == b or str(b).startswith(f"{output}.") for a, b in pairs)


def _left(choices: Mapping[str, set[str]], pairs: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the choices of inputs without an output yet, among outputs that continue none."""
    return {name: outputs - {*pairs.values()} for name, outputs in choices.items() if name not in pairs}


def _most_alike(shared: Mapping[tuple[str, str], int]) -> dict[str, str]:
    """Return the pairs that share more than any other pair of the same input or output."""

    def rivals(pair: tuple[str, str]) -> Iterator[int]:
        return (n for other, n in shared.items() if other != pair and {*other} & {*pair})

    return dict(pair for pair, length in shared.items() if length > max(rivals(pair), default=0))


def _single(choices: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the inputs that have one output left with it, if no two of them have the same."""
    single = {name: next(iter(outputs)) for name, outputs in choices.items() if len(outputs) == 1}
    return {name: output for name, output in single.items() if [*single.values()].count(output) == 1}


def _uses(value: ir.Value) -> Iterator[ir.Value]:
    """Return the values computed from the numbers of ``value``, and not from its size alone."""
    uses = (node for node, _ in value.uses() if node.op_type not in ("Shape", "Size"))
    return (output for node in uses for output in node.outputs)


def _shared_stem(before: str, after: str) -> int:
    """Return how much of their names an input and an output share: 1 for ``h_0`` and ``h_n``, 0 for none."""
    return max(map(len, _stems(before, _BEFORE) & _stems(after, _AFTER)), default=0)


def _stems(name: str, marks: tuple[str, str]) -> set[str]:
    """Return ``name`` with and without its prefix and its suffix."""
    stems = {name.lower()}
    for mark in marks:
        stems |= {re.sub(mark, "", stem) for stem in stems}
    return stems - {""}
