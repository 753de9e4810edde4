"""States as inputs and outputs: which arguments are states, and recurrent nodes that start from inputs.

An argument is a state if layers start from it and return its next value, or if an output continues it under
its name. Initial states that ``forward`` does not take become inputs if they depend on sizes alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from lstm_edge_runtime import __version__
from lstm_edge_runtime.axes import describe, parse_sum, shape_of
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import LONGEST, Array, Axes, StateSpec

from ..graph import Builder, constant, describe_value, is_data_free, is_used, walk
from ..pairing import Names, Pairing, is_called_like_a_state, pair_states
from ..recurrent import GATES, LayerWeights, to_onnx_weights, why_window
from ..verify.float64 import Graph64
from .call import Call, Path
from .capture import Program
from .config import ExportConfig
from .projection import Projection, project
from .record import DOMAIN, OP

_VIEWS = frozenset("Cast Concat Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())  # noqa: SIM905
_SLOTS = (1, 2)
"""Where a recorded node's h and c are, among its inputs and among its outputs alike."""
_STATE = "float32"


@dataclass(frozen=True)
class Variables:
    """What the source of ``forward`` calls its arguments and results."""

    returned: Sequence[str]
    """The variables in its ``return``, ``""`` if unknown."""
    unpacked: Mapping[tuple[str, int], str]
    """The variables that it unpacks arguments to, by argument and place."""

    def of(self, path: Path) -> set[str]:
        """Return the variable of a place in a tuple."""
        name = self.unpacked.get((str(path[0]), int(path[-1])), "") if len(path) == 2 else ""
        return {name} - {""}


@dataclass
class Exposed:
    """A graph in float64 whose states are inputs and outputs."""

    model: ir.Model
    titles: tuple[tuple[str, ...], ...] = ()
    """The names of each tensor that ``forward`` returns."""
    states: list[StateSpec] = field(default_factory=list)
    """Those that are arguments of ``forward`` first."""
    lengths: str | None = None
    """The input with each row's number of steps."""
    unstreamable: str = ""
    """Why no chunk can follow another, where the layers tell."""
    notes: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> list[ir.Value]:
        """The graph's outputs that are not states."""
        states = {state.output for state in self.states}
        return [value for value in self.model.graph.outputs if value.name not in states]


def expose_states(
    model: ir.Model, program: Program, call: Call, config: ExportConfig, variables: Variables
) -> Exposed:
    """Name the outputs, make states inputs and outputs, and lower the recurrent nodes, in place.

    Args:
        model: the graph as ``lower`` gives it.
        program: what was traced.
        call: how ``forward`` is called.
        config: the user's names and states, which win.
        variables: what ``forward`` calls its arguments and results.

    Raises:
        InputError: the config names what is not there, or it takes the user to tell which output continues a
            state.
        UnsupportedError: a layer's weights are computed from the network's inputs.
    """
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OP)]
    exposed = Exposed(model, lengths=_find_lengths(model, nodes, config.lengths))
    window = _why_window(program) if program.sequence is None else ""
    found = _pair_arguments(model, nodes, program, call, config, variables, bool(window))
    pairs = dict(found.pairs)
    _name_outputs(exposed, program, config, pairs)
    exposed.notes += _no_states(found, exposed, program)
    pairs = pairs if config.states is None else _given_pairs(model, config.states)
    for name, place in pairs.items():
        output = exposed.titles[place][0]
        exposed.states.append(StateSpec(name, output, _dtype(model, name), program.axes[name]))
    free = {} if config.stateless or window else _free_starts(model, nodes, program)
    exposed.notes += _unused_layers(nodes, program)
    for node in nodes:
        _lower(node, exposed, free, program, alone=len(nodes) == 1)
    _return_states(exposed)
    exposed.unstreamable = window or _why_backwards(program, nodes)
    if window:
        exposed.notes.append(
            f"no states are carried from call to call: {window}; to stream, let the layers run over an axis "
            "with a name, such as L in --input x=N,L,3"
        )
    exposed.notes += [
        f"{value.name} changes nothing: no output depends on it"
        for value in model.graph.inputs
        if not is_used(value)
    ]
    _tidy(model)
    return exposed


def sources(value: ir.Value) -> set[ir.Value]:
    """Follow ``value`` back through views to where it comes from; constants are left out."""

    def viewed(each: ir.Value) -> Sequence[ir.Value]:
        node = each.producer()
        if node is None or node.op_type not in _VIEWS:
            return ()
        data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        return [entry for entry in data if entry is not None]

    return {
        each
        for each in walk([value], viewed)
        if not each.is_initializer()
        and ((node := each.producer()) is None or node.op_type not in {*_VIEWS, "Constant"})
    }


def _dtype(model: ir.Model, name: str) -> str:
    value = next(each for each in model.graph.inputs if each.name == name)
    found = _STATE if value.dtype is None else str(value.dtype.numpy().name)
    return _STATE if found == "float64" else found


def _find_lengths(model: ir.Model, nodes: Sequence[ir.Node], given: str | None) -> str | None:
    inputs = {str(value.name): value for value in model.graph.inputs}
    if given is not None:
        if given not in inputs:
            raise InputError(f"lengths {given!r}: the inputs are {', '.join(inputs)}")
        value = inputs[given]
        integer = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
        if not integer or value.shape is None or len(value.shape) != 1:
            raise InputError(f"lengths {given!r}: expected an input of one whole number a row")
        return given
    read = (source for node in nodes if node.inputs[3] is not None for source in sources(node.inputs[3]))
    return next((str(each.name) for each in read if each.is_graph_input()), None)


def _unused_layers(nodes: Sequence[ir.Node], program: Program) -> list[str]:
    used = {node.attributes["path"].as_string() for node in nodes}
    paths = dict.fromkeys(call.path for call in program.calls if call.path not in used)
    return [f"layer {path!r}: nothing uses its result, it is not in the file" for path in paths]


def _why_window(program: Program) -> str:
    for call in program.calls:
        if not call.cell and call.steps != 1:
            return why_window(f"layer {call.path or 'rnn'}", call.steps)
    return ""


def _why_backwards(program: Program, nodes: Sequence[ir.Node]) -> str:
    both = [node for node in nodes if node.attributes["directions"].as_int() == 2]
    if not both or program.sequence is None:
        return ""
    return f"layer {both[0].attributes['path'].as_string() or 'rnn'} is bidirectional"


def _pair_arguments(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    program: Program,
    call: Call,
    config: ExportConfig,
    variables: Variables,
    window: bool,
) -> Pairing:
    """Return the arguments that are states, with the output that continues each, and what may be more.

    A pair is certain where nothing but views lies between an input and layers, and between these layers and
    an output; names decide on others.
    """
    if config.states is not None or window:
        return Pairing()
    known = _layer_states(model, nodes)
    lengths = _find_lengths(model, nodes, config.lengths)
    starts = [
        str(value.name)
        for value in model.graph.inputs
        if any(
            (start := node.inputs[slot]) is not None and sources(start) == {value}
            for node in nodes
            for slot in _SLOTS
        )
    ]
    unknown = [value for value in model.graph.inputs if value.name not in known]
    if len(unknown) < 2 and not any(is_called_like_a_state(str(value.name)) for value in unknown):
        return Pairing(known)
    outputs = {
        place: {name}
        for place, (own, _) in enumerate(program.outputs)
        if (name := own or (config.outputs[place] if config.outputs else "") or variables.returned[place])
    }
    inputs = {
        name: {name} | ({path[-1]} if isinstance(path[-1], str) else variables.of(path))
        for name, path in zip(call.names, call.paths, strict=True)
    }
    for value, (_, axes) in zip(model.graph.outputs, program.outputs, strict=True):
        value.shape = ir.Shape(axes) if value.producer() is not None else value.shape
    found = pair_states(
        model.graph,
        known,
        [Names(inputs, outputs)],
        positional=call.positional,
        starts=starts,
        plain={lengths} if lengths else (),
        sequence=program.sequence,
    )
    for name, places in found.unclear.items():
        candidates = ", ".join(program.outputs[place][0] or f"output {place}" for place in places)
        value = next(each for each in model.graph.inputs if each.name == name)
        raise InputError(
            f"which output continues the state {describe_value(value)}? candidates: {candidates}; name every "
            "state with states= (--state INPUT=OUTPUT), or return it under the argument's name"
        )
    return found


def _no_states(found: Pairing, exposed: Exposed, program: Program) -> Iterator[str]:
    """Yield a note for each input that may be a state and is taken for none."""
    values = {str(value.name): value for value in exposed.model.graph.inputs}
    for name, places in found.unnamed.items():
        every = {**found.pairs, name: places[0]}
        options = " ".join(f"--state {each}={exposed.titles[place][0]}" for each, place in every.items())
        yield f"{name} stays an input; if it is a state, name all states (states=): {options}"
    for name, value in values.items():
        axes = program.axes[name]
        if name in found.pairs or not is_used(value):
            continue
        if is_called_like_a_state(name) and program.sequence in axes:
            fixed = ",".join("8" if axis == program.sequence else str(axis) for axis in axes)
            yield (
                f"{name} {describe(axes)} stays an input, as axis {program.sequence} is taken for time; if "
                f"it is a state, give that axis as a number, such as --input {name}={fixed} (inputs=)"
            )
        elif name in found.ended:
            yield (
                f"{name} {describe(axes)} looks like a state and stays an input: no output of that dtype "
                "and shape depends on it; return its next value, so that calls can follow one another"
            )


def _layer_states(model: ir.Model, nodes: Sequence[ir.Node]) -> dict[str, int]:
    """Return the inputs that layers start from, and the place of the output that their last states reach."""
    ends = [sources(value) for value in model.graph.outputs]
    pairs: dict[str, int] = {}
    for value in model.graph.inputs:
        last = {
            node.outputs[slot]
            for node in nodes
            for slot in _SLOTS
            if (start := node.inputs[slot]) is not None and sources(start) == {value}
        }
        place = next(
            (i for i, end in enumerate(ends) if last and end == last and i not in pairs.values()), None
        )
        if place is not None:
            pairs[str(value.name)] = place
    return pairs


def _given_pairs(model: ir.Model, states: Mapping[str, str]) -> dict[str, int]:
    inputs, outputs = (
        [str(value.name) for value in side] for side in (model.graph.inputs, model.graph.outputs)
    )
    for name, output in states.items():
        if name not in inputs or output not in outputs:
            raise InputError(
                f"state {name} -> {output}: the inputs are {', '.join(inputs)} and the outputs "
                f"{', '.join(outputs)}"
            )
    return {name: outputs.index(output) for name, output in states.items()}


def _name_outputs(exposed: Exposed, program: Program, config: ExportConfig, pairs: Mapping[str, int]) -> None:
    """Name outputs as the user or the module does, else ``h_n`` for the state ``h_0``, else ``output``."""
    graph, names = exposed.model.graph, list(config.outputs)
    inputs = {str(value.name) for value in graph.inputs}
    if names and len(names) != len(program.outputs):
        raise InputError(f"{len(names)} output names ({', '.join(names)}) for {len(program.outputs)} outputs")
    if not names:
        partners = {place: _next_name(name, pairs) for name, place in pairs.items()}
        for place, (own, _) in enumerate(program.outputs):
            stem = own or partners.get(place, "output")
            stem = f"{stem}_n" if stem in inputs else stem
            titles = (stem if not number else f"{stem}_{number}" for number in count())
            names.append(next(title for title in titles if title not in names))
    if inputs & {*names} or len(set(names)) < len(names):
        raise InputError(f"the output names {', '.join(names)} repeat or are those of inputs; give others")
    for place, (name, (_, axes)) in enumerate(zip(names, program.outputs, strict=True)):
        if program.sequence is not None and axes.count(program.sequence) > 1:
            raise UnsupportedError(
                f"output {name!r} {describe(axes)} has axis {program.sequence} twice, as attention weights "
                "have; return one time axis, or leave that output out"
            )
        _add_output(exposed.model, graph.outputs[place], name, axes, place)
    exposed.titles = tuple((name,) for name in names)


def _next_name(name: str, others: Mapping[str, int]) -> str:
    """Return the name of the output that continues the state input ``name``: ``h_n`` for ``h_0``.

    Of inputs that are numbered (``hidden_0``, ``hidden_1``) each keeps its number: ``hidden_0_n``.
    """
    stem = name.removesuffix("_0")
    return f"{stem}_n" if f"{stem}_1" not in others else f"{name}_n"


def _add_output(model: ir.Model, value: ir.Value, name: str, axes: Axes, place: int | None = None) -> None:
    """Make a copy of ``value`` an output, or the output at ``place``."""
    node = ir.node("Identity", [value])
    copied = node.outputs[0]
    copied.type, copied.shape, copied.name = value.type, ir.Shape(axes), name
    model.graph.append(node)
    if place is None:
        model.graph.outputs.append(copied)
    else:
        model.graph.outputs[place] = copied


def _return_states(exposed: Exposed) -> None:
    """Give a network whose only results are its states these as outputs, too."""
    states = {state.output: state for state in exposed.states}
    if not all(names[0] in states for names in exposed.titles):
        return
    values = {str(value.name): value for value in exposed.model.graph.outputs}
    taken = {*values, *(str(value.name) for value in exposed.model.graph.inputs)}
    titles = []
    for (name,) in exposed.titles:
        stems = ("output" if not number else f"output_{number}" for number in count())
        title = next(each for each in stems if each not in taken)
        taken.add(title)
        _add_output(exposed.model, values[name], title, states[name].axes)
        titles.append((name, title))
    exposed.titles = tuple(titles)


def _free_starts(
    model: ir.Model, nodes: Sequence[ir.Node], program: Program
) -> dict[ir.Value, float | Array]:
    """Return the initial states that sizes alone decide, and one row of each: its reset value."""
    found = {
        start
        for node in nodes
        for start in node.inputs[1:3]
        if start is not None and not sources(start) & {*model.graph.inputs} and is_data_free(start)
    }
    if not found:
        return {}
    part = ir.from_proto(ir.to_proto(model))
    values = {value.name: value for node in part.graph for value in node.outputs}
    values |= {value.name: value for value in part.graph.initializers.values()}
    del part.graph.outputs[:]
    part.graph.outputs.extend(values[each.name] for each in found)
    common.RemoveUnusedNodesPass()(part)
    run = Graph64(part)
    rows = [run(_zeros(part, program, size)) for size in (1, 2)]
    same: dict[ir.Value, float | Array] = {}
    for each in found:
        one, two = (row[str(each.name)] for row in rows)
        reset = one[:, :1]
        if (two == reset).all():
            equal = bool((reset == reset.flat[0]).all())
            same[each] = float(np.float32(reset.flat[0])) if equal else reset.astype(np.float32)
    return same


def _zeros(model: ir.Model, program: Program, rows: int) -> dict[str, Array]:
    """Return inputs of zeros with ``rows`` rows, every other dynamic axis at its least size."""
    sizes = {name: limits.nearest(1) for name, limits in program.ranges.items()}
    sizes[str(program.batch)] = rows
    return {
        str(value.name): np.zeros(
            shape_of(program.axes[str(value.name)], sizes), value.dtype.numpy() if value.dtype else None
        )
        for value in model.graph.inputs
    }


def _lower(
    node: ir.Node, exposed: Exposed, free: Mapping[ir.Value, Any], program: Program, *, alone: bool
) -> None:
    """Replace a recorded node by one LSTM, GRU or RNN a layer, and make its free states inputs."""
    options: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
    layers, directions = _split_weights(node, options), options["directions"]
    build = Builder(node, options["path"] or options["op"].lower())
    lengths = None if node.inputs[3] is None else build.cast(node.inputs[3], ir.DataType.INT32)
    states = _expose(node, layers, exposed, free, _rows(node, program), alone=alone)
    starts = [states[kind][0] if kind in states else node.inputs["xhc".index(kind)] for kind in "hc"]
    parts = [
        [None] * len(layers)
        if each is None
        else [each]
        if len(layers) == 1
        else build.split(each, [directions] * len(layers), axis=0)
        for each in starts
    ]
    y, ends = node.inputs[0], []
    assert y is not None
    for index, layer in enumerate(layers):
        y, *last = _layer(build, options, index, layer, y, parts[0][index], parts[1][index], lengths)
        ends.append(last)
    joined = [build.concat(list(each), axis=0) for each in zip(*ends, strict=True)]
    for kind, (_, state) in states.items():
        _add_output(exposed.model, joined["hc".index(kind)], state.output, state.axes)
        exposed.states.append(state)
    for old, new in zip(node.outputs, [y, *joined], strict=False):
        new.type, new.shape = old.type, old.shape if old.shape is not None else new.shape
    build.replace([y, *joined])


def _expose(
    node: ir.Node,
    layers: Sequence[Sequence[LayerWeights]],
    exposed: Exposed,
    free: Mapping[ir.Value, Any],
    rows: int | str | None,
    *,
    alone: bool,
) -> dict[str, tuple[ir.Value, StateSpec]]:
    """Make an input of each initial state of ``node`` in ``free``; return them by kind."""
    path, count = node.attributes["path"].as_string(), len(layers) * node.attributes["directions"].as_int()
    width = layers[0][0].w_ih.shape[0] // len(GATES[node.attributes["op"].as_string()])
    widths = {"h": layers[0][0].w_hh.shape[1], "c": width}
    names = _state_names(exposed, "" if alone or not path else f"{path}.")
    inputs, states = exposed.model.graph.inputs, dict[str, tuple[ir.Value, StateSpec]]()
    for kind, start in zip("hc", node.inputs[1:3], strict=True):
        if start is None:
            continue
        if start in free and rows is not None:
            axes: Axes = (count, rows, widths[kind])
            value = ir.val(names[kind][0], ir.DataType.DOUBLE, axes)
            inputs.append(value)
            states[kind] = (value, StateSpec(*names[kind], _STATE, axes, free[start]))
        elif not sources(start) & {*inputs}:
            exposed.notes.append(f"layer {path!r}: its state {kind} stays in the graph")
    return states


def _rows(node: ir.Node, program: Program) -> int | str | None:
    """Return the batch axis of a layer's states; None where no state goes on from call to call.

    That is a layer whose rows are not those of the inputs, or whose steps are not those of the sequence, and
    a cell that is called again in the same ``forward``.
    """
    call = program.calls[node.attributes["call"].as_int()]
    if call.cell and sum(each.path == call.path for each in program.calls) > 1:
        return None
    over_time = {program.sequence, LONGEST} & {*re.findall(r"\w+", str(call.steps))}
    if not (over_time or call.steps == 1):
        return None
    return call.rows if call.rows == 1 or {*parse_sum(str(call.rows))[0]} == {program.batch} else None


def _state_names(exposed: Exposed, prefix: str) -> dict[str, tuple[str, str]]:
    taken = {value.name for value in (*exposed.model.graph.inputs, *exposed.model.graph.outputs)}
    stem = prefix
    for number in count(2):
        if f"{stem}h_0" not in taken and f"{stem}h_n" not in taken:
            break
        stem = f"{prefix.removesuffix('.')}_{number}."
    return {kind: (f"{stem}{kind}_0", f"{stem}{kind}_n") for kind in "hc"}


def _layer(
    build: Builder,
    options: Mapping[str, Any],
    index: int,
    layer: Sequence[LayerWeights],
    x: ir.Value,
    h: ir.Value | None,
    c: ir.Value | None,
    lengths: ir.Value | None,
) -> list[ir.Value]:
    """Build one layer: ``(L, N, I)`` to ``[(L, N, D*P), h_n (D, N, P), c_n (D, N, H)]``."""
    op_type, directions, suffix = options["op"], len(layer), f"l{index}"
    projection: Projection | None = None
    if layer[0].w_hr is not None and h is not None and c is not None:
        projection = project(build, layer, h, c, suffix)
        layer, h, c = projection.layer, projection.hidden, projection.cell
    attributes: dict[str, Any] = {"hidden_size": layer[0].w_ih.shape[0] // len(GATES[op_type])}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if op_type == "GRU":
        attributes["linear_before_reset"] = 1
    if options["activation"] not in ("", "Tanh"):
        attributes["activations"] = [options["activation"]] * directions
    weights = zip("WRB", to_onnx_weights(op_type, layer), strict=True)
    inputs = [None if each is None else build.weight(each, f"{kind}_{suffix}") for kind, each in weights]
    inputs = [x, *inputs, lengths, h, *([c] if op_type == "LSTM" else [])]
    y, *last = build.node(op_type, inputs, attributes, outputs=3 if op_type == "LSTM" else 2, name=suffix)
    if projection is not None:
        y, last[0] = (build.matmul(value, projection.after) for value in (y, last[0]))
        if projection.cell_after is not None:
            last[1] = build.matmul(last[1], projection.cell_after)
    if directions == 1:
        return [build.squeeze(y, 1), *last]
    return [build.reshape(build.transpose(y, (0, 2, 1, 3)), (0, 0, -1)), *last]


def _split_weights(node: ir.Node, options: Mapping[str, Any]) -> list[list[LayerWeights]]:
    """Return each layer's weights, one entry a direction, in float64."""
    arrays = [constant(value) for value in node.inputs[4:]]
    if any(each is None for each in arrays):
        raise UnsupportedError(
            f"layer {options['path']!r}: its weights are computed from the network's inputs; an ONNX "
            "recurrent node needs fixed weights"
        )
    directions, biased = options["directions"], bool(options["biased"])
    each = len(arrays) // (options["layers"] * directions)
    rows = []
    for start in range(0, len(arrays), each):
        w_ih, w_hh, *rest = arrays[start : start + each]
        assert w_ih is not None and w_hh is not None  # noqa: PT018
        b_ih, b_hh = rest[:2] if biased else (None, None)
        rows.append(LayerWeights(w_ih, w_hh, b_ih, b_hh, rest[-1] if len(rest) % 2 else None))
    return [rows[start : start + directions] for start in range(0, len(rows), directions)]


def _tidy(model: ir.Model) -> None:
    """Remove what nothing uses, and every trace of the machine that exported: stacks, paths, notes."""
    _drop_identities(model.graph)
    for clean in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.NameFixPass(),
    ):
        clean(model)
    model.opset_imports.pop(DOMAIN, None)
    model.producer_name, model.producer_version = "lstm-edge", __version__
    model.graph.name, model.opset_imports[""] = "main", 18
    model.metadata_props.clear()


def _drop_identities(graph: ir.Graph) -> None:
    """Remove Identity nodes but those that give a value a second name at the graph's border."""
    for node in list(graph):
        source, value = (node.inputs or [None])[0], node.outputs[0]
        if node.op_type != "Identity" or source is None:
            continue
        if value.is_graph_output():
            if source.is_graph_input() or source.is_initializer() or source.is_graph_output():
                continue
            name, value.name = value.name, None
            source.name, source.shape = name, value.shape
        ir.convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
