"""Networks with a delay or a unit: the graph that streams, beside the whole one, and its verification.

In float64, chunks of it give the frames of the whole, from random states too; in float32 they are within the
whole's noise floors.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.chunks import Runner, even_sizes
from lstm_edge_runtime.delayed import run_delayed
from lstm_edge_runtime.errors import CheckFailedError, counted, first_line
from lstm_edge_runtime.manifest import AxisRange, Golden, Manifest, StateSpec, Streamed
from lstm_edge_runtime.ort import open_session, run_by_name

from ..graph import END, Builder, without_weights
from ..numerics.cases import Feeds, Procedure, case_size, random_sizes
from ..numerics.compare import (
    REFUSALS,
    Function,
    GraphError,
    RefusedError,
    expected,
    fixed_axes,
    floors_of,
    measure,
)
from ..numerics.graph64 import Graph64, MeasuredGraph, open_graph
from ..numerics.verify import golden_case
from .facts import NotStreamableError
from .rewrite import check_sizes
from .streamable import Streamable, make_streamable

_STEPS = 24
"""Steps that are compared, beside those before the first frame and ``_REACHES`` times the reach."""
_REACHES = 9
_MOST_STEPS = 256
_SINGLE = 64
"""Single steps at the most, of the larger of two numbers of steps."""
_UNITS = 12
"""Units that are compared at least."""
_GOLDEN = 6
"""Steps of the golden case, beside those before the first frame."""
_GOLDEN_UNITS = 3
_BYTES = 12_000
"""Of a golden case of two rows; a larger one has one."""

Draw = Callable[[int, int, bool], Feeds]
"""Gives the inputs of the whole for a number of rows and steps, states at reset or random."""


def add_late_stream(
    model: ir.Model, manifest: Manifest, draw: Draw, to_bytes: Callable[[ir.Model], bytes]
) -> Manifest:
    """Return the manifest with what ``make_late_stream`` gives, or with why there is none."""
    try:
        stream = make_late_stream(model, manifest, draw, to_bytes)
    except (NotStreamableError, CheckFailedError) as error:
        return manifest._replace(unstreamable=str(error))
    delay = max(stream.delays.values(), default=0)
    if stream.end is not None:
        need = f"its positions end after {counted(stream.end, 'step')}"
    elif stream.unit > 1:
        need = f"a call takes a multiple of {stream.unit} steps"
    else:
        need = f"frames need {counted(delay, 'later step')}" if delay else "the last frames need the end"
    reason = f"{need}, so that another graph streams, which stream() and streams() run"
    return manifest._replace(stream=stream, unstreamable=reason)


def make_late_stream(
    model: ir.Model, manifest: Manifest, draw: Draw, to_bytes: Callable[[ir.Model], bytes]
) -> Streamed:
    """Return the form in which a network streams, verified.

    Args:
        model: the graph of the whole.
        manifest: the whole's.
        draw: gives inputs.
        to_bytes: gives a graph as an ONNX file.

    Raises:
        NotStreamableError: a part of the graph can't be fed in chunks.
        CheckFailedError: chunks are not the whole.
    """
    found = make_streamable(model, manifest.batch, manifest.sequence)
    if found is None or manifest.lengths is not None:
        raise NotStreamableError("its frames need later steps, and rows have lengths of their own")
    for spec in manifest.data_inputs:  # steps that don't fill a unit are kept
        check_sizes(tuple(axis for axis in spec.axes if axis != manifest.sequence), manifest.batch)
    content = to_bytes(found.model)
    stream = Streamed(
        without_weights(onnx.load_from_string(content), onnx.load_from_string(to_bytes(model))),
        tuple(spec._replace(axes=found.axes[spec.name]) for spec in manifest.outputs),
        _states(manifest, found),
        {spec.name: found.delays[spec.name] for spec in manifest.outputs},
        unit=found.unit,
        end=found.end,
    )
    streaming = manifest._replace(stream=stream).streaming
    early = to_bytes(_take_early(model, found.early))
    return stream._replace(golden=_verify(streaming, manifest, content, early, found.reach, draw))


def _take_early(model: ir.Model, early: Mapping[str, int]) -> ir.Model:
    """Return a copy of ``model`` in which what is taken of the last step is taken of an earlier one.

    A stream that is behind is compared with it: where frames are computed from later ones, the last frame of
    a stream is the last one of no whole sequence.

    Args:
        model: the graph of the whole.
        early: by value, how many frames before the last one to take it of.
    """
    model = model.clone()
    found = {value.name: node for node in model.graph for value in node.outputs}
    for name, frames in early.items():
        node = found[name]
        build = Builder(node, "early")
        if node.op_type == "Slice":
            start = node.inputs[1]
            assert start is not None
            less = np.array([frames], start.dtype.numpy() if start.dtype else np.int64)
            node.replace_input_with(1, build.node("Sub", [start, build.constant(less, "frames")])[0])
            node.replace_input_with(2, build.constant(np.array([-frames or END]), "end"))
        elif node.op_type == "Gather":
            frame = build.constant(np.array(frames, np.int64), "frames")
            node.replace_input_with(1, build.node("Sub", [node.inputs[1], frame])[0])
        elif frames and name != node.outputs[0].name:  # a recurrent layer's last state
            place = next(place for place, value in enumerate(node.outputs) if value.name == name)
            axis = 1 if node.attributes.get_int("layout", 0) else 0
            x, *rest = node.inputs
            assert x is not None
            read = build.slice(x, axis, 0, -frames)
            twin = build.node(node.op_type, [read, *rest], node.attributes, outputs=len(node.outputs))
            ir.convenience.replace_all_uses_with(node.outputs[place], twin[place], replace_graph_outputs=True)
    return model


def _states(manifest: Manifest, found: Streamable) -> tuple[StateSpec, ...]:
    known = {state.input for state in manifest.states}
    if unknown := sorted(set(found.starts) - known):
        raise NotStreamableError(f"a layer would start late, from a state that is computed from {unknown[0]}")
    own = (state._replace(start=found.starts.get(state.input, 0)) for state in manifest.states)
    return (*own, *found.states)


def _verify(
    streaming: Manifest, manifest: Manifest, content: bytes, early: bytes, reach: int, draw: Draw
) -> Golden:
    unit, settled = streaming.unit, settled_after(streaming)
    steps = settled + max(_STEPS, _UNITS * unit) + min(_REACHES * reach, max(_MOST_STEPS, _UNITS * unit))
    steps = _up_to(streaming, manifest, steps - steps % unit)
    engines = [_engine(each) for each in (content, early)]
    fixed = fixed_axes(streaming)
    graph, whole = (open_graph(each, run) for each, run in zip((content, early), engines, strict=True))
    function = Function(graph, whole, fixed)
    rng = np.random.default_rng(0)
    for place, sizes in enumerate(_plans(steps, settled, rng)):
        feeds = with_past(streaming, draw(2, steps, place == 0))
        against = frames_of(streaming, manifest)
        try:
            if function.in_float64:
                agreed = function.compare(feeds, _in_chunks(streaming, sizes), against)
                if agreed.undefined or not agreed.ok:
                    raise CheckFailedError(f"in chunks, in float64: {agreed.undefined or agreed.worst}")
            if place < 2:
                _compare_rounded(streaming, engines[0], whole, feeds, sizes, against)
        except (*REFUSALS, KeyError, GraphError, RefusedError) as error:
            if isinstance(error, CheckFailedError):
                raise
            raise CheckFailedError(f"the stream does not run: {first_line(error)}") from error
    reach_end(streaming, engines[0], draw)
    more = max(-(-_GOLDEN // unit), _GOLDEN_UNITS) * unit if unit > 1 else _GOLDEN
    steps = _up_to(streaming, manifest, settled + more)
    rows = 1 if sum(array.nbytes for array in draw(2, steps, True).values()) > _BYTES else 2
    feeds = draw(rows, steps, True)
    known = expected(whole, feeds, fixed, frames_of(streaming, manifest))
    data = {spec.name: feeds[spec.name] for spec in manifest.inputs}
    return golden_case(streaming._replace(states=()), data, known)


def _up_to(streaming: Manifest, manifest: Manifest, steps: int) -> int:
    """Return ``steps``, or as many units as a stream and the whole take."""
    assert streaming.stream is not None
    limits = manifest.ranges.get(manifest.sequence or "", AxisRange())
    ends = [each for each in (streaming.stream.end, limits.most) if each is not None]
    least = settled_after(streaming) + streaming.unit
    if (most := min([steps, *(end - end % streaming.unit for end in ends)])) < least:
        raise CheckFailedError(
            f"the whole takes {limits} steps, and a stream needs {least} for its first frames"
        )
    return most


def reach_end(streaming: Manifest, engine: Runner, draw: Draw) -> None:
    """Run a stream that ends up to its end, which is beyond the steps that are compared."""
    assert streaming.stream is not None
    if (end := streaming.stream.end) is None:
        return
    feeds, time = with_past(streaming, draw(1, _STEPS, True)), streaming.time_axes
    again = np.arange(end) % streaming.steps(feeds)
    feeds = {name: array.take(again, time[name]) if name in time else array for name, array in feeds.items()}
    run_delayed(engine, streaming, feeds, even_sizes(end, _MOST_STEPS))


def _engine(content: bytes) -> Runner:
    """Return what runs a file, and raises ``CheckFailedError`` where onnxruntime refuses it."""
    session = open_session(content)

    def run(feeds: Feeds) -> Feeds:
        try:
            return run_by_name(session, feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise CheckFailedError(f"the stream does not run: {first_line(error)}") from error

    return run


def _plans(steps: int, settled: int, rng: np.random.Generator) -> list[Sequence[int]]:
    """Return how the sequence is cut: not at all, at random, in single steps at first, at random."""
    single = min(steps, max(_SINGLE, settled + 2))
    cuts = (random_sizes(steps, rng) for _ in range(2))
    return [[steps], next(cuts), [*[1] * single, *even_sizes(steps - single, 7)], next(cuts)]


def settled_after(streaming: Manifest) -> int:
    """Return the number of steps after which every state has started and every output has a frame."""
    starts, unit = (state.start for state in streaming.states), streaming.unit
    return -(-max([*starts, streaming.delay_steps]) // unit) * unit


def with_past(streaming: Manifest, feeds: Feeds) -> Feeds:
    """Return the inputs of the whole with the states of the stream at reset besides."""
    rows = {streaming.batch or "": case_size(streaming, feeds)[0]}
    resets = {
        state.input: np.broadcast_to(np.asarray(state.reset, state.dtype), resolve(state.axes, rows) or ())
        for state in streaming.states
    }
    return {**resets, **feeds}


def _in_chunks(streaming: Manifest, sizes: Sequence[int]) -> Procedure:
    return lambda run, feeds: run_delayed(run, streaming, feeds, sizes)


def frames_of(streaming: Manifest, manifest: Manifest) -> Procedure:
    """Run the whole; give the frames that a stream gives of it."""
    delays, time = streaming.delays, streaming.time_axes

    def procedure(run: Runner, feeds: Feeds) -> Feeds:
        outputs = run({name: feeds[name] for name in manifest.input_names})
        units, frames = manifest.steps(feeds) // streaming.unit, streaming.frames_a_unit
        return {
            spec.name: outputs[spec.name].take(
                range(units * frames[spec.name] - delays[spec.name]), time[spec.name]
            )
            if spec.name in time
            else outputs[spec.name]
            for spec in streaming.outputs
        }

    return procedure


def _compare_rounded(
    streaming: Manifest,
    engine: Runner,
    whole: Graph64 | MeasuredGraph,
    feeds: Feeds,
    sizes: Sequence[int],
    against: Procedure,
) -> None:
    got, exact = run_delayed(engine, streaming, feeds, sizes), against(whole.run64, feeds)
    found = measure(got, exact, floors_of(whole, feeds, fixed_axes(streaming), against))
    if not found.ok:
        raise CheckFailedError(f"in chunks: {next(each for each in found.records if not each.ok)}")
