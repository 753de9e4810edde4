"""What each input and output of a traced graph is: a signal, a state, the lengths; and their names.

Read off the graph while its recurrent layers are still one node each: an input is a state where it reaches
a layer's initial state through nothing but views, and its partner is the output that the same layers' last
states reach in the same way. States of a module's own cells are told by name, shape and order.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.graph_check import is_called_like_a_state

from ..graph import axes_of, behind_identity, walk
from .config import ExportConfig
from .record import OP

__all__ = ["Roles", "find_roles"]

_VIEWS = frozenset(
    "Cast Concat Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)
_SLOTS = (1, 2)
"""Where a recorded node's h and c are, among its inputs and among its outputs alike."""


@dataclass(frozen=True)
class Roles:
    """The graph's inputs and outputs, named and sorted by what they are."""

    outputs: tuple[str, ...]
    """A name for every output."""
    states: Mapping[str, str]
    """Input name to output name."""
    lengths: str | None
    batch: str | None
    """The axis that the recurrent layers see as batch."""
    sequence: str | None
    """The axis that they see as time."""
    bidirectional: tuple[str, ...]
    """Paths of layers that read time backwards."""
    fractions: tuple[str, ...]
    """Inputs of floats ``(N,)`` that a layer's lengths are computed from: fractions of the steps."""
    unreturned: tuple[str, ...]
    """Inputs that a layer starts from and whose last state is no output."""
    starts_given: bool
    """Whether every layer starts from inputs alone."""


def find_roles(model: ir.Model, names: Sequence[str], config: ExportConfig) -> Roles:
    """Read the roles off ``model`` before it is lowered.

    Args:
        model: a traced graph.
        names: what the module calls its outputs, ``""`` where it says nothing.
        config: the user's own words on names, states and lengths; they win.

    Raises:
        InputError: the config names an input or output that is not there.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    nodes = [node for node in model.graph if node.op_type == OP]
    batch, sequence = _find_axes(inputs, nodes, config)
    found, unreturned = _find_states(model, nodes) if config.states is None else ({}, ())
    if config.states is None:
        found |= _find_own_states(model, {*found, *unreturned}, {*found.values()}, sequence)
    outputs = _name_outputs(model, names, config, found)
    states = {name: outputs[place] for name, place in found.items()}
    if config.states is not None:
        states = dict(config.states)
        for name, output in states.items():
            if name not in inputs or output not in outputs:
                raise InputError(
                    f"state {name} -> {output}: the inputs are {', '.join(inputs)} and the outputs "
                    f"{', '.join(outputs)}"
                )
    if config.lengths is not None and config.lengths not in inputs:
        raise InputError(f"lengths {config.lengths!r}: the inputs are {', '.join(inputs)}")
    if config.lengths is not None and not _is_count(inputs[config.lengths]):
        raise InputError(f"lengths {config.lengths!r}: expected an input of one whole number a row")
    return Roles(
        outputs,
        states,
        config.lengths or _find_lengths(inputs, nodes),
        batch,
        sequence,
        tuple(
            dict.fromkeys(
                node.attributes["path"].as_string()
                for node in nodes
                if node.attributes["directions"].as_int() == 2
            )
        ),
        _find_fractions(nodes),
        unreturned,
        all(
            _is_given(start) for node in nodes for slot in _SLOTS if (start := node.inputs[slot]) is not None
        ),
    )


def _find_states(model: ir.Model, nodes: Sequence[ir.Node]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the place of the partner output of every input that is a state, and the inputs that lack one."""
    ends = [_sources(value) for value in model.graph.outputs]
    pairs: dict[str, int] = {}
    alone: list[str] = []
    for value in model.graph.inputs:
        slots = {
            node.outputs[slot]
            for node in nodes
            for slot in _SLOTS
            if (start := node.inputs[slot]) is not None and _sources(start) == {value}
        }
        for place, end in enumerate(ends):
            if slots and end == slots and place not in pairs.values():
                pairs[str(value.name)] = place
                break
        if slots and value.name not in pairs:
            alone.append(str(value.name))
    return pairs, tuple(alone)


def _find_own_states(
    model: ir.Model, known: Collection[str], taken: Collection[int], sequence: str | None
) -> dict[str, int]:
    """Pair the states of cells that are no recurrent layer with the places of the outputs that continue them.

    Inputs of one shape without time that are called like states, and the outputs of that shape that depend on
    them, are paired in order where there are as many of the one as of the other. Of an output that is given
    twice the last one counts.

    Args:
        model: a traced graph.
        known: inputs whose role is known.
        taken: places of outputs that continue a state.
        sequence: the time axis.
    """
    entering: dict[tuple[int | str, ...], list[ir.Value]] = {}
    for value in model.graph.inputs:
        axes, name = axes_of(value), str(value.name)
        if name not in known and is_called_like_a_state(name) and value.dtype == ir.DataType.FLOAT:
            entering.setdefault(axes, []).append(value)
    last = {behind_identity(value): place for place, value in enumerate(model.graph.outputs)}
    pairs: dict[str, int] = {}
    for axes, states in entering.items():
        places = [
            place
            for place, value in enumerate(model.graph.outputs)
            if place not in taken
            and value.dtype == ir.DataType.FLOAT
            and axes_of(value) == axes
            and last[behind_identity(value)] == place
        ]
        outputs = {model.graph.outputs[place] for place in places}
        ends = [outputs.intersection(walk([state], _uses)) for state in states]
        if sequence not in axes and len(places) == len(states) and all(ends):
            pairs |= {str(state.name): place for state, place in zip(states, places, strict=True)}
    return pairs


def _uses(value: ir.Value) -> Iterator[ir.Value]:
    """Return what is computed from ``value``."""
    return (output for node, _ in value.uses() for output in node.outputs)


def _sources(value: ir.Value) -> set[ir.Value]:
    """Follow ``value`` back through views to where it comes from; constants are left out."""
    sources: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if current.is_initializer() or (node is not None and node.op_type == "Constant"):
            continue
        if node is None or node.op_type not in _VIEWS:
            sources.add(current)
        else:
            data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            waiting.extend(entry for entry in data if entry is not None)
    return sources


def _is_given(value: ir.Value) -> bool:
    """Return whether nothing but views of one operand lies between an input and ``value``."""
    node = value.producer()
    while node is not None and node.op_type in _VIEWS - {"Concat"} and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value.is_graph_input()


def _find_axes(
    inputs: Mapping[str, ir.Value], nodes: Sequence[ir.Node], config: ExportConfig
) -> tuple[str | None, str | None]:
    """Return the names of the batch and time axes as the layers see them; the config's without layers."""
    known = list(
        dict.fromkeys(axis for value in inputs.values() for axis in axes_of(value) if isinstance(axis, str))
    )
    seen: list[list[str]] = [[], []]
    with_lengths_first = sorted(nodes, key=lambda node: node.inputs[3] is None)
    for node in with_lengths_first:  # lengths count steps of their own layer
        assert node.inputs[0] is not None
        for place, axis in enumerate(axes_of(node.inputs[0])[:2]):
            seen[place] += [name for name in known if name in re.findall(r"\w+", str(axis))]
    times, batches = (list(dict.fromkeys(names)) for names in seen)
    if not nodes:
        return tuple(name if name in known else None for name in (config.batch, config.sequence))  # type: ignore[return-value]
    for own, other, what, meaning in (
        (config.batch, times, "time", batches),
        (config.sequence, batches, "batch", times),
    ):
        if own in other and own not in meaning:
            raise InputError(
                f"axis {own} is what the recurrent layers read as {what}; name the axes in the order that "
                "batch_first says"
            )
    batches = [name for name in batches if name not in times] or batches
    return (batches or [None])[0], (times or [None])[0]  # type: ignore[list-item]


def _find_fractions(nodes: Sequence[ir.Node]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    waiting = [node.inputs[3] for node in nodes]
    seen: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        if value.is_graph_input() and value.dtype == ir.DataType.FLOAT and len(value.shape or ()) == 1:
            found[str(value.name)] = None
        producer = value.producer()
        if producer is not None:
            waiting.extend(producer.inputs)
    return tuple(found)


def _find_lengths(inputs: Mapping[str, ir.Value], nodes: Sequence[ir.Node]) -> str | None:
    for node in nodes:
        if node.inputs[3] is not None:
            for source in _sources(node.inputs[3]):
                if source.is_graph_input():
                    return source.name
    for name, value in inputs.items():
        if _is_count(value) and "len" in name.lower():
            return name
    return None


def _is_count(value: ir.Value) -> bool:
    integer = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return integer and value.shape is not None and len(value.shape) == 1


def _name_outputs(
    model: ir.Model, names: Sequence[str], config: ExportConfig, states: Mapping[str, int]
) -> tuple[str, ...]:
    count = len(model.graph.outputs)
    if config.outputs:
        if len(config.outputs) != count:
            raise InputError(
                f"{len(config.outputs)} output names ({', '.join(config.outputs)}) for {count} outputs"
            )
        chosen = list(config.outputs)
    else:
        from ..lift.state_names import output_name

        partners = {place: output_name(name, states) for name, place in states.items()}
        inputs = {value.name for value in model.graph.inputs}
        chosen = []
        for place, name in enumerate(names):
            stem = name or partners.get(place, "output")
            stem = f"{stem}_n" if stem in inputs else stem
            title, again = stem, 0
            while title in chosen:
                again += 1
                title = f"{stem}_{again}"
            chosen.append(title)
    taken = {value.name for value in model.graph.inputs}
    clash = [name for name in chosen if name in taken]
    if clash or len(set(chosen)) < count:
        raise InputError(f"the output names {', '.join(chosen)} repeat or are those of inputs; give others")
    return tuple(chosen)
