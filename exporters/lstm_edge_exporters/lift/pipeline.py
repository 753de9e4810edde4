"""The way of a lift: from any recurrent ONNX file to one with explicit states, verified.

Read the graph, name its axes, pair the states that it has, lift the others, verify, write the manifest. Fixed
sizes of the inputs are often a declaration and no more: first they are made dynamic, and what does not verify
then is taken back.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from lstm_edge_runtime import __version__, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    FileFormatError,
    first_line,
)
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array, Manifest, StateSpec, TensorSpec

from ..evaluate import Session, axes_in, case_generator, length_inputs
from ..graph import axes_of, constant, data_inputs, forget_shapes, spec_of, to_proto, with_manifest
from ..isolation import isolated
from ..numerics.verify import ChunkRun, Equivalence
from ..progress import Progress
from ..recurrent import OPERATORS, QUANTIZED, recurrent_nodes, slots, state_shape, why_window
from ..streaming.file import stream_file
from ..streaming.flow import NotStreamableError
from ..streaming.stream import stream
from .axes import BATCH, fixed_roles, free_axes, name_axes
from .branches import choosing_input, decide_branches
from .config import LiftConfig
from .quantized import is_quantized
from .read import read_graph
from .shapes import measure_shapes
from .states import LeftAlone, lift_states, over_time, recognize
from .subgraphs import recurrences
from .table import run_named, sizes_apart
from .verification import LiftedGraph, case_at, verify_lifted

_MOST_NODES = 3
"""Nodes whose states' reasons one error lists."""


@dataclass(frozen=True)
class LiftReport:
    """What a lift did and what was verified."""

    lifted: tuple[StateSpec, ...]
    """States that became inputs and outputs."""
    past: tuple[StateSpec, ...]
    """States that were added: frames of the past that operators along time look back at."""
    recognized: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""
    left: tuple[LeftAlone, ...]
    """States left in the graph, and why."""
    made_dynamic: tuple[str, ...]
    """Axes (``batch``, ``sequence``) that were fixed and are dynamic now."""
    equivalence: Equivalence
    """The lifted file with its states at reset, beside the original."""
    sizes: tuple[str, ...]
    """Sizes at which both were run."""
    by_rows: tuple[str, ...]
    """Sizes that the original can't run, at which it was run row by row."""
    chunks: ChunkRun | None
    """How chunks with the states carried compare with the whole; None where none were run."""
    unstreamable: str
    """Why chunks do not equal the whole; empty where they do."""


@dataclass(frozen=True)
class Lifted:
    """A verified ONNX file with explicit states; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    report: LiftReport
    """What was lifted, what was left, and what was verified."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all.

        Raises:
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


@isolated()
def lift_verified(onnx_file: str | os.PathLike[str] | bytes, config: LiftConfig, show: Progress) -> Lifted:
    """Read, lift, verify; see ``lift``."""
    show(0.0, "reading")
    model, proto, config = read_graph(onnx_file, config)
    attempts = _attempts({} if config.inputs else fixed_roles(model))
    for place, declared in enumerate(attempts):
        part = place / (len(attempts) + 1)
        show(
            0.1 + 0.9 * part,
            f"lifting, with a dynamic {' and '.join(sorted(declared))} axis, and verifying",
        )
        with contextlib.suppress(CheckFailedError, ContractError, FileFormatError):
            return _lift_past(model, proto, config, declared)
    show(0.1 + 0.9 * len(attempts) / (len(attempts) + 1), "lifting and verifying")
    try:
        return _lift_past(model, proto, config, {})
    except (ContractError, FileFormatError) as error:
        if (merged := _with_one_batch(model)) is not None:
            with contextlib.suppress(CheckFailedError, ContractError, FileFormatError):
                return _lift_past(merged, proto, config, {})
        chooses = choosing_input(model)
        if chooses is None or chooses in config.constants:
            raise
        raise type(error)(
            f"input {chooses} chooses a branch; say which by --branch {chooses}=NUMBER ({error})"
        ) from error


def _with_one_batch(model: ir.Model) -> ir.Model | None:
    """Return a copy in which the inputs' first axes are one; None where they are, or one is fixed."""
    copy = model.clone()
    shapes = [value.shape for value in data_inputs(copy.graph) if value.shape]
    first = dict.fromkeys(axes_of(value)[0] for value in data_inputs(copy.graph) if value.shape)
    if len(first) < 2 or any(isinstance(axis, int) for axis in first):
        return None
    for shape in shapes:
        shape[0] = next(iter(first))
    forget_shapes(copy)
    return copy


def _attempts(fixed: Mapping[str, int]) -> list[Mapping[str, int]]:
    """Return which of the axes of fixed sizes to make dynamic, the most first."""
    single = [{role: fixed[role]} for role in sorted(fixed, reverse=True)] if len(fixed) > 1 else []
    return [fixed, *single] if fixed else []


def _lift_past(
    model: ir.Model, proto: onnx.ModelProto, config: LiftConfig, declared: Mapping[str, int]
) -> Lifted:
    """Lift with states of operators along time; without them where the file does not stream by that.

    Args:
        model: the file's graph.
        proto: the file.
        config: the options.
        declared: the axes to make dynamic (``batch``, ``sequence``), and their declared sizes.
    """
    graph = _lift(model, proto, config, declared)
    kept = _keep_past(graph)
    try:
        lifted = _verify(kept, proto, config)
        if not lifted.report.past or not lifted.report.unstreamable:
            return lifted
    except CheckFailedError:
        if kept is graph:
            raise
    return _verify(graph, proto, config)


def _lift(
    model: ir.Model, proto: onnx.ModelProto, config: LiftConfig, declared: Mapping[str, int]
) -> LiftedGraph:
    """Name the axes, and make the states of recurrent nodes inputs and outputs."""
    decided, constants, branched = decide_branches(model, config)
    lifted = free_axes(decided, declared)
    batch, sequence, table = run_named(lifted, *name_axes(lifted, config.inputs, declared))
    known = recognize(lifted, table, config.states, sequence)
    carried = {state.input for state in known}
    steps = table.steps if sequence is None else 1
    original, lengths = lifted.clone(), length_inputs(lifted.graph)
    found = lift_states(
        lifted,
        over_time(lifted, table, batch, sequence),
        table,
        batch=batch,
        carry={str(value.name) for value in data_inputs(original.graph)} - carried,
        declared=declared.get(BATCH),
    )
    return LiftedGraph(
        source=_with_axes_of(model, original) if branched or constants else original,
        constants=constants,
        original=original,
        lifted=lifted,
        manifest=_build_manifest(original, proto, batch, sequence, (*known, *found.states), lengths),
        known=known,
        found=replace(found, left=tuple(each for each in found.left if not each.sources & carried)),
        fixed_batch=max(_fixed_batch(original) if batch else 1, found.fixed_batch or 1),
        declared=declared,
        lengths=lengths,
        steps=steps if found.states else 1,
    )


def _keep_past(graph: LiftedGraph) -> LiftedGraph:
    """Return the graph with the past of its operators along time in states, or with why it has none."""
    manifest = graph.manifest
    try:
        kept = stream(_with_sizes(graph), manifest.states, manifest.batch, manifest.sequence)
    except NotStreamableError as error:
        return replace(graph, refused=error)
    if not kept.ordinary:
        return replace(graph, need=kept.need)
    if not kept.added:
        return graph
    states = kept.states
    manifest = manifest._replace(states=states, precision=_precision(graph.original, states))
    return replace(graph, lifted=kept.model, manifest=manifest, reach=kept.reach)


def _why_window(model: ir.Model, manifest: Manifest) -> str:
    """Return why a call is a window: a layer with a state takes several steps, and no axis is time."""
    named = {axis for spec in manifest.inputs for axis in spec.axes}
    carried = {state.input for state in manifest.states}
    for node in model.graph:
        if carried.isdisjoint(value.name for value in node.inputs if value is not None):
            continue
        x = node.inputs[0]
        if node.op_type in (*OPERATORS, QUANTIZED) and x is not None and x.shape is not None:
            steps = axes_of(x)[node.attributes.get_int("layout", 0)]
            if steps != 1 and (isinstance(steps, int) or steps not in named):
                return why_window(node.op_type, steps)
        carried.update(str(value.name) for value in node.outputs)
    return ""


def _verify(graph: LiftedGraph, proto: onnx.ModelProto, config: LiftConfig) -> Lifted:
    """Verify what was lifted, and write it with its manifest."""
    if not (graph.need and config.stream):
        _refuse(graph, config)
    added = graph.manifest.states[len(graph.known) + len(graph.found.states) :]
    if graph.declared and not graph.found.states and not added and not config.stream:
        raise ContractError("a file that has its states already is not changed")
    session = Session(graph.lifted, "the lifted file")
    manifest = graph.manifest._replace(outputs=_describe_outputs(graph, session, config.seed))
    verified = verify_lifted(replace(graph, manifest=manifest), session, config.seed)
    manifest = manifest._replace(
        unstreamable=graph.need or verified.unstreamable,
        padded_states=verified.padded_states,
        equivalence=verified.figures(),
        golden=verified.golden,
    )
    changed = graph.found.states or added or graph.constants
    proto = to_proto(graph.lifted) if changed else proto
    if config.stream:
        if not graph.need and manifest.unstreamable:
            raise ContractError(f"the network does not stream: {manifest.unstreamable}")
        proto, manifest = _make_stream(replace(graph, manifest=manifest), config.seed)
        added = manifest.states[len(graph.manifest.states) :]
    elif manifest.sequence is None and manifest.streamable:
        manifest = manifest._replace(unstreamable=_why_window(graph.lifted, manifest))
    load(with_manifest(proto, manifest)).close()
    report = LiftReport(
        lifted=graph.found.states,
        past=added,
        recognized=graph.known,
        left=graph.found.left,
        made_dynamic=tuple(sorted(graph.declared)),
        equivalence=verified.equivalence,
        sizes=verified.sizes,
        by_rows=verified.by_rows,
        chunks=verified.chunks,
        unstreamable=manifest.unstreamable,
    )
    return Lifted(with_manifest(proto, manifest), manifest, report)


def _with_sizes(graph: LiftedGraph) -> ir.Model:
    """Return the lifted graph with a symbolic size for every axis."""
    return measure_shapes(graph.lifted, graph.manifest.batch, graph.manifest.sequence)


def _make_stream(graph: LiftedGraph, seed: int) -> tuple[onnx.ModelProto, Manifest]:
    """Return the file that streams the network, and its manifest."""
    manifest = graph.manifest
    cases = case_generator(graph.original.graph, 1, sequence=manifest.sequence, seed=seed)
    made = stream_file(
        _with_sizes(graph),
        manifest,
        replace(cases, batch=manifest.batch),
        lambda model, described: with_manifest(to_proto(model), described),
    )
    return onnx.load_from_string(made.model), made.manifest


def _refuse(graph: LiftedGraph, config: LiftConfig) -> None:
    """Raise ``ContractError`` for a file without states, or with one that can't be carried."""
    left = graph.found.left
    states = graph.manifest.states
    inside = next((entry for entry in left if entry.cause == "subgraph"), None)
    if inside is not None:
        raise ContractError(
            f"{inside.node}: {inside.reason}, so no one input can stand for its state; "
            "carry the state through the loop, or move the node out of it"
        )
    backwards = dict.fromkeys(entry.node for entry in left if entry.cause == "reversed")
    if backwards and not config.skip_reverse:
        raise ContractError(
            f"{', '.join(backwards)} reads time backwards, so no state of it can be carried over; "
            + (
                "lift the other nodes with --skip-reverse (skip_reverse=True)"
                if states
                else "no other node has a state to lift: train a network that reads forward only"
            )
        )
    if not states:
        raise ContractError(_why_stateless(graph))


def _why_stateless(graph: LiftedGraph) -> str:
    if graph.found.left:
        return f"there is no state to lift: {'; '.join(_reasons(graph.found.left))}"
    if graph.refused or graph.need:
        return f"there is no state to lift: {graph.refused or graph.need}"
    if not recurrences(graph.original):
        return (
            "the file holds no LSTM, GRU or RNN node, no loop that carries a state, and no input that is "
            "called like one; name its states with --state INPUT=OUTPUT if it has any"
        )
    sequence = graph.manifest.sequence
    return "there is no state to lift: no recurrent node makes more steps over a longer sequence; " + (
        "if it runs over time, give the axes with --input NAME=AXES"
        if sequence is None
        else f"none reads axis {sequence} step by step and carries what it computes"
    )


def _reasons(left: Sequence[LeftAlone]) -> Iterator[str]:
    """Yield why states are left alone, one entry a node."""
    nodes: dict[str, list[LeftAlone]] = {}
    for entry in left:
        nodes.setdefault(entry.node, []).append(entry)
    for place, (node, entries) in enumerate(nodes.items()):
        if place == _MOST_NODES:
            yield f"and so on for {len(nodes) - place} more nodes"
            return
        states = " and ".join(entry.state for entry in entries)
        yield f"{states} of {node}: {entries[0].reason}"


def _with_axes_of(model: ir.Model, named: ir.Model) -> ir.Model:
    """Return a copy of ``model`` in which the axes that are dynamic in ``named`` are dynamic too."""
    copy = model.clone()
    others = {value.name: value.shape for value in named.graph.inputs}
    for value in copy.graph.inputs:
        if value.shape is not None and (shape := others.get(value.name)) is not None:
            for place, axis in enumerate(shape):
                if not isinstance(axis, int):
                    value.shape[place] = axis
    forget_shapes(copy)
    return copy


def _fixed_batch(model: ir.Model) -> int:
    """Return the batch size that constant initial states fix the graph at, 1 where they don't."""
    sizes = {
        array.shape[state_shape(node)[2]]
        for node in recurrent_nodes(model)
        for slot in slots(node)
        if (array := constant(slot.initial)) is not None and array.ndim == 3
    }
    return max(sizes, default=1)


def _describe_outputs(graph: LiftedGraph, session: Session, seed: int) -> tuple[TensorSpec, ...]:
    """Find the outputs' dtypes and axes by running the lifted file, and declare them."""
    errors = []
    for cases in sizes_apart(graph.original.graph):
        try:
            runs = _run_apart(graph, session, cases, seed)
            break
        except FileFormatError as error:
            errors.append(error)
    else:
        raise errors[0]
    states = {state.output for state in graph.manifest.states}
    specs = []
    for value in [value for value in graph.lifted.graph.outputs if value.name not in states]:
        name = str(value.name)
        shapes = [run[name].shape for run in runs]
        if (axes := axes_in(name, shapes, cases)) is None:
            ranks = sorted({*map(len, shapes)})
            raise FileFormatError(
                f"output {name!r} has {ranks[0]} axes in one run and {ranks[1]} in another; "
                "let every branch give the same number of axes"
            )
        value.shape = ir.Shape(axes)
        specs.append(TensorSpec(name, runs[0][name].dtype.name, axes))
    return tuple(specs)


def _run_apart(
    graph: LiftedGraph, session: Session, cases: Sequence[Mapping[str, int]], seed: int
) -> list[dict[str, Array]]:
    """Run the lifted file at each of ``cases``; raises ``FileFormatError`` where it does not run."""
    runs = []
    for place, sizes in enumerate(cases):
        drawn = case_at(graph, sizes, seed, offset=place)
        try:
            runs.append(session.run(drawn.feeds))
        except Exception as error:
            wide = any(_is_float64(node) for node in recurrent_nodes(graph.original))
            raise FileFormatError(
                f"the file does not run at {drawn.sizes_text}: {first_line(error)}; "
                + (
                    "onnxruntime has recurrent operators in float32: export the network in that"
                    if wide
                    else "if it runs at certain sizes only, give them with --input NAME=AXES"
                )
            ) from error
    return runs


def _is_float64(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype is ir.DataType.DOUBLE


def _build_manifest(
    model: ir.Model,
    proto: onnx.ModelProto,
    batch: str | None,
    sequence: str | None,
    states: tuple[StateSpec, ...],
    lengths: Sequence[str],
) -> Manifest:
    """Return the manifest of a lifted file, before it ran: without outputs and figures."""
    entering = {state.input for state in states}
    inputs = tuple(spec_of(value) for value in data_inputs(model.graph) if value.name not in entering)
    valid = (
        spec.name
        for spec in inputs
        if spec.name in lengths and spec.dtype in ("int32", "int64") and spec.axes == (batch,)
    )
    opset = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return Manifest(
        inputs=inputs,
        outputs=(),
        states=states,
        batch=batch,
        sequence=sequence,
        lengths=next(valid, None),
        precision=_precision(model, states),
        provenance={
            "opset": opset,
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "versions": {"lstm-edge": __version__, "onnx": onnx.__version__, "onnx-ir": ir.__version__},
        },
    )


def _precision(model: ir.Model, states: Sequence[StateSpec]) -> str:
    floats = {state.dtype for state in states} or {"float32"}
    known = {"float16": "fp16", "float64": "fp64"}.get(min(floats), "fp32")
    return "int8" if is_quantized(model) else known
