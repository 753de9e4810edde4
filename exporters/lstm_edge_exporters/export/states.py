"""States as inputs and outputs: which arguments are states, and recurrent nodes that start from inputs.

An argument is a state if layers start from it and return its next value, or if an output continues it under
its name. Initial states that ``forward`` does not take become inputs if they depend on sizes alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from lstm_edge_runtime import __version__
from lstm_edge_runtime.axes import describe, parse_sum, shape_of
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import LONGEST, Array, Axes, StateSpec

from ..graph import Builder, axes_of, constant, is_data_free, spec_of, walk
from ..pairing import is_called_like_a_state
from ..recurrent import GATES, LayerWeights, to_onnx_weights, why_window
from ..verify.float64 import Graph64
from .call import Call
from .capture import Program
from .config import ExportConfig
from .record import DOMAIN, OP

_VIEWS = frozenset("Cast Concat Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())  # noqa: SIM905
_SLOTS = (1, 2)
"""Where a recorded node's h and c are, among its inputs and among its outputs alike."""
_CONDITION_LIMIT = 1000.0
"""Up to this condition number of a projection its pseudo-inverse leaves float32 its digits."""


@dataclass
class Exposed:
    """A graph in float64 whose states are inputs and outputs."""

    model: ir.Model
    titles: tuple[tuple[str, ...], ...] = ()
    """The names of each tensor that ``forward`` returns."""
    states: list[StateSpec] = field(default_factory=list)
    lengths: str | None = None
    unstreamable: str = ""
    """Why no chunk can follow another, where the layers tell."""
    notes: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> list[ir.Value]:
        """The graph's outputs that are not states."""
        states = {state.output for state in self.states}
        return [value for value in self.model.graph.outputs if value.name not in states]


def expose_states(
    model: ir.Model, program: Program, call: Call, config: ExportConfig, returned: Sequence[str]
) -> Exposed:
    """Name the outputs, make states inputs and outputs, and lower the recurrent nodes, in place.

    The names and states of ``config`` win; ``returned`` are the variables that ``forward`` returns.

    Raises:
        InputError: the config names what is not there, or the user must tell which output continues a state.
        UnsupportedError: a layer's weights are computed from the network's inputs.
    """
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OP)]
    read = (source for node in nodes if node.inputs[3] is not None for source in sources(node.inputs[3]))
    exposed = Exposed(
        model, lengths=next((str(value.name) for value in read if value.is_graph_input()), None)
    )
    layers = (call for call in program.calls if not call.cell and call.steps != 1 and not program.sequence)
    window = next((why_window(f"layer {call.path or 'rnn'}", call.steps) for call in layers), "")
    plain = config.states is not None or bool(window)
    pairs = {} if plain else _pair_arguments(exposed, nodes, program, call, config, returned)
    _name_outputs(exposed, program, config, pairs)
    pairs = pairs if config.states is None else _given_pairs(model, config.states)
    dtypes = {str(value.name): spec_of(value).dtype for value in model.graph.inputs}
    for name, place in pairs.items():
        dtype = dtypes[name].replace("float64", "float32")
        exposed.states.append(StateSpec(name, exposed.titles[place][0], dtype, program.axes[name]))
    exposed.notes += _notes(exposed, nodes, program)
    free = {} if config.stateless or window else _free_starts(model, nodes, program)
    for node in nodes:
        _lower(node, exposed, free, program, alone=len(nodes) == 1)
    _return_states(exposed)
    exposed.unstreamable = window or _why_no_chunks(exposed, program, nodes)
    if window:
        exposed.notes.append(f"no states are carried from call to call: {window}")
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


def _starts(nodes: Sequence[ir.Node], value: ir.Value) -> set[ir.Value]:
    """Return the last states of the layers that start from ``value``."""
    return {
        node.outputs[slot]
        for node in nodes
        for slot in _SLOTS
        if (start := node.inputs[slot]) is not None and sources(start) == {value}
    }


def _why_no_chunks(exposed: Exposed, program: Program, nodes: Sequence[ir.Node]) -> str:
    if program.sequence is None:
        return ""
    for node in nodes:
        if node.attributes["directions"].as_int() == 2:
            return f"layer {node.attributes['path'].as_string() or 'rnn'} is bidirectional"
    for value in exposed.outputs:
        merged = [axis for axis in axes_of(value) if {program.batch, program.sequence} <= _words(axis)]
        if merged:
            return (
                f"output {value.name} has rows and steps on one axis, {merged[0]}; return it with an axis "
                "for each, such as output.view(L, N, -1)"
            )
    return ""


def _words(axis: object) -> set[str]:
    return {*re.findall(r"\w+", str(axis))}


def _pair_arguments(
    exposed: Exposed,
    nodes: Sequence[ir.Node],
    program: Program,
    call: Call,
    config: ExportConfig,
    returned: Sequence[str],
) -> dict[str, int]:
    """Return the arguments that are states, with the place of the output that continues each.

    Layers start from one and return its next value, or an output of its shape has its name. The signal, which
    is the first argument that is not called like a state, is none.
    """
    pairs = _layer_states(exposed.model, nodes)
    signal = next((name for name in call.names if name not in pairs and not is_called_like_a_state(name)), "")
    titles = zip(program.outputs, config.outputs or [""] * len(returned), returned, strict=False)
    for place, ((own, axes), title, variable) in enumerate(titles):
        for name, path in zip(call.names, call.paths, strict=True):
            named = {own or title or variable} & {name, path[-1]} - {""}
            fits = axes == program.axes[name] and program.sequence not in axes and name != signal
            if named and fits and name not in pairs and place not in pairs.values():
                pairs[name] = place
    return pairs


def _layer_states(model: ir.Model, nodes: Sequence[ir.Node]) -> dict[str, int]:
    """Return the inputs that layers start from, and the place of the output that their last states reach."""
    ends = [sources(value) for value in model.graph.outputs]
    pairs: dict[str, int] = {}
    for value in model.graph.inputs:
        last = _starts(nodes, value)
        places = (i for i, end in enumerate(ends) if last and end == last and i not in pairs.values())
        if (place := next(places, None)) is not None:
            pairs[str(value.name)] = place
    return pairs


def _given_pairs(model: ir.Model, states: Mapping[str, str]) -> dict[str, int]:
    sides = model.graph.inputs, model.graph.outputs
    inputs, outputs = ([str(value.name) for value in side] for side in sides)
    for name, output in states.items():
        if name not in inputs or output not in outputs:
            raise InputError(
                f"state {name} -> {output}: the inputs are {', '.join(inputs)} and the outputs "
                f"{', '.join(outputs)}"
            )
    return {name: outputs.index(output) for name, output in states.items()}


def _notes(exposed: Exposed, nodes: Sequence[ir.Node], program: Program) -> Iterator[str]:
    """Yield what the graph leaves out, and inputs that may be states and are none."""
    used = {node.attributes["path"].as_string() for node in nodes}
    for path in dict.fromkeys(call.path for call in program.calls if call.path not in used):
        yield f"layer {path!r}: nothing uses its result, it is not in the file"
    states, returned = {state.input for state in exposed.states}, {axes for _, axes in program.outputs}
    for place, value in enumerate(exposed.model.graph.inputs):
        name, axes = str(value.name), program.axes[str(value.name)]
        same = place > 0 and axes in returned and program.sequence not in axes and name != exposed.lengths
        if not (value.uses() or value.is_graph_output()):
            yield f"{name} changes nothing: no output depends on it"
        elif name not in states and (same or is_called_like_a_state(name)):
            yield (
                f"{name} {describe(axes)} may be a state and stays an input: no output has its name; name "
                "all states (--state INPUT=OUTPUT, states=), and give an axis that is no time as a number"
            )


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
            names.append(_unused(f"{stem}_n" if stem in inputs else stem, names))
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


def _next_name(name: str, states: Mapping[str, int]) -> str:
    """Return the output of a state: ``h_n`` for ``h_0``, ``hidden_0_n`` for one of several of that stem."""
    stem = name.removesuffix("_0")
    return f"{name}_n" if f"{stem}_1" in states else f"{stem}_n"


def _unused(stem: str, taken: Sequence[str]) -> str:
    names = (f"{stem}_{number}" if number else stem for number in count())
    return next(name for name in names if name not in taken)


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
    if not all(name in states for (name,) in exposed.titles):
        return
    graph = exposed.model.graph
    values = {str(value.name): value for value in graph.outputs}
    taken = [*values, *(str(value.name) for value in graph.inputs)]
    titles = []
    for (name,) in exposed.titles:
        taken.append(title := _unused("output", taken))
        _add_output(exposed.model, values[name], title, states[name].axes)
        titles.append((name, title))
    exposed.titles = tuple(titles)


def _free_starts(
    model: ir.Model, nodes: Sequence[ir.Node], program: Program
) -> dict[ir.Value, float | Array]:
    """Return the initial states that sizes alone decide, and one row of each: its reset value."""
    inputs = {*model.graph.inputs}
    starts = {start for node in nodes for start in node.inputs[1:3] if start is not None}
    found = {start for start in starts if not sources(start) & inputs and is_data_free(start)}
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
        [start] * len(layers)
        if start is None or len(layers) == 1
        else build.node(
            "Split", [start, np.array([directions] * len(layers))], {"axis": 0}, outputs=len(layers)
        )
        for start in starts
    ]
    y, ends = node.inputs[0], []
    assert y is not None
    for index, layer in enumerate(layers):
        y, *last = _layer(build, options, index, layer, [y, parts[0][index], parts[1][index]], lengths)
        ends.append(last)
    joined = [
        each[0] if len(each) == 1 else build.node("Concat", each, {"axis": 0})[0]
        for each in zip(*ends, strict=True)
    ]
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
    path, graph = node.attributes["path"].as_string(), exposed.model.graph
    entries, first = len(layers) * node.attributes["directions"].as_int(), layers[0][0]
    widths = {"h": first.w_hh.shape[1], "c": first.w_ih.shape[0] // len(GATES["LSTM"])}
    taken = [value.name for value in (*graph.inputs, *graph.outputs)]
    prefix = "" if alone or not path else f"{path}."
    stems = (prefix if n == 1 else f"{prefix.removesuffix('.')}_{n}." for n in count(1))
    stem = next(each for each in stems if not {f"{each}h_0", f"{each}h_n"} & {*taken})
    inputs, states = {*graph.inputs}, dict[str, tuple[ir.Value, StateSpec]]()
    for kind, start in zip("hc", node.inputs[1:3], strict=True):
        if start is None:
            continue
        if start in free and rows is not None:
            names, axes = (f"{stem}{kind}_0", f"{stem}{kind}_n"), (entries, rows, widths[kind])
            value = ir.val(names[0], ir.DataType.DOUBLE, axes)
            graph.inputs.append(value)
            states[kind] = (value, StateSpec(*names, "float32", axes, free[start]))
        elif not sources(start) & inputs:
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
    if call.steps != 1 and not {program.sequence, LONGEST} & _words(call.steps):
        return None
    return call.rows if call.rows == 1 or {*parse_sum(str(call.rows))[0]} == {program.batch} else None


def _layer(
    build: Builder,
    options: Mapping[str, Any],
    index: int,
    layer: Sequence[LayerWeights],
    read: Sequence[ir.Value | None],
    lengths: ir.Value | None,
) -> list[ir.Value]:
    """Build one layer: ``x (L, N, I)``, h, c to ``[(L, N, D*P), h_n (D, N, P), c_n (D, N, H)]``."""
    (x, h, c), op_type, suffix = read, options["op"], f"l{index}"
    after = None
    if layer[0].w_hr is not None and h is not None:
        layer, h, after = _project(build, layer, h, suffix)
    directions = len(layer)
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
    if after is not None:
        y, last[0] = (build.node("MatMul", [value, after])[0] for value in (y, last[0]))
    if directions == 1:
        return [build.node("Squeeze", [y, np.array([1])])[0], *last]
    (y,) = build.node("Transpose", [y], {"perm": [0, 2, 1, 3]})
    return [build.node("Reshape", [y, np.array([0, 0, -1])])[0], *last]


def _project(
    build: Builder, layer: Sequence[LayerWeights], h: ir.Value, suffix: str
) -> tuple[list[LayerWeights], ir.Value, ir.Value]:
    """Return a layer without projections, its initial state ``(D, N, H)`` and the matrix behind it.

    PyTorch feeds ``h = W_hr c'`` back. A node that feeds c' itself back computes the same with ``R = W_hh
    W_hr``; it starts from ``pinv(W_hr) h``, and Y and Y_h are to be multiplied by ``W_hr``.
    """
    matrices = [each.w_hr for each in layer if each.w_hr is not None]
    if (worst := max(np.linalg.cond(w) for w in matrices)) > _CONDITION_LIMIT:
        raise UnsupportedError(
            f"a projection of {suffix} (weight_hr) has the condition number {worst:.2g}, at most "
            f"{_CONDITION_LIMIT:g} can be exported; train with a smaller proj_size, or use nn.Linear"
        )
    folded = [replace(w, w_hh=w.w_hh @ w_hr, w_hr=None) for w, w_hr in zip(layer, matrices, strict=True)]
    after = build.weight(np.stack([w.T for w in matrices]), f"P_{suffix}")
    enter = build.weight(np.stack([np.linalg.pinv(w).T for w in matrices]), f"P_{suffix}_in")
    return folded, build.node("MatMul", [h, enter])[0], after


def _split_weights(node: ir.Node, options: Mapping[str, Any]) -> list[list[LayerWeights]]:
    """Return each layer's weights, one entry a direction, in float64."""
    found = [constant(value) for value in node.inputs[4:]]
    arrays = [each for each in found if each is not None]
    if len(arrays) < len(found):
        raise UnsupportedError(
            f"layer {options['path']!r}: its weights are computed from the network's inputs; an ONNX "
            "recurrent node needs fixed weights"
        )
    directions, biased = options["directions"], bool(options["biased"])
    each = len(arrays) // (options["layers"] * directions)
    rows = []
    for start in range(0, len(arrays), each):
        w_ih, w_hh, *rest = arrays[start : start + each]
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
    for node in [node for node in graph if node.op_type == "Identity"]:
        source, value = node.inputs[0], node.outputs[0]
        assert source is not None
        if value.is_graph_output():
            if source.is_graph_input() or source.is_initializer() or source.is_graph_output():
                continue
            name, value.name = value.name, None
            source.name, source.shape = name, value.shape
        ir.convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
