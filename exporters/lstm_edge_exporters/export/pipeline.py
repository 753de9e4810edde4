"""From a module to a verified file: one line of stages, each a function in the file of
its name.

``Call.of`` -> ``capture`` (one ``torch.export`` in float64) -> ``lower`` ->
``expose_states`` -> ``lower_recurrent`` -> ``stream`` -> ``to_float32`` (the only
rounding) -> ``verify`` -> golden case and bytes.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from lstm_edge_runtime import load
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import (
    CheckFailedError,
    InputError,
    UnsupportedError,
    first_line,
)
from lstm_edge_runtime.manifest import AxisRange, Manifest, Task, TensorSpec
from lstm_edge_runtime.ort import open_session

from ..artifact import Artifact
from ..cast import to_float32
from ..graph import spec_of, with_manifest
from ..progress import Progress, ignore
from ..streaming.file import FullSequence, stream_file
from ..streaming.rewrite import NotStreamableError, UndecidedError
from ..streaming.stream import Streamed, stream
from ..verify.cases import CaseGenerator, remember
from ..verify.compare import Pair
from ..verify.engine import engine_of
from ..verify.float64 import Graph64, constants_of
from ..verify.golden import record_golden
from ..verify.indices import cases_of
from ..verify.verify import Verified, differing_constants, find_streaming, verify
from ..versions import IR_VERSION, MAKERS, OPSET, versions
from .call import Call, note_on_dtype, own_copy, try_example
from .capture import Program, capture
from .config import ExportConfig
from .floats import TURNS, copy_as
from .loop_lengths import lengths
from .lower import lower, record_time_axes
from .lower_recurrent import lower_recurrent
from .precision import refuse_other_floats
from .reference import TorchReference
from .state_arguments import sources
from .states import Exposed, expose_states

_BRANCHES_OFFSET = 60


@dataclass(frozen=True)
class AlongTime:
    """Result of the streaming rules for a graph."""

    model: ir.Model
    """The graph of the file, with states of operators along time if it streams."""
    manifest: Manifest
    """Its contract."""
    streamed: Streamed | None = None
    """Its stream; None if the rules refuse a node, or were not asked."""
    reach: int = 0
    """Number of steps that the states of operators along time hold."""
    undecided: str = ""
    """The node for which the rules can't tell; empty if there is none."""
    reason: str = ""
    """Why there is no stream; empty if there is one."""


@dataclass(frozen=True)
class Built:
    """A file before its verification: its graph in float64 and in float32, and the
    module in both.
    """

    exact: ir.Model
    """The graph in float64."""
    file: onnx.ModelProto
    """The graph in float32, each constant rounded once."""
    manifest: Manifest
    """The contract, without golden case and figures."""
    module64: Runner
    """The module in float64."""
    module32: Runner
    """The module in float32."""
    cases: CaseGenerator
    """Generates the cases of the verification."""
    notes: list[str]
    """Notes for the user."""
    along_time: AlongTime
    """Result of the streaming rules for the graph."""
    branches: Mapping[str, Mapping[int, str]]
    """The few sizes of each axis at which the module takes another branch."""


def build(
    module: nn.Module, example: Any, config: ExportConfig, show: Progress = ignore
) -> Built:
    """Trace, lower and cast; see ``export``. Threads take turns."""
    with TURNS:
        show(0.0, "tracing the module")
        module32 = own_copy(module)
        call32 = Call.of(module32, example).as_floats(torch.float32)
        try_example(copy.deepcopy(module32), call32)
        refuse_other_floats(module32, call32, original=module)
        module64 = copy_as(module32, torch.float64)
        call = call32.as_floats(torch.float64)
        program = capture(copy.deepcopy(module64), call, config)
        lowered = lower(program, call.names)
        program = replace(program, ranges=lowered.ranges)
        _check_example(program, call)
        exposed = expose_states(lowered.model, program, call, config=config)
        lower_recurrent(lowered.model)
        record_time_axes(lowered.model, lowered.sizes, program.sequence)
        manifest = _describe(exposed, program, config)
        if nested := call.nested_paths:
            provenance = {**manifest.provenance, "arguments": nested}
            manifest = manifest._replace(provenance=provenance)
        along_time = _stream_operators(exposed.model, manifest, config)
        exact = along_time.model
        manifest = along_time.manifest
        if manifest.states:
            manifest = _with_reset_interval(manifest)
        file = to_float32(exact)
        reference = TorchReference(module64, call, exposed.titles)
        further = lengths(program, lambda: reference.tensors(call.example))
    run = remember(reference)
    arrays = {
        name: tensor.numpy()
        for name, tensor in zip(call.names, call32.example, strict=True)
    }
    cases = cases_of(exact.graph, manifest, arrays, seed=config.seed)
    # the module starts at reset, unless it takes the state
    held = frozenset(state.input for state in manifest.states) - {*call.names}
    cases = replace(cases.fitted_to(run), held=held, further_steps=further)
    reference32 = TorchReference(
        module=module32, call=call, titles=exposed.titles, dtype=torch.float32
    )
    notes = [
        *filter(None, [note_on_dtype(module)]),
        *(
            f"forward turns a size into text ({line}); the file is wrong at other sizes"
            " if a result depends on the text"
            for line in program.texts
        ),
        *exposed.notes,
        *(
            f"forward does not read {value.name}, which stays an input; leave it out of"
            " the example"
            for value in exact.graph.inputs
            if not value.uses() and not value.is_graph_output()
        ),
    ]
    return Built(
        exact=exact,
        file=file,
        manifest=manifest,
        module64=run,
        module32=reference32,
        cases=cases,
        notes=notes,
        along_time=along_time,
        branches=program.branches,
    )


def _check_example(program: Program, call: Call) -> None:
    """Refuse an example of a size that the file does not take."""
    for name, axes in program.axes.items():
        for axis, size in zip(axes, call.shapes[name], strict=True):
            limits = program.ranges.get(str(axis), AxisRange())
            if isinstance(axis, str) and limits.nearest(size) != size:
                raise InputError(
                    f"{name} of the example has {axis}={size}, but the file would take"
                    f" {axis} {limits}; give an example of {axis}={limits.nearest(size)}"
                )


def _stream_operators(
    model: ir.Model, manifest: Manifest, config: ExportConfig
) -> AlongTime:
    """Let past frames of operators along time become states, if these are all that a
    stream needs.
    """
    is_whole = config.stateless or bool(manifest.unstreamable)
    if is_whole and not config.stream:
        return AlongTime(model, manifest)
    try:
        streamed = stream(model, manifest)
    except UndecidedError as error:
        return AlongTime(model, manifest, undecided=str(error), reason=str(error))
    except NotStreamableError as error:
        if not is_whole:
            manifest = manifest._replace(unstreamable=str(error))
        return AlongTime(model, manifest, reason=str(error))
    if is_whole:
        return AlongTime(model, manifest, streamed)
    if streamed.need or streamed.manifest.states == manifest.states:
        manifest = manifest._replace(unstreamable=streamed.need)
        return AlongTime(model, manifest, streamed)
    manifest = manifest._replace(states=streamed.manifest.states)
    return AlongTime(streamed.model, manifest, streamed, reach=streamed.reach)


def _with_reset_interval(manifest: Manifest) -> Manifest:
    """Record after how many steps a stream is reset: the training window, if each
    window started from reset.
    """
    window = (manifest.trained or manifest.signal).window
    return manifest._replace(reset_every=window if manifest.from_reset else None)


def _describe(exposed: Exposed, program: Program, config: ExportConfig) -> Manifest:
    """Return the contract of a graph, without what its verification shows."""
    graph = exposed.model.graph
    states = {state.input: state for state in exposed.states}
    last = {state.output for state in exposed.states}
    inputs = tuple(_spec(value) for value in graph.inputs if value.name not in states)
    outputs = tuple(_spec(value) for value in graph.outputs if value.name not in last)
    ordered = [value.name for value in graph.inputs if value.name in states]
    return Manifest(
        inputs=inputs,
        outputs=outputs,
        states=tuple(states[str(name)] for name in ordered),
        batch=program.batch,
        sequence=program.sequence,
        ranges=program.ranges,
        lengths=exposed.lengths,
        counts=tuple(_counts(graph, exposed.lengths)),
        unstreamable=exposed.unstreamable,
        task=_checked_task(config, inputs, outputs),
        signal=config.signal,
        trained=config.trained,
        provenance={
            "opset": OPSET,
            "ir_version": IR_VERSION,
            "versions": versions(*MAKERS),
            "checkpoint_sha256": config.checkpoint_sha256,
        },
    )


def _counts(graph: ir.Graph, lengths: str | None) -> list[str]:
    """Return the outputs that are the lengths: those of chunks add up to those of the
    full sequence.
    """
    names = []
    for value in graph.outputs:
        shown = {source.name for source in sources(value)}
        if shown == {lengths}:
            names.append(str(value.name))
    return names


def _spec(value: ir.Value) -> TensorSpec:
    """Return name, axes and dtype that a value in float64 has in the file."""
    spec = spec_of(value)
    return spec._replace(dtype=spec.dtype.replace("float64", "float32"))


def _checked_task(
    config: ExportConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Task | None:
    """Return the task with its output; check the numbers of features, classes and
    units.
    """
    signal = next((spec for spec in inputs if len(spec.axes) > 1), None)
    _check_count("features", config.signal.features, signal)
    task = config.task
    if task is None:
        return None
    output = next((spec for spec in outputs if task.output in ("", spec.name)), None)
    if output is None:
        listed = ", ".join(spec.name for spec in outputs) or "states only"
        raise InputError(f"task output {task.output!r}: the outputs are {listed}")
    _check_count("labels", task.labels, output)
    _check_count("units", task.units, output)
    return task._replace(output=output.name)


def _check_count(kind: str, names: Sequence[str], spec: TensorSpec | None) -> None:
    """Raise InputError unless there is one name per channel of a tensor."""
    if not names or spec is None or not isinstance(spec.width, int):
        return
    if len(names) != spec.width:
        raise InputError(
            f"got {len(names)} {kind}, expected {spec.width}, the width of"
            f" {spec.name!r}"
        )


def finish(built: Built, show: Progress, *, stream: bool = False) -> Artifact[Verified]:
    """Verify a build, record golden cases, and write the file, or with ``stream`` the
    one that streams.
    """
    bare = with_manifest(built.file, built.manifest)
    try:
        onnx.checker.check_model(bare, full_check=True)
        engine = engine_of(open_session(bare))
    except Exception as error:
        raise CheckFailedError(f"the file is not valid: {first_line(error)}") from error
    if differing := differing_constants(built.file, dict(constants_of(built.exact))):
        raise CheckFailedError(
            f"constants are not the rounded ones of float64: {', '.join(differing[:3])}"
        )
    pair = Pair(
        manifest=built.manifest,
        graph=Graph64(built.exact),
        reference=built.module64,
        engine=engine,
    )
    manifest = _without_branches(built, pair)
    built = replace(built, cases=replace(built.cases, ranges=manifest.ranges))
    pair = replace(pair, manifest=manifest)
    verified = verify(pair, built.cases, module32=built.module32, show=show)
    show(0.8, "feeding chunks")
    along_time = built.along_time
    manifest = find_streaming(
        pair, built.cases, reach=along_time.reach, cause=along_time.undecided
    )
    manifest = manifest._replace(equivalence=verified.figures())
    if stream:
        manifest = _with_reset_interval(manifest)
        full = FullSequence(
            model=built.exact,
            manifest=manifest,
            streamed=along_time.streamed,
            reason=along_time.reason,
        )
        content, manifest = stream_file(full, built.cases, _write)
    else:
        show(0.9, "recording golden cases")
        cases = replace(built.cases, held=frozenset())
        golden = record_golden(replace(pair, manifest=manifest), cases)
        manifest = manifest._replace(golden=golden)
        content = with_manifest(built.file, manifest)
    load(content)
    skipped = (f"not compared at {case}" for case in verified.skipped)
    return Artifact(
        model=content,
        manifest=manifest,
        verified=verified,
        notes=(*built.notes, *skipped, *verified.notes),
    )


def _without_branches(built: Built, pair: Pair) -> Manifest:
    """Return the manifest without the few sizes at which another branch of the module
    computes something else.
    """
    manifest = built.manifest
    for axis, lines in built.branches.items():
        limits = manifest.ranges.get(axis, AxisRange())
        for size, line in sorted(lines.items(), reverse=True):
            if limits.nearest(size) != size or _is_equal_at(built, pair, axis, size):
                continue
            about = f"forward takes another branch at {axis}={size} ({line})"
            if {*range(1, size)} - lines.keys():
                raise UnsupportedError(
                    f"{about}, which computes something else; write it with tensor"
                    " operations that hold at any size"
                )
            manifest = manifest._replace(
                ranges={**manifest.ranges, axis: limits._replace(least=size + 1)},
                unstreamable=manifest.unstreamable or about,
            )
            break
    return manifest


def _is_equal_at(built: Built, pair: Pair, axis: str, size: int) -> bool:
    """Return True if module and graph are equal at a size of one axis, from reset and
    from other states.
    """
    rows = size if axis == built.cases.batch else 2
    steps = size if axis == built.cases.sequence else 5
    others = {axis: size}
    try:
        for at_reset in (True, False):
            case = built.cases.case(
                rows, steps, at_reset=at_reset, offset=_BRANCHES_OFFSET, others=others
            )
            if not all(record.ok for record in pair.equal(case.feeds)):
                return False
    except Exception:  # noqa: BLE001  the module or the graph does not take this size
        return False
    return True


def _write(model: ir.Model, manifest: Manifest) -> bytes:
    """Return the file of a graph in float64."""
    return with_manifest(to_float32(model), manifest)
