"""The file that streams a network which looks ahead or has strides: made, and verified.

In float64 its frames are those of the full sequence, however it is cut: at once, at random, unit by unit, for
many rows, for chunks beyond 128 steps and for loud inputs. onnxruntime is within an engine's limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import AxisRange, Golden, Manifest
from lstm_edge_runtime.ort import open_session, run_by_name
from lstm_edge_runtime.selftest import Comparison

from ..chunks import Runner, join_chunks, run_chunks
from ..export.cast import widened
from ..graph import Builder
from ..verify.cases import Case, CaseGenerator, Feeds, InputSpec, Procedure, random_sizes
from ..verify.compare import Pair, compare_all
from ..verify.float64 import Graph64
from ..verify.golden import golden_case
from ..verify.report import judged
from .rewrite import NotStreamableError
from .stream import Streamed, stream

_STEPS, _UNITS, _LONG = 24, 12, 130
"""Steps and units that are compared at least, and the steps of a long case."""
_REACHES, _MOST_REACHED = 3, 512
_LOUD = 100.0
"""Factor of a loud input."""


def stream_file(
    model: ir.Model, manifest: Manifest, cases: CaseGenerator, write: Callable[[ir.Model, Manifest], bytes]
) -> tuple[bytes, Manifest]:
    """Return the file that streams a network, and its contract.

    Args:
        model: the graph of the full sequence.
        manifest: its contract.
        cases: generates its inputs.
        write: gives a graph and its manifest as a file.

    Raises:
        InputError: the ordinary file streams.
        NotStreamableError: a part of the graph can't be fed in chunks; the message names it.
        CheckFailedError: chunks are not the full sequence.
    """
    if not manifest.unstreamable:
        raise InputError("this network only looks back, so that its ordinary file streams; omit --stream")
    found = stream(model, manifest.states, manifest.batch, manifest.sequence)
    if found.ordinary:
        raise NotStreamableError(f"the network does not stream: {manifest.unstreamable}")
    streamed = _describe(found, manifest)
    content = write(found.model, streamed)
    full = Graph64(widened(ir.to_proto(_take_early(model, found.early))))
    pair = Pair(
        streamed,
        Graph64(widened(onnx.load_from_string(content))),
        full,
        partial(run_by_name, open_session(content)),
    )
    inputs = [spec for spec in cases.inputs if spec.role != "state"]
    inputs += [InputSpec(s.input, s.dtype, s.axes, "state", reset=s.reset) for s in streamed.states]
    cases = replace(cases, inputs=tuple(inputs), ranges=streamed.ranges, held=frozenset())
    unit = streamed.unit
    reached = min(_REACHES * found.reach, max(_MOST_REACHED, _UNITS * unit))
    steps, long, few = (
        _fitted(more, streamed, manifest)
        for more in (max(_STEPS, _UNITS * unit) + reached, _LONG, max(3 * unit, 6))
    )
    rng = np.random.default_rng(0)
    for rows, size, loud in (2, steps, 1.0), (5, long, 1.0), (2, steps, _LOUD):
        random = [unit * units for units in random_sizes(size // unit, rng)]
        single = [[unit] * (size // unit)] if size == steps and loud == 1.0 else []
        _verify(pair, manifest, _feeds(pair, cases, rows, size, loud), [[size], random, *single])
    streamed = streamed._replace(golden=_golden(pair, cases, few))
    return write(found.model, streamed), streamed


def _describe(found: Streamed, manifest: Manifest) -> Manifest:
    """Return the manifest of the stream, without a golden case."""
    if manifest.lengths is not None:
        raise NotStreamableError("it takes lengths, which a file that lags or has strides can't have")
    sequence, unit = manifest.sequence or "", found.unit
    for spec in manifest.data_inputs:
        if other := {axis for axis in spec.axes if isinstance(axis, str)} - {manifest.batch, sequence}:
            raise NotStreamableError(f"axis {other.pop()} of {spec.name} takes any size; fix it by a number")
    ranges = {name: sizes for name, sizes in manifest.ranges.items() if name != sequence}
    return manifest._replace(
        outputs=tuple(spec._replace(axes=found.axes[spec.name]) for spec in manifest.outputs),
        states=found.states,
        unit=unit,
        delays={name: delay for name, delay in found.delays.items() if delay},
        ranges=ranges | ({sequence: AxisRange(unit, None, unit)} if unit > 1 else {}),
        unstreamable="",
        golden=None,
    )


def _fitted(steps: int, streamed: Manifest, full: Manifest) -> int:
    """Return whole units near ``steps``, behind the first frames of every output, that ``full`` takes."""
    unit, taken = streamed.unit, full.ranges.get(full.sequence or "", AxisRange())
    settled = -(-streamed.delay_steps // unit) * unit
    step = int(np.lcm(unit, taken.multiple))
    most = min(settled + steps, taken.most or settled + steps)
    fitted = max(most // step * step, -(-taken.least // step) * step)
    if fitted < settled + unit or taken.nearest(fitted) != fitted:
        raise CheckFailedError(f"the network takes {taken} steps, too few for a stream's first frames")
    return fitted


def _feeds(pair: Pair, cases: CaseGenerator, rows: int, steps: int, loud: float = 1.0) -> Feeds:
    feeds = cases.case(rows, steps, at_reset=True, offset=rows, full=True).feeds
    data = {spec.name for spec in pair.manifest.data_inputs if np.dtype(spec.dtype).kind == "f"}
    return {name: feed * feed.dtype.type(loud) if name in data else feed for name, feed in feeds.items()}


def _verify(pair: Pair, full: Manifest, feeds: Feeds, ways: Sequence[Sequence[int]]) -> None:
    """Compare a stream with the full sequence in float64, and onnxruntime with the stream."""
    want = dict(pair.reference({name: feeds[name] for name in full.input_names}))
    frames, streamed = dict[str, range](), pair.manifest
    for name, axis in streamed.time_axes.items():
        if name in streamed.frames_a_unit:
            first = streamed.delays.get(name, 0)
            last = full.steps(feeds) // streamed.unit * streamed.frames_a_unit[name]
            frames[name] = range(first, min(last, first + want[name].shape[axis]))
            want[name] = want[name].take(range(len(frames[name])), axis)

    def in_chunks(sizes: Sequence[int]) -> Procedure:
        def procedure(run: Runner, feeds: Feeds) -> Feeds:
            joined = join_chunks(streamed, list(run_chunks(run, streamed, feeds, sizes)))
            joined |= {
                name: joined[name].take(taken, streamed.time_axes[name]) for name, taken in frames.items()
            }
            return {spec.name: joined[spec.name] for spec in streamed.outputs}

        return procedure

    outputs = {spec.name: want[spec.name] for spec in streamed.outputs}
    for sizes in ways:
        got = in_chunks(sizes)(pair.graph, feeds)
        _require(f"in chunks of up to {max(sizes)} steps", pair.within(got, outputs, feeds, in_chunks(sizes)))
    last_way = in_chunks(ways[-1])
    limits = pair.limits(feeds, last_way)
    _require("on onnxruntime", compare_all(last_way(pair.engine, feeds), last_way(pair.graph, feeds), limits))


def _require(what: str, comparisons: Sequence[Comparison]) -> None:
    check = judged("", tuple(comparisons))
    if check.status == "failed":
        raise CheckFailedError(f"a stream {what}: {check.message}")


def _golden(pair: Pair, cases: CaseGenerator, steps: int) -> Golden:
    """Return a case from the reset states with complete frames, and one from random states."""
    first = Case({}, _feeds(pair, cases, 1, steps), at_reset=True)
    second = cases.case(1, 2 * pair.manifest.unit, at_reset=False, offset=98, full=True)
    golden, *more = (golden_case(pair, case) for case in (first, second))
    if not _is_finite(golden):
        raise CheckFailedError("a stream from reset gives no finite numbers, so that none can be recorded")
    return golden._replace(more=tuple(filter(_is_finite, more)))


def _is_finite(case: Golden) -> bool:
    return all(np.isfinite(array).all() for array in (*case.outputs.values(), *case.limits.values()))


def _take_early(model: ir.Model, early: Mapping[str, tuple[int, int]]) -> ir.Model:
    """Return a copy of ``model`` that takes its last frames where a stream has the newest ones."""
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name, (axis, frames) in early.items():
        node, value = values[name].producer(), values[name]
        if node is None or node.inputs[0] is None or not frames:
            continue
        build = Builder(node, "early")
        read = [
            build.node("Slice", [node.inputs[0], *map(np.array, ([0], [-frames], [axis]))])[0],
            *node.inputs[1:],
        ]
        twins = build.node(node.op_type, read, node.attributes, outputs=len(node.outputs))
        twin = twins[value.index() or 0]
        twin.name, value.name, twin.shape = name, f"{name}.padded", value.shape
        ir.convenience.replace_all_uses_with(value, twin, replace_graph_outputs=True)
    return model
