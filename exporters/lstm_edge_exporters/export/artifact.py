"""The verified artifact: a file whose sizes, function, rounding and chunks were compared with PyTorch."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import load
from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array, AxisRange, Manifest
from lstm_edge_runtime.ort import open_session, run_by_name

from ..graph import Builder
from ..numerics.cases import Case, closed_loop
from ..numerics.compare import Function, GraphError, RefusedError, expected, fixed_axes
from ..numerics.graph64 import MeasuredGraph, open_graph
from ..numerics.verify import (
    ChunkedFile,
    Equivalence,
    chunked_steps,
    find_counts,
    record_golden,
    run_in_chunks,
    states_stop_at_lengths,
    verify,
)
from ..progress import Progress, in_turn
from .config import ExportConfig
from .file import File, serialize
from .ranges import settle_ranges

Write = Callable[[ir.Model, Manifest], bytes]
_MOST = 1.0
"""The largest square of mean by standard deviation that the old kernel takes within three noise floors."""


@dataclass(frozen=True)
class Artifact:
    """A verified ONNX file; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    equivalence: Equivalence
    """Every comparison with PyTorch."""
    nodes: Mapping[str, int]
    """Operator to count."""
    notes: tuple[str, ...] = ()
    """What a reader should know: states left in the graph, sizes that PyTorch itself refuses."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically: to a temporary file, which is then renamed.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def verify_file(made: File, config: ExportConfig, show: Progress) -> Artifact:
    """Find the sizes that ``made`` takes, compare it with the module, and record both in its manifest.

    Raises:
        CheckFailedError: the file does not compute what the module does.
        UnsupportedError, InputError: see ``settle_ranges``.
    """
    model, write = made.model, partial(serialize, opset=config.opset)
    bare = write(model, made.manifest)
    if _center_norms(model, bare, made.cases.cases()):
        bare = write(model, made.manifest)
    try:
        onnx.checker.check_model(bare, full_check=True)
    except Exception as error:
        raise CheckFailedError(f"onnx.checker refuses the file: {first_line(error)}") from error
    engine = partial(run_by_name, open_session(bare))
    graph = open_graph(bare, engine)
    ranges, narrowed = settle_ranges(made, engine, graph.run64, config.ranges)
    made = replace(
        made, manifest=made.manifest._replace(ranges=ranges), cases=replace(made.cases, ranges=ranges)
    )
    file = Function(graph, made.reference, fixed_axes(made.manifest))
    plain = made.reference.run_plain
    try:
        cases = in_turn(list(made.cases.cases()), show, "verifying", 0.3, 0.7)
        equivalence = verify(file, engine, cases, plain)
    except GraphError as error:
        show(0.3, f"verifying in float32 alone ({first_line(error.args[0])})")
        file = replace(file, graph=MeasuredGraph(onnx.load_from_string(bare), engine))
        equivalence = verify(file, engine, made.cases.cases(), plain)
    _check_loop(made, file)
    show(0.7, "feeding chunks")
    manifest = _try_chunks(made, file, engine)
    drawn, notes = replace(made.cases, held=frozenset()), (*made.notes, *narrowed)
    show(0.8, "recording golden cases")
    expect = partial(expected, file.graph, fixed=file.fixed)
    golden = record_golden(expect, manifest, drawn, equivalence.cases)
    manifest = manifest._replace(equivalence=equivalence.to_dict(), golden=golden)
    content = write(model, manifest)
    load(content).close()
    skipped = (f"not compared at {each}" for each in manifest.equivalence["skipped"])
    nodes = dict(Counter(node.op_type for node in model.graph))
    artifact = Artifact(content, manifest, equivalence, nodes, (*notes, *skipped))
    return _stream_artifact(made, artifact, write) if config.stream else artifact


def _check_loop(made: File, file: Function) -> None:
    """Feed module and graph their own states as the manifest pairs them.

    Raises:
        CheckFailedError: they part.
    """
    pairs = ((state.input, state.output) for state in made.manifest.states)
    states = {name: output for name, output in pairs if name not in made.cases.held}
    if not states or not file.in_float64:
        return
    feeds = made.cases.case(2, 3, at_reset=False, offset=51, full=True).feeds
    try:
        found = file.compare(feeds, closed_loop(states))
    except RefusedError:  # the module refuses the case, as it may any that is drawn
        return
    if not found.undefined and not found.ok:
        raise CheckFailedError(f"called again and again from its own states: {found.worst}")


def _stream_artifact(made: File, whole: Artifact, write: Write) -> Artifact:
    """Return the file that streams the network whose full sequence was verified.

    Raises:
        UnsupportedError: the network does not stream.
    """
    from ..streaming.file import stream_file

    if not made.lifted.need and whole.manifest.unstreamable:
        raise UnsupportedError(f"the network does not stream: {whole.manifest.unstreamable}")
    found = stream_file(made.model, whole.manifest, made.cases, write)
    load(found.model, device="cpu").close()
    nodes = dict(Counter(node.op_type for node in ir.from_proto(onnx.load_from_string(found.model)).graph))
    return replace(whole, model=found.model, manifest=found.manifest, nodes=nodes)


def _try_chunks(made: File, function: Function, engine: Runner) -> Manifest:
    """Return the manifest with why chunks do not equal the whole, and what else they show."""
    manifest = made.manifest
    refused = made.lifted.refused
    if reason := manifest.unstreamable or made.lifted.need or _why_whole(made):
        return manifest._replace(unstreamable=reason)
    if not manifest.time_axes or not manifest.states:
        return manifest if refused is None else manifest._replace(unstreamable=str(refused))
    lengths = (manifest.lengths,) if manifest.lengths else ()
    file = ChunkedFile(manifest, engine, lengths, function)
    feeds = made.cases.case(2, chunked_steps(made.lifted.reach), at_reset=True, full=True).feeds
    feeds = {**feeds, **file.with_lengths(feeds, manifest.steps(feeds))}
    manifest = manifest._replace(counts=find_counts(file, feeds))
    file = replace(file, manifest=manifest)
    found, reason = run_in_chunks(file, feeds, np.random.default_rng(0)), ""
    if made.lifted.past and (not found.ok or not _chunks_continue(made, file)):
        raise CheckFailedError("the states of operators along time do not continue a sequence")
    if not found.ok:
        from ..lift.divergence import explain_divergence

        reason = explain_divergence(made.model, file, feeds, found, refused)
    padded = bool(reason) or states_stop_at_lengths(file, feeds)
    return manifest._replace(unstreamable=reason, padded_states=padded)


def _chunks_continue(made: File, file: ChunkedFile) -> bool:
    """Return whether chunks equal the whole from states at random, of operators along time too."""
    cases = replace(made.cases, held=frozenset())
    feeds = cases.case(2, chunked_steps(0), at_reset=False, offset=52, full=True).feeds
    return run_in_chunks(file.itself, feeds, np.random.default_rng(1)).ok


def _why_whole(made: File) -> str:
    """Return why a call can't be a part of a sequence, where the manifest says so; else ``""``."""
    if made.roles.bidirectional and made.manifest.sequence is not None:
        return f"layer {made.roles.bidirectional[0] or 'rnn'} is bidirectional"
    reason = next(_why_no_chunks(made), "")
    return str(made.lifted.refused or reason) if reason else ""


def _why_no_chunks(made: File) -> Iterator[str]:
    """Yield why the sizes that a call takes are none of chunks."""
    manifest = made.manifest
    for name, taken in ((manifest.sequence, "steps"), (manifest.batch, "rows")):
        sizes = manifest.ranges.get(name or "", AxisRange())
        if sizes.nearest(1) > 1:
            end = "and so can't take a single one" if taken == "steps" else "not one"
            yield f"a call takes {sizes} {taken} ({name}), {end}"
    for name, axis in ((spec.name, axis) for spec in manifest.inputs for axis in spec.axes):
        if axis != manifest.sequence and manifest.sequence in parse_sum(str(axis))[0]:
            yield (
                f"axis {axis} of {name} follows the time axis {manifest.sequence}, and chunks cut that alone"
            )
    if made.roles.fractions and manifest.time_axes and manifest.states:
        yield (
            f"{', '.join(made.roles.fractions)} gives lengths as fractions of a call's steps, of which "
            "chunks have fewer; take whole numbers of steps instead"
        )


def _center_norms(model: ir.Model, content: bytes, cases: Iterable[Case]) -> bool:
    """Subtract the mean in front of each layer norm that needs it, in place; return whether any did.

    onnxruntime up to 1.26 takes the variance as E[x^2] - E[x]^2. The result is off by about 9 (mean/std)^2
    units in the last place: by 5e-5 where the mean is ten times the standard deviation, and it is NaN at 1e5
    times. Where the cases of an export come near that, the mean is subtracted first, which is the same
    function.

    Args:
        model: the graph.
        content: the same as a file.
        cases: what it is run on.
    """
    norms = {
        node: (str(node.inputs[0].name), axes)
        for node in model.graph
        if node.op_type == "LayerNormalization" and node.inputs[0] is not None and (axes := _axes(node))
    }
    if not norms:
        return False
    proto = onnx.load_from_string(content)
    passed = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in {name for name, _ in norms.values()} - passed
    )
    session = open_session(proto.SerializeToString())
    largest = dict.fromkeys(norms, 0.0)
    for case in cases:
        with contextlib.suppress(Exception):  # a size that the graph does not take; the verification will say
            values = {**case.feeds, **run_by_name(session, case.feeds)}
            for node, (name, axes) in norms.items():
                largest[node] = max(largest[node], _offset(values[name], axes))
    for node in (node for node, offset in largest.items() if offset > _MOST):
        build, x = Builder(node, "centered"), node.inputs[0]
        (mean,) = build.node("ReduceMean", [x, build.constant(np.array(norms[node][1]), "axes")])
        node.replace_input_with(0, build.node("Sub", [x, mean])[0])
    return max(largest.values()) > _MOST


def _axes(node: ir.Node) -> list[int]:
    """Return the axes that a node normalizes, from the last; none where they are counted from the first."""
    return [*range(node.attributes.get_int("axis", -1), 0)]


def _offset(x: Array, axes: list[int]) -> float:
    """Return the largest square of mean by standard deviation; rows without spread don't count."""
    wide = x.astype(np.float64)
    mean, variance = wide.mean(tuple(axes)), wide.var(tuple(axes))
    some = variance > 1e-12 * np.square(mean)
    return float(np.max(np.square(mean[some]) / variance[some], initial=0.0))
