"""The file that streams a network with look-ahead or strides: written and verified.

In float64 its frames are those of the full sequence, however it is cut: at once, at
random, unit by unit, for many rows, for chunks beyond 128 steps and for loud inputs.
onnxruntime is within an engine's limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import Array, AxisRange, Golden, Manifest
from lstm_edge_runtime.ort import open_session

from ..cast import widened
from ..graph import Builder
from ..verify.cases import (
    CaseGenerator,
    Feeds,
    InputSpec,
    Procedure,
    in_chunks,
    random_sizes,
)
from ..verify.compare import Pair, compare_all
from ..verify.engine import engine_of
from ..verify.float64 import Graph64
from ..verify.golden import golden_case, is_finite
from ..verify.verify import require
from .rewrite import NotStreamableError
from .stream import Streamed

_STEPS = 24
_UNITS = 12
_LONG = 130
"""Steps and units that are compared at least, and the steps of a long case."""
_REACHES = 3
_MOST_REACHED = 512
_LOUD = 100.0
"""Factor of a loud input."""


@dataclass(frozen=True)
class _Trial:
    """A comparison of a stream with the full sequence."""

    rows: int
    """Batch size."""
    steps: int
    """Number of time steps."""
    gain: float
    """Factor of the inputs."""
    in_units: bool
    """True if it is also fed unit by unit."""


@dataclass(frozen=True)
class FullSequence:
    """A verified file of the full sequence, whose stream is written."""

    model: ir.Model
    """Its graph, in float64 if it was exported."""
    manifest: Manifest
    """Its contract."""
    streamed: Streamed | None
    """Its stream; None if the graph can't be fed in chunks."""
    reason: str = ""
    """Why there is no stream."""


def stream_file(
    full: FullSequence,
    cases: CaseGenerator,
    write: Callable[[ir.Model, Manifest], bytes],
) -> tuple[bytes, Manifest]:
    """Return the file that streams a network, and its contract.

    Args:
        full: the file of the full sequence.
        cases: generates its inputs.
        write: returns a graph and its manifest as a file.

    Raises:
        InputError: the ordinary file streams.
        NotStreamableError: a part of the graph can't be fed in chunks; the message
            names it.
        CheckFailedError: chunks are not the full sequence.
    """
    streamed = _required_stream(full)
    contract = streamed.contract(full.manifest)
    content = write(streamed.model, contract)
    graph = Graph64(widened(onnx.load_from_string(content), streamed.model))
    reference = _take_ahead(full.model, streamed.ahead)
    pair = Pair(
        manifest=contract,
        graph=graph,
        reference=Graph64(widened(ir.to_proto(reference))),
        engine=engine_of(open_session(content)),
    )
    cases = _cases(cases, contract, full.manifest)
    _verify_all(pair, cases, streamed.reach)
    contract = contract._replace(golden=_golden(pair, cases))
    return write(streamed.model, contract), contract


def _required_stream(full: FullSequence) -> Streamed:
    """Return the stream, or raise as ``stream_file``."""
    manifest = full.manifest
    if manifest.sequence is None and not manifest.states:
        spec = manifest.data_inputs[0]
        axes = ",".join(map(str, spec.axes))
        raise InputError(
            f"no axis of {spec.name} ({axes}) is known as time; name it, as in"
            f" --input {spec.name}=N,L,3 (inputs=)"
        )
    if not manifest.unstreamable:
        raise InputError(
            "this network only looks back, so that its ordinary file streams; omit"
            " --stream"
        )
    if manifest.lengths is not None:
        raise NotStreamableError(
            "it takes lengths, which a file that lags or has strides can't have"
        )
    if full.streamed is None:
        raise NotStreamableError(full.reason)
    if not full.streamed.need:
        raise NotStreamableError(
            f"the network does not stream: {manifest.unstreamable}"
        )
    return full.streamed


def _verify_all(pair: Pair, cases: CaseGenerator, reach: int) -> None:
    """Compare a stream with the full sequence for many steps, many rows, and loud
    inputs.
    """
    manifest = pair.manifest
    unit = manifest.unit
    rng = np.random.default_rng(0)
    most = max(_MOST_REACHED, _UNITS * unit)
    few = max(_STEPS, _UNITS * unit) + min(_REACHES * reach, most)
    for trial in (
        _Trial(rows=2, steps=few, gain=1.0, in_units=True),
        _Trial(rows=5, steps=_LONG, gain=1.0, in_units=False),
        _Trial(rows=2, steps=few, gain=_LOUD, in_units=False),
    ):
        steps = manifest.delay_steps + trial.steps
        case = cases.case(
            trial.rows, steps, at_reset=True, offset=trial.rows, full=True
        )
        feeds = dict(case.feeds)
        for spec in manifest.data_inputs:
            if "float" in spec.dtype:
                array = feeds[spec.name]
                feeds[spec.name] = array * array.dtype.type(trial.gain)
        units = manifest.steps(feeds) // unit
        cuts = [[units], random_sizes(units, rng)]
        if trial.in_units:
            cuts.append([1] * units)
        _verify(pair, feeds, cuts, is_loud=trial.gain > 1.0)


def _golden(pair: Pair, cases: CaseGenerator) -> Golden:
    """Return the golden cases of a stream: its first frames, and two units later on."""
    manifest = pair.manifest
    steps = manifest.delay_steps + max(3 * manifest.unit, 6)
    first = cases.case(1, steps, at_reset=True, offset=1, full=True)
    second = cases.case(1, 2 * manifest.unit, at_reset=False, offset=98, full=True)
    recorded = [golden_case(pair, case) for case in (first, second)]
    finite = [golden for golden in recorded if is_finite(golden)]
    if not finite:
        raise CheckFailedError(
            "a stream gives no finite numbers, so that none can be recorded"
        )
    return finite[0]._replace(more=tuple(finite[1:]))


def _cases(cases: CaseGenerator, streamed: Manifest, full: Manifest) -> CaseGenerator:
    """Return a generator of whole units, longer than the delays, of sizes that ``full``
    takes.
    """
    unit = streamed.unit
    taken = full.ranges.get(full.sequence or "", AxisRange())
    least = max(taken.least, (-(-streamed.delay_steps // unit) + 1) * unit)
    sizes = AxisRange(least, taken.most, lcm(unit, taken.multiple))
    if sizes.nearest(least) < least:
        raise CheckFailedError(
            f"the network takes {taken} steps, too few for a stream's first frames"
        )
    inputs = [spec for spec in cases.inputs if spec.role != "state"]
    inputs += [
        InputSpec(name=s.input, dtype=s.dtype, axes=s.axes, role="state", reset=s.reset)
        for s in streamed.states
    ]
    ranges = {**streamed.ranges, str(full.sequence): sizes}
    return replace(cases, inputs=tuple(inputs), ranges=ranges, held=frozenset())


def _verify(
    pair: Pair, feeds: Feeds, cuts: Sequence[Sequence[int]], *, is_loud: bool
) -> None:
    """Compare a stream with the full sequence in float64, and onnxruntime with the
    stream.

    Whole numbers and booleans for loud inputs are compared in float64 only: numbers
    that saturate are equal in float32, and their order is undefined.
    """
    manifest = pair.manifest
    full = pair.reference(feeds)
    units = sum(cuts[0])
    want = dict[str, Array]()
    frames = dict[str, tuple[slice, ...]]()
    for name, per_unit in manifest.frames_per_unit.items():
        axis = manifest.time_axes.get(name)
        want[name] = full[name]
        frames[name] = ()
        if axis is not None:
            delay = manifest.delays.get(name, 0)
            count = min(units * per_unit - delay, full[name].shape[axis])
            want[name] = full[name].take(range(count), axis)
            others = [slice(None)] * axis
            frames[name] = (*others, slice(delay, delay + count))
    for sizes in cuts:
        procedure = _in_units(manifest, sizes, frames)
        got = procedure(pair.graph, feeds)
        about = f"chunks of up to {max(sizes) * manifest.unit} steps"
        require(
            f"a stream in {about}",
            pair.within(got, want, feeds=feeds, procedure=procedure),
        )
    if is_loud:
        got = {name: array for name, array in got.items() if array.dtype.kind == "f"}
    require(
        "a stream on onnxruntime",
        compare_all(procedure(pair.engine, feeds), got, pair.limits(feeds, procedure)),
    )


def _in_units(
    manifest: Manifest, units: Sequence[int], frames: Mapping[str, tuple[slice, ...]]
) -> Procedure:
    """Return the procedure that feeds chunks of ``units`` and returns the ``frames`` of
    the full sequence.
    """
    run_all = in_chunks(manifest, [count * manifest.unit for count in units])

    def procedure(run: Runner, feeds: Feeds) -> Feeds:
        """Run the full sequence and take the frames that the stream returns."""
        joined = run_all(run, feeds)
        return {name: joined[name][index] for name, index in frames.items()}

    return procedure


def _take_ahead(model: ir.Model, ahead: Mapping[str, tuple[int, int]]) -> ir.Model:
    """Return a copy of ``model`` whose last frames are those that a stream reads."""
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name, (axis, frames) in ahead.items():
        node = values[name].producer()
        value = values[name]
        if node is None or not frames:
            continue
        build = Builder(node, "ahead")
        read = build.node(
            "Slice", [node.inputs[0], *map(np.array, ([0], [-frames], [axis]))]
        )
        operands = [*read, *node.inputs[1:]]
        twin = build.node(
            node.op_type, operands, node.attributes, outputs=len(node.outputs)
        )[value.index() or 0]
        twin.name = name
        value.name = f"{name}.padded"
        twin.shape = value.shape
        ir.convenience.replace_all_uses_with(value, twin, replace_graph_outputs=True)
    return model
