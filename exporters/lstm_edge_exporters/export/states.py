"""States as inputs and outputs.

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
from lstm_edge_runtime.axes import describe, shape_of
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import LONGEST, Array, Axes, StateSpec

from ..graph import Builder, UniqueNames, axes_of, constant, is_data_free, spec_of, walk
from ..pairing import is_called_like_a_state
from ..recurrent import GATES, LayerWeights, to_onnx_weights, why_window
from ..verify.float64 import Graph64
from .call import Call
from .capture import Program
from .config import ExportConfig
from .record import DOMAIN, OP

_VIEWS = frozenset("Cast Concat Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())  # noqa: SIM905
_CONDITION_LIMIT = 1000.0
"""Largest condition number of a projection whose pseudo-inverse leaves float32 its digits."""
_SLOTS = (1, 2)  # of h and c among the inputs and among the outputs of a recorded node


@dataclass
class Exposed:
    """A graph in float64 whose states are inputs and outputs."""

    model: ir.Model
    program: Program
    nodes: list[ir.Node]
    """The recorded recurrent calls."""
    titles: tuple[tuple[str, ...], ...] = ()
    """The names of each tensor that ``forward`` returns."""
    states: list[StateSpec] = field(default_factory=list)
    resets: dict[ir.Value, float | Array] = field(default_factory=dict)
    """The initial states that are to be inputs, with their reset values."""
    lengths: str | None = None
    unstreamable: str = ""
    """Why each call is a whole window, if it is."""
    notes: list[str] = field(default_factory=list)


def expose_states(
    model: ir.Model, program: Program, call: Call, config: ExportConfig, returned: Sequence[str]
) -> Exposed:
    """Name the outputs, make states inputs and outputs, and lower the recurrent nodes, in place."""
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OP)]
    read = (source for node in nodes if node.inputs[3] is not None for source in sources(node.inputs[3]))
    lengths = next((str(value.name) for value in read if value.is_graph_input()), None)
    exposed = Exposed(model, program, nodes, lengths=lengths)
    layers = (call for call in program.calls if not call.cell and call.steps != 1 and not program.sequence)
    window = next((why_window(f"layer {call.path or 'rnn'}", call.steps) for call in layers), "")
    pairing = config.states is None and not window
    pairs = _pair_arguments(exposed, call, config, returned) if pairing else {}
    _name_outputs(exposed, config, pairs)
    pairs = pairs if config.states is None else _given_pairs(model, config.states)
    dtypes = {str(value.name): spec_of(value).dtype for value in model.graph.inputs}
    for name, index in pairs.items():
        dtype = dtypes[name].replace("float64", "float32")
        exposed.states.append(StateSpec(name, exposed.titles[index][0], dtype, program.axes[name]))
    exposed.notes += _notes(exposed)
    exposed.resets = {} if config.stateless or window else _reset_values(exposed)
    for node in nodes:
        _expose(exposed, node)
        _lower(node)
    _return_states(exposed)
    exposed.unstreamable = window
    exposed.notes += [f"no states are carried from call to call: {window}"] if window else []
    _tidy(model)
    return exposed


def sources(value: ir.Value) -> set[ir.Value]:
    """Return the values that ``value`` is a view of, without constants."""

    def viewed(value: ir.Value) -> Sequence[ir.Value]:
        node = value.producer()
        if node is None or node.op_type not in _VIEWS:
            return ()
        data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        return [entry for entry in data if entry is not None]

    return {
        source
        for source in walk([value], viewed)
        if not source.is_initializer()
        and ((node := source.producer()) is None or node.op_type not in {*_VIEWS, "Constant"})
    }


def _pair_arguments(
    exposed: Exposed, call: Call, config: ExportConfig, returned: Sequence[str]
) -> dict[str, int]:
    """Return the arguments that are states, with the index of the output that continues each."""
    program = exposed.program
    ends, pairs = [sources(value) for value in exposed.model.graph.outputs], dict[str, int]()
    for value in exposed.model.graph.inputs:
        last = {
            node.outputs[slot]
            for node in exposed.nodes
            for slot in _SLOTS
            if (start := node.inputs[slot]) is not None and sources(start) == {value}
        }
        fitting = (i for i, end in enumerate(ends) if last and end == last and i not in pairs.values())
        if (index := next(fitting, None)) is not None:
            pairs[str(value.name)] = index
    signal = next((name for name in call.names if name not in pairs and not is_called_like_a_state(name)), "")
    titles = zip(program.outputs, config.outputs or [""] * len(returned), returned, strict=False)
    for index, ((key, axes), title, variable) in enumerate(titles):
        for name, path in zip(call.names, call.paths, strict=True):
            named = {key or title or variable} & {name, path[-1]} - {""}
            fits = axes == program.axes[name] and program.sequence not in axes and name != signal
            if named and fits and name not in pairs and index not in pairs.values():
                pairs[name] = index
    return pairs


def _given_pairs(model: ir.Model, states: Mapping[str, str]) -> dict[str, int]:
    sides = model.graph.inputs, model.graph.outputs
    inputs, outputs = ([str(value.name) for value in side] for side in sides)
    for name, output in states.items():
        if name not in inputs or output not in outputs:
            names = f"the inputs are {', '.join(inputs)} and the outputs {', '.join(outputs)}"
            raise InputError(f"state {name} -> {output}: {names}")
    return {name: outputs.index(output) for name, output in states.items()}


def _notes(exposed: Exposed) -> Iterator[str]:
    """Yield a note for each input that may be a state and is none."""
    program = exposed.program
    states, returned = {state.input for state in exposed.states}, {axes for _, axes in program.outputs}
    for index, value in enumerate(exposed.model.graph.inputs):
        name, axes = str(value.name), program.axes[str(value.name)]
        same = index > 0 and axes in returned and program.sequence not in axes and name != exposed.lengths
        if name not in states and (same or is_called_like_a_state(name)):
            yield (
                f"{name} {describe(axes)} may be a state and stays an input: no output has its name; name "
                "all states (--state INPUT=OUTPUT, states=), and give an axis that is no time as a number"
            )


def _name_outputs(exposed: Exposed, config: ExportConfig, pairs: Mapping[str, int]) -> None:
    """Name outputs as the user or the module does, else ``h_n`` for the state ``h_0``, else ``output``."""
    graph, program, names = exposed.model.graph, exposed.program, list(config.outputs)
    inputs = {str(value.name) for value in graph.inputs}
    if names and len(names) != len(program.outputs):
        raise InputError(f"{len(names)} output names ({', '.join(names)}) for {len(program.outputs)} outputs")
    if not names:
        stems = {index: f"{name[0] if name in ('h_0', 'c_0') else name}_n" for name, index in pairs.items()}
        for index, (key, _) in enumerate(program.outputs):
            stem = key or stems.get(index, "output")
            names.append(_unused(f"{stem}_n" if stem in inputs else stem, names))
    if inputs & {*names} or len(set(names)) < len(names):
        raise InputError(f"the output names {', '.join(names)} repeat or are those of inputs; give others")
    values = [*graph.outputs]
    graph.outputs.clear()
    for value, name, (_, axes) in zip(values, names, program.outputs, strict=True):
        if program.sequence is not None and axes.count(program.sequence) > 1:
            raise UnsupportedError(
                f"output {name!r} {describe(axes)} has axis {program.sequence} twice, as attention weights "
                "have; return one time axis, or leave that output out"
            )
        _append_output(graph, value, name, axes)
    exposed.titles = tuple((name,) for name in names)


def _unused(stem: str, taken: Sequence[str]) -> str:
    names = (f"{stem}_{number}" if number else stem for number in count())
    return next(name for name in names if name not in taken)


def _append_output(graph: ir.Graph, value: ir.Value, name: str, axes: Axes) -> None:
    """Make ``value`` an output called ``name``, or a copy of it if its own name is at the graph's border."""
    if value.is_graph_input() or value.is_initializer() or value.is_graph_output():
        node = ir.node("Identity", [value])
        graph.append(node)
        node.outputs[0].type = value.type
        value = node.outputs[0]
    value.name, value.shape = name, ir.Shape(axes)
    graph.outputs.append(value)


def _return_states(exposed: Exposed) -> None:
    """Give a network whose only results are its states these as outputs, too."""
    states, graph = {state.output: state for state in exposed.states}, exposed.model.graph
    if all(name in states for (name,) in exposed.titles):
        values, unique = {value.name: value for value in graph.outputs}, UniqueNames(graph).unique
        exposed.titles = tuple((name, unique("output")) for (name,) in exposed.titles)
        for name, title in exposed.titles:
            _append_output(graph, values[name], title, states[name].axes)


def _reset_values(exposed: Exposed) -> dict[ir.Value, float | Array]:
    """Return one row of each initial state that depends on sizes alone; a number if all are equal."""
    program, graph = exposed.program, exposed.model.graph
    values = (start for node in exposed.nodes for start in node.inputs[1:3] if start is not None)
    starts = {str(start.name): start for start in values if is_data_free(start)}
    if not starts:
        return {}
    part = ir.Model(ir.convenience.extract(graph, [*graph.inputs], [*starts.values()]), ir_version=10)
    sizes = {name: limits.nearest(1) for name, limits in program.ranges.items()} | {str(program.batch): 2}
    specs = map(spec_of, part.graph.inputs)
    feeds = {spec.name: np.zeros(shape_of(program.axes[spec.name], sizes), spec.dtype) for spec in specs}
    resets: dict[ir.Value, float | Array] = {}
    for name, rows in Graph64(part)(feeds).items():
        row = rows[:, :1].astype(np.float32)
        if (rows == rows[:, :1]).all():
            resets[starts[name]] = float(row.flat[0]) if (row == row.flat[0]).all() else row
    return resets


def _expose(exposed: Exposed, node: ir.Node) -> None:
    """Make each initial state of ``node`` that is in ``resets`` an input, and its next value an output."""
    path, graph, rows = node.attributes["path"].as_string(), exposed.model.graph, _rows(node, exposed.program)
    prefix, unique = "" if len(exposed.nodes) == 1 or not path else f"{path}.", UniqueNames(graph).unique
    for slot, kind in zip(_SLOTS, "hc", strict=True):
        start, axes = node.inputs[slot], axes_of(node.outputs[slot]) if slot < len(node.outputs) else ()
        if start in exposed.resets and start is not None and rows is not None:
            names = unique(f"{prefix}{kind}_0"), unique(f"{prefix}{kind}_n")
            state = StateSpec(*names, "float32", (axes[0], rows, axes[2]), exposed.resets[start])
            graph.inputs.append(ir.val(state.input, ir.DataType.DOUBLE, state.axes))
            node.replace_input_with(slot, graph.inputs[-1])
            _append_output(graph, node.outputs[slot], state.output, state.axes)
            exposed.states.append(state)
        elif start is not None and not sources(start) & {*graph.inputs}:
            exposed.notes.append(f"layer {path!r}: its state {kind} stays in the graph")


def _rows(node: ir.Node, program: Program) -> int | str | None:
    """Return the batch axis of a layer's states, None if they do not continue from call to call."""
    call = program.calls[node.attributes["call"].as_int()]
    again = call.cell and sum(other.path == call.path for other in program.calls) > 1
    steps = call.steps == 1 or {program.sequence, LONGEST} & {*re.findall(r"\w+", str(call.steps))}
    rows = call.rows == 1 or {*re.findall(r"[a-zA-Z_]\w*", str(call.rows))} == {program.batch}
    return call.rows if rows and steps and not again else None


def _lower(node: ir.Node) -> None:
    options: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
    layers = _split_weights(node, options)
    count, build = len(layers), Builder(node, options["path"] or options["op"].lower())
    lengths = None if node.inputs[3] is None else build.cast(node.inputs[3], ir.DataType.INT32)
    sizes, axis = np.full(count, options["directions"]), {"axis": 0}
    h, c = (
        [start] * count
        if start is None or count == 1
        else build.node("Split", [start, sizes], axis, outputs=count)
        for start in node.inputs[1:3]
    )
    y, ends = node.inputs[0], []
    for index, layer in enumerate(layers):
        y, *last = _layer(build, options, index, layer, [y, h[index], c[index], lengths])
        ends.append(last)
    joined = [
        values[0] if count == 1 else build.node("Concat", values, axis)[0]
        for values in zip(*ends, strict=True)
    ]
    for old, new in zip(node.outputs, [y, *joined], strict=False):
        assert new is not None
        new.type, new.shape = old.type, old.shape if old.shape is not None else new.shape
        new.name = old.name if old.is_graph_output() else new.name
    build.replace([y, *joined])  # type: ignore[list-item]


def _layer(
    build: Builder, options: Mapping[str, Any], index: int, layer: Sequence[LayerWeights], read: Sequence[Any]
) -> list[ir.Value]:
    """Build one layer: ``x (L, N, I)``, h, c, lengths to ``[(L, N, D*P), h_n (D, N, P), c_n (D, N, H)]``."""
    (x, h, c, lengths), op_type, suffix = read, options["op"], f"l{index}"
    after = None
    if layer[0].w_hr is not None:
        layer, h, after = _project(build, layer, h, suffix)
    attributes: dict[str, Any] = {"hidden_size": layer[0].w_ih.shape[0] // len(GATES[op_type])}
    attributes |= {"direction": "bidirectional"} if len(layer) == 2 else {}
    attributes |= {"linear_before_reset": 1} if op_type == "GRU" else {}
    if options["activation"] == "Relu":
        attributes["activations"] = ["Relu"] * len(layer)
    weights = zip("WRB", to_onnx_weights(op_type, layer), strict=True)
    inputs = [None if array is None else build.weight(array, f"{kind}_{suffix}") for kind, array in weights]
    inputs = [x, *inputs, lengths, h, *([c] if op_type == "LSTM" else [])]
    y, *last = build.node(op_type, inputs, attributes, outputs=3 if op_type == "LSTM" else 2, name=suffix)
    if after is not None:
        y, last[0] = (build.node("MatMul", [value, after])[0] for value in (y, last[0]))
    if len(layer) == 1:
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
    matrices = [weights.w_hr for weights in layer if weights.w_hr is not None]
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
    arrays = [constant(value) for value in node.inputs[4:]]
    if any(array is None for array in arrays):
        raise UnsupportedError(
            f"layer {options['path']!r}: its weights are computed from the network's inputs; an ONNX "
            "recurrent node needs fixed weights"
        )
    directions, rows = options["directions"], []
    size = len(arrays) // (options["layers"] * directions)
    for start in range(0, len(arrays), size):
        w_ih, w_hh, *rest = arrays[start : start + size]
        b_ih, b_hh = rest[:2] if options["biased"] else (None, None)
        rows.append(LayerWeights(w_ih, w_hh, b_ih, b_hh, rest[-1] if len(rest) % 2 else None))  # type: ignore[arg-type]
    return [rows[start : start + directions] for start in range(0, len(rows), directions)]


def _tidy(model: ir.Model) -> None:
    """Remove unused values, and every trace of the machine that exported: stacks, paths, notes."""
    unused = common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
    clean = common.ClearMetadataAndDocStringPass(), common.NameFixPass()
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), unused, common.RemoveUnusedOpsetsPass(), *clean)(
        model
    )
    model.opset_imports.pop(DOMAIN, None)
    model.producer_name, model.producer_version = "lstm-edge", __version__
    model.graph.name, model.opset_imports[""] = "main", 18
    model.metadata_props.clear()
