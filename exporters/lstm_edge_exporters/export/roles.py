"""What each input and output of a traced graph is: a signal, a state, the lengths; and their names.

Read off the graph while its recurrent layers are still one node each: an input is a state where it reaches
a layer's initial state through nothing but views, and its partner is the output that the same layers' last
states reach in the same way. Of all others the names and the graph decide; see ``pairing``.

A tuple has no names, and its order says nothing. The variables that held its tensors do: in ``h, c = hidden``
and ``return y, (c, h)``. They are seen by running ``forward`` once on the example, line by line.
"""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from itertools import count as count_from
from types import FrameType
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from lstm_edge_runtime.errors import InputError

from ..graph import axes_of, describe_value, is_used, operands, walk
from ..numerics.reference import AllFloats, Path, Signature, output_paths
from ..pairing import Names, Pairing, is_called_like_a_state, pair_states
from .config import ExportConfig
from .record import OP
from .request import Request
from .source import is_own, watching
from .trace import Traced

_VIEWS = frozenset(
    "Cast Concat Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)
_Key = tuple[int, int, int]
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
    notes: tuple[str, ...]
    """Inputs that may be states and are not treated as such."""
    starts_given: bool
    """Whether every layer starts from inputs alone."""


def find_roles(traced: Traced, request: Request) -> Roles:
    """Read the roles off a traced graph before it is lowered; the user's own words on names and states win.

    Raises:
        InputError: the config names an input or output that is not there, or it takes the user's word to tell
            which output continues a state.
    """
    model, names, config, signature = traced.model, traced.outputs, request.config, request.signature
    inputs = {str(value.name): value for value in model.graph.inputs}
    nodes = [node for node in model.graph if node.op_type == OP]
    batch, sequence = _find_axes(inputs, nodes, config)
    lengths, fractions = _find_lengths(inputs, nodes, config.lengths), _find_fractions(nodes)
    notes: tuple[str, ...] = ()
    if config.states is None:
        known, starts = _find_layer_states(model, nodes)
        unknown = inputs.keys() - known.keys()
        found = Pairing(known)
        if len(unknown) > 1 or any(map(is_called_like_a_state, unknown)):
            outputs = {place: {name} for place, name in enumerate(config.outputs)}
            pair = partial(
                pair_states,
                model.graph,
                known,
                [*_find_names(request.copy(), signature), Names({name: {name} for name in inputs}, outputs)],
                positional=signature.positional,
                starts=starts,
                plain={*fractions, *([lengths] if lengths else [])},
            )
            found = pair(sequence=sequence)
            if not nodes and sequence:  # a guess, as no layer reads time
                notes = tuple(_over_time(inputs, sequence, found, pair(sequence=None)))
        options = _Options(model, found, _name_outputs(model, names, config, {}))
        options.refuse_unclear()
        named = _name_outputs(model, names, config, found.pairs)
        states = {name: named[place] for name, place in found.pairs.items()}
        notes = (*notes, *options.notes(), *_ended(model, found), *_unused(inputs))
    else:
        named, states = _name_outputs(model, names, config, {}), dict(config.states)
        _check_states(states, inputs, named)
    return Roles(
        named,
        states,
        lengths,
        batch,
        sequence,
        tuple(dict.fromkeys(_path(node) for node in nodes if node.attributes["directions"].as_int() == 2)),
        fractions,
        notes,
        all(
            _is_given(start) for node in nodes for slot in _SLOTS if (start := node.inputs[slot]) is not None
        ),
    )


def _path(node: ir.Node) -> str:
    return node.attributes["path"].as_string()


def _check_states(states: Mapping[str, str], inputs: Collection[str], outputs: Collection[str]) -> None:
    for name, output in states.items():
        if name not in inputs or output not in outputs:
            raise InputError(
                f"state {name} -> {output}: the inputs are {', '.join(inputs)} and the outputs "
                f"{', '.join(outputs)}"
            )


def _find_layer_states(model: ir.Model, nodes: Sequence[ir.Node]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the place of the output that is a layer's last state, and every input that layers start from.

    Such a pair is certain: nothing but views lies between input and layer, and between layer and output.
    """
    ends = [_sources(value) for value in model.graph.outputs]
    pairs: dict[str, int] = {}
    starts: list[str] = []
    for value in model.graph.inputs:
        slots = {
            node.outputs[slot]
            for node in nodes
            for slot in _SLOTS
            if (start := node.inputs[slot]) is not None and _sources(start) == {value}
        }
        if slots:
            starts.append(str(value.name))
        place = next((i for i, end in enumerate(ends) if end == slots and i not in pairs.values()), None)
        if slots and place is not None:
            pairs[str(value.name)] = place
    return pairs, tuple(starts)


@dataclass(frozen=True)
class _Options:
    """The ``--state`` options that settle which inputs are states."""

    model: ir.Model
    found: Pairing
    outputs: Sequence[str]
    """The names of outputs if the states are given."""

    def refuse_unclear(self) -> None:
        """Raise ``InputError`` where several outputs could continue a state."""
        if not self.found.unclear:
            return
        inputs = {str(value.name): value for value in self.model.graph.inputs}
        name, places = next(iter(self.found.unclear.items()))
        candidates = ", ".join(self.outputs[place] for place in places)
        every: dict[str, int] = {}
        for each, some in self.found.unclear.items():
            every[each] = next((place for place in some if place not in every.values()), some[0])
        raise InputError(
            f"which output continues the state {describe_value(inputs[name])}? candidates: {candidates}; "
            f"name all states, such as {self._all(every)} (states=)"
        )

    def notes(self) -> Iterator[str]:
        """Return a note for each input that is not called like a state and may be one."""
        for name in self.found.by_name:
            yield (
                f"{name} is taken for a state, as forward returns it by the same name; if it is none, name "
                f"all states (states=): {self._all({}, but=name) or 'none'}"
            )
        for name, places in self.found.unnamed.items():
            which = " or ".join(self.outputs[place] for place in places)
            yield (
                f"{name} stays an input; if it is a state, which {which} continues, name all states: "
                f"{self._all({name: places[0]})} (states=)"
            )

    def _all(self, more: Mapping[str, int], but: str = "") -> str:
        pairs = {**self.found.pairs, **more}
        return " ".join(
            f"--state {name}={self.outputs[place]}" for name, place in pairs.items() if name != but
        )


def _ended(model: ir.Model, found: Pairing) -> Iterator[str]:
    """Return a note for each state that no output continues."""
    values = {str(value.name): value for value in model.graph.inputs}
    for name in found.ended:
        if sum(isinstance(axis, str) for axis in axes_of(values[name])) > 1:
            continue  # more than its batch is dynamic
        yield (
            f"{describe_value(values[name])} looks like a state and stays an input: no output of that dtype "
            "and shape depends on it; return its next value, so that calls can follow one another"
        )


def _over_time(
    inputs: Mapping[str, ir.Value], sequence: str, found: Pairing, anywhere: Pairing
) -> Iterator[str]:
    """Return a note for each state among ``anywhere`` that was none because of its time axis."""
    for name in {**anywhere.pairs, **anywhere.unclear}:
        if name not in found.pairs and sequence in axes_of(inputs[name]):
            axes = ",".join("8" if axis == sequence else str(axis) for axis in axes_of(inputs[name]))
            yield (
                f"{describe_value(inputs[name])} stays an input, as axis {sequence} is taken for time; if it "
                f"is a state, give that axis as a number, such as --input {name}={axes} (inputs=)"
            )


def _unused(inputs: Mapping[str, ir.Value]) -> Iterator[str]:
    for name, value in inputs.items():
        if not is_used(value):
            yield f"{name} changes nothing: no output depends on it"


def _sources(value: ir.Value) -> set[ir.Value]:
    """Follow ``value`` back through views to where it comes from; constants are left out."""

    def viewed(each: ir.Value) -> Iterator[ir.Value]:
        node = each.producer()
        if node is not None and node.op_type in _VIEWS:
            data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            yield from (entry for entry in data if entry is not None)

    return {
        each
        for each in walk([value], viewed)
        if not each.is_initializer()
        and ((node := each.producer()) is None or node.op_type not in {*_VIEWS, "Constant"})
    }


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
    named = (axis for value in inputs.values() for axis in axes_of(value) if isinstance(axis, str))
    known = list(dict.fromkeys(named))
    if not nodes:
        return tuple(name if name in known else None for name in (config.batch, config.sequence))  # type: ignore[return-value]
    times, batches = (_axes_seen(known, nodes, place) for place in (0, 1))
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


def _axes_seen(known: Sequence[str], nodes: Sequence[ir.Node], place: int) -> list[str]:
    """Return the named axes in an axis of what layers read, those with lengths first: they count steps."""
    seen: dict[str, None] = {}
    for node in sorted(nodes, key=lambda node: node.inputs[3] is None):
        assert node.inputs[0] is not None
        words = re.findall(r"\w+", " ".join(map(str, axes_of(node.inputs[0])[place : place + 1])))
        seen |= dict.fromkeys(name for name in known if name in words)
    return list(seen)


def _find_fractions(nodes: Sequence[ir.Node]) -> tuple[str, ...]:
    above = walk((value for node in nodes if (value := node.inputs[3]) is not None), operands)
    return tuple(
        str(value.name)
        for value in above
        if value.is_graph_input() and value.dtype == ir.DataType.FLOAT and len(value.shape or ()) == 1
    )


def _find_lengths(inputs: Mapping[str, ir.Value], nodes: Sequence[ir.Node], given: str | None) -> str | None:
    if given is not None and given not in inputs:
        raise InputError(f"lengths {given!r}: the inputs are {', '.join(inputs)}")
    if given is not None and not _is_count(inputs[given]):
        raise InputError(f"lengths {given!r}: expected an input of one whole number a row")
    if given:
        return given
    read = (source for node in nodes if node.inputs[3] is not None for source in _sources(node.inputs[3]))
    found = (str(source.name) for source in read if source.is_graph_input())
    return next(found, None)


def _is_count(value: ir.Value) -> bool:
    integer = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return integer and value.shape is not None and len(value.shape) == 1


def _output_name(name: str, others: Collection[str]) -> str:
    """Return the name of the output that continues the state input ``name``: ``h_n`` for ``h_0``.

    Of inputs that are numbered (``hidden_0``, ``hidden_1``) each keeps its number: ``hidden_0_n``.
    """
    stem = name.removesuffix("_0")
    return f"{stem}_n" if f"{stem}_1" not in others else f"{name}_n"


def _name_outputs(
    model: ir.Model, names: Sequence[str], config: ExportConfig, states: Mapping[str, int]
) -> tuple[str, ...]:
    count, inputs = len(model.graph.outputs), {value.name for value in model.graph.inputs}
    if config.outputs and len(config.outputs) != count:
        raise InputError(
            f"{len(config.outputs)} output names ({', '.join(config.outputs)}) for {count} outputs"
        )
    chosen = list(config.outputs)
    if not chosen:
        partners = {place: _output_name(name, states) for name, place in states.items()}
        for place, name in enumerate(names):
            stem = name or partners.get(place, "output")
            stem = f"{stem}_n" if stem in inputs else stem
            titles = chain([stem], (f"{stem}_{again}" for again in count_from(1)))
            chosen.append(next(title for title in titles if title not in chosen))
    if inputs & {*chosen} or len(set(chosen)) < count:
        raise InputError(f"the output names {', '.join(chosen)} repeat or are those of inputs; give others")
    return tuple(chosen)


def _find_names(module: nn.Module, signature: Signature) -> list[Names]:
    """Return what ``forward`` calls its arguments and results, then what each function that it calls does.

    A result is called as its key or field; one in a tuple as the variables that hold it at the end.

    Args:
        module: a float32 copy in eval mode.
        signature: its inputs and an example that it takes.
    """
    inputs = [tensor.clone() for tensor in signature.example]
    calls: list[_Call] = []

    def enter(frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG001
        if not is_own(frame.f_code.co_filename):
            return None
        calls.append(_Call())
        return calls[-1].look

    with torch.no_grad(), warnings.catch_warnings(), AllFloats(torch.float32), watching(enter):
        warnings.simplefilter("ignore")
        flat = list(output_paths(signature.call(module, inputs)))
    before = {_key(tensor): name for tensor, name in zip(inputs, signature.names, strict=True)}
    after: dict[_Key, list[int]] = {}
    for place, (_, tensor) in enumerate(flat):
        after.setdefault(_key(tensor), []).append(place)
    forward, *inner = [call.names(before, after) for call in calls] or [Names({}, {})]
    whole = Names(
        {
            name: _names_in(path) | forward.inputs.get(name, set())
            for name, path in zip(signature.names, signature.paths, strict=True)
        },
        {place: _names_in(path) or forward.outputs.get(place, set()) for place, (path, _) in enumerate(flat)},
    )
    return [whole, *inner]


def _names_in(path: Path) -> set[str]:
    """Return what a key, a field or a parameter says; a place in a tuple or list says nothing."""
    return set() if not path or isinstance(path[-1], int) else {"_".join(map(str, path)), str(path[-1])}


def _key(tensor: Tensor) -> _Key:
    """Return the same for a tensor and for views of it that hold all of its elements in place."""
    if tensor.layout is not torch.strided:
        return id(tensor), 0, 0
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.numel()


class _Call:
    """The tensors that the variables of one call held."""

    def __init__(self) -> None:
        self._held: dict[str, list[Tensor]] = {}  # which keeps their memory from being used again

    def look(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002
        for name, value in frame.f_locals.items():
            if isinstance(value, Tensor):
                held = self._held.setdefault(name, [])
                if not held or held[-1] is not value:
                    held.append(value)
        return self.look

    def names(self, before: dict[_Key, str], after: dict[_Key, list[int]]) -> Names:
        """Name each input by every variable that held it, each output by those that held it at the end."""
        inputs: dict[str, set[str]] = {}
        outputs: dict[int, set[str]] = {}
        for name, held in self._held.items():
            for tensor in held:
                if (known := before.get(_key(tensor))) is not None:
                    inputs.setdefault(known, set()).add(name)
            for place in after.get(_key(held[-1]), ()):
                outputs.setdefault(place, set()).add(name)
        return Names(inputs, outputs)
