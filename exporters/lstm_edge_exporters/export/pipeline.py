"""From a module to a verified file, in a straight line.

``Call.of`` -> ``capture`` (one ``torch.export`` in float64) -> ``lower`` -> ``expose_states`` -> ``stream``
-> ``to_float32`` (the only rounding) -> ``verify`` -> golden case and bytes. Each stage is a function in the
file of its name.
"""

import copy
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Manifest, Task, TensorSpec
from lstm_edge_runtime.ort import open_session, run_by_name

from ..chunks import Runner
from ..graph import spec_of, with_manifest
from ..progress import Progress, ignore
from ..recurrent import is_reversed, recurrent_nodes
from ..streaming.file import stream_file
from ..streaming.rewrite import NotStreamableError
from ..streaming.stream import stream
from ..verify.cases import CaseGenerator, remember
from ..verify.compare import Pair
from ..verify.float64 import Graph64, constants_of
from ..verify.golden import record_golden
from ..verify.indices import index_values
from ..verify.reference import TorchReference
from ..verify.verify import Verified, differing_constants, find_streaming, verify
from ..versions import MAKERS, versions
from .call import Call, own_copy, returned_names, try_example
from .capture import Program, capture
from .cast import IR_VERSION, to_float32
from .config import ExportConfig
from .floats import TURNS, copy_as
from .lower import lower
from .states import Exposed, expose_states, sources

OPSET = 18
"""The ONNX opset of files; 18 is read by onnxruntime 1.14 (February 2023) and later."""


@dataclass(frozen=True)
class Built:
    """A file before its verification, and what it is verified with."""

    exact: ir.Model
    """The graph in float64."""
    file: onnx.ModelProto
    """The same in float32."""
    manifest: Manifest
    """The contract, without golden case and figures."""
    module: Runner
    """The module in float64."""
    plain: Runner
    """The module in float32."""
    cases: CaseGenerator
    notes: tuple[str, ...]
    reach: int
    """Number of steps that the states of operators along time hold."""
    refused: str
    """Why operators along time have no states."""


def build(module: nn.Module, example: Any, config: ExportConfig, show: Progress = ignore) -> Built:
    """Trace, lower and cast; see ``export``. Threads take turns."""
    with TURNS:
        show(0.0, "tracing the module")
        plain = own_copy(module)
        call = Call.of(plain, example)
        outputs = try_example(copy.deepcopy(plain), call.as_floats(torch.float32))
        reference, call = copy_as(plain, torch.float64), call.as_floats(torch.float64)
        _check_repeatable(reference, call)
        program = capture(copy.deepcopy(reference), call, config)
        model = lower(program, call.names)
        exposed = expose_states(model, program, call, config, returned_names(plain, len(outputs)))
        manifest = _describe(exposed, program, config)
        exact, manifest, reach, refused = _keep_past(exposed.model, manifest, config)
        file = to_float32(exact)
    run = remember(TorchReference(reference, call, exposed.titles))
    cases = CaseGenerator.of(manifest, call.arrays, index_values(exact.graph), config.seed)
    held = frozenset(state.input for state in manifest.states) - {*call.names}  # the module starts at reset
    return Built(
        exact,
        file,
        manifest,
        run,
        TorchReference(plain, call, exposed.titles, torch.float32),
        replace(cases.fitted_to(run), held=held),
        (*_notes(program, config), *exposed.notes),
        reach,
        refused,
    )


def _notes(program: Program, config: ExportConfig) -> list[str]:
    return [
        f"axis {name} takes {limits} alone; another size needs an example and axes of its own (--input)"
        for name, limits in program.ranges.items()
        if name not in config.ranges and (limits.least > 1 or limits.most is not None)
    ]


def _keep_past(
    model: ir.Model, manifest: Manifest, config: ExportConfig
) -> tuple[ir.Model, Manifest, int, str]:
    """Return graph and contract with states of operators along time, their steps, and why there are none."""
    if config.stateless or manifest.unstreamable:
        return model, manifest, 0, ""
    try:
        streamed = stream(model, manifest)
    except NotStreamableError as error:
        backwards = any(map(is_reversed, recurrent_nodes(model)))
        return model, manifest._replace(unstreamable=str(error) if backwards else ""), 0, str(error)
    states = streamed.manifest.states
    if streamed.need or states == manifest.states:
        return model, manifest._replace(unstreamable=streamed.need), 0, ""
    states = tuple(state._replace(dtype=state.dtype.replace("float64", "float32")) for state in states)
    return streamed.model, manifest._replace(states=states), streamed.reach, ""


def _check_repeatable(module: nn.Module, call: Call) -> None:
    """Refuse a module that gives something else on every call, or on the second one."""
    own, other = copy.deepcopy(module), copy.deepcopy(module)
    runs = [TorchReference(each, call, ()).tensors(call.example) for each in (own, own, other)]
    outputs = zip(*runs, strict=True)
    if not all(torch.equal(first.nan_to_num(), run.nan_to_num()) for first, *rest in outputs for run in rest):
        raise UnsupportedError(
            "forward gives another output on every call: it keeps a state in the module, or draws random "
            "numbers; take the state or the numbers as an argument and return the state's next value"
        )


def _describe(exposed: Exposed, program: Program, config: ExportConfig) -> Manifest:
    """Return the manifest, without golden case and figures."""
    ends = {state.input: state for state in exposed.states}
    inputs = tuple(_spec(value) for value in exposed.model.graph.inputs if value.name not in ends)
    outputs = tuple(map(_spec, exposed.outputs))
    width = next((spec.width for spec in inputs if len(spec.axes) > 1), None)
    features = config.signal.features
    if features and isinstance(width, int) and len(features) != width:
        raise InputError(f"got {len(features)} names of features, expected {width}, the width of the input")
    return Manifest(
        inputs=inputs,
        outputs=outputs,
        states=tuple(ends[str(value.name)] for value in exposed.model.graph.inputs if value.name in ends),
        batch=program.batch,
        sequence=program.sequence,
        ranges=program.ranges,
        lengths=exposed.lengths,
        counts=_counts(exposed),
        unstreamable=exposed.unstreamable,
        task=config.task and _described(config.task, outputs),
        signal=config.signal,
        trained=config.trained,
        provenance={
            "checkpoint_sha256": config.checkpoint_sha256,
            "opset": OPSET,
            "ir_version": IR_VERSION,
            "versions": versions(*MAKERS),
        },
    )


def _spec(value: ir.Value) -> TensorSpec:
    spec = spec_of(value)
    return spec._replace(dtype=spec.dtype.replace("float64", "float32"))


def _counts(exposed: Exposed) -> tuple[str, ...]:
    """Return the outputs that are the lengths: those of chunks add up to those of the full sequence."""
    outputs = ((str(value.name), {source.name for source in sources(value)}) for value in exposed.outputs)
    return tuple(name for name, names in outputs if exposed.lengths and names == {exposed.lengths})


def _described(task: Task, outputs: Sequence[TensorSpec]) -> Task:
    """Return ``task`` with its output, which exists and is as wide as there are names for it."""
    output = next((spec for spec in outputs if task.output in ("", spec.name)), None)
    if output is None:
        known = ", ".join(spec.name for spec in outputs) or "states only"
        raise InputError(f"task output {task.output!r}: the outputs are {known}")
    for kind, names in (("labels", task.labels), ("units", task.units)):
        if names and isinstance(output.width, int) and len(names) != output.width:
            raise InputError(
                f"got {len(names)} {kind}, expected {output.width}, the width of {output.name!r}"
            )
    return task._replace(output=output.name)


@dataclass(frozen=True)
class Artifact:
    """A verified ONNX file; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    verified: Verified
    """Every comparison with PyTorch."""
    nodes: Mapping[str, int]
    """Operator to count."""
    notes: tuple[str, ...] = ()
    """Notes for the reader: states left in the graph, sizes that PyTorch itself refuses."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically: to a temporary file, which is then renamed.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def finish(built: Built, show: Progress, *, stream: bool = False) -> Artifact:
    """Verify a build, record golden cases, and write the file, or with ``stream`` the one that streams.

    Raises:
        CheckFailedError: the file does not compute what the module does.
        InputError: a file that streams is asked for, and the ordinary one does.
        UnsupportedError: it is asked for, and the network does not stream.
    """
    bare = with_manifest(built.file, built.manifest)
    try:
        onnx.checker.check_model(bare, full_check=True)
        engine = partial(run_by_name, open_session(bare))
    except Exception as error:
        raise CheckFailedError(f"the file is not valid: {first_line(error)}") from error
    if differing := differing_constants(built.file, dict(constants_of(built.exact))):
        raise CheckFailedError(f"constants are not the rounded ones of float64: {', '.join(differing[:3])}")
    pair = Pair(built.manifest, Graph64(built.exact), built.module, engine)
    verified = verify(pair, built.cases, built.plain, show)
    show(0.8, "feeding chunks")
    manifest = find_streaming(pair, built.cases, built.reach, built.refused)
    if stream:
        content, manifest = stream_file(ir.from_proto(built.file), manifest, built.cases, _write)
    else:
        show(0.9, "recording golden cases")
        golden = record_golden(replace(pair, manifest=manifest), replace(built.cases, held=frozenset()))
        manifest = manifest._replace(golden=golden, equivalence=verified.figures())
        content = with_manifest(built.file, manifest)
    load(content)
    nodes = Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
    skipped = (f"not compared at {case}" for case in verified.skipped)
    return Artifact(content, manifest, verified, dict(nodes), (*built.notes, *skipped))


def _write(model: ir.Model, manifest: Manifest) -> bytes:
    return with_manifest(to_float32(model), manifest)  # a size that became a count is no size now
