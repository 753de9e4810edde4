"""Calls as onnxruntime computes them, and how far C may be from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Golden
from lstm_edge_runtime.selftest import golden_limits
from lstm_edge_runtime.tolerance import MULTIPLE

from ...numerics.cases import CaseGenerator, InputSpec, case_size
from ...numerics.compare import MANY_DRAWS, expected, fixed_axes
from ...numerics.graph64 import Graph64
from ...numerics.indices import index_values
from ._interface import Interface

_GOLDEN = 2
"""Calls of a golden case, which is a part of the flash of who replays it."""
_LEVELS = 255
"""Steps of an int8 range."""


@dataclass(frozen=True)
class CCall:
    """One call: what goes in, what onnxruntime gives, and the limits; all by name in the file."""

    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    limits: Mapping[str, Array]
    """Each broadcasts against its output."""


@dataclass(frozen=True)
class GoldenCase:
    """Successive calls with states carried, for the self-test in C; arrays are by their name in the file."""

    calls: int
    feeds: Mapping[str, Array]
    """Inputs ``(calls, size)``, and the states ``(1, size)`` to start from."""
    outputs: Mapping[str, Array]
    """``(calls, size)`` where the output has a time axis; else ``(1, size)``, after the last call."""
    limits: Mapping[str, Array]
    """The largest absolute differences that pass, ``(size,)``."""
    origin: str
    """Where the expected values come from, in words."""


def run_calls(run: Runner, graph: onnx.ModelProto, interface: Interface, count: int) -> Iterator[CCall]:
    """Draw inputs and run them with states carried, at batch 1.

    Both C and onnxruntime may be as far from the exact result as the tolerance policy allows. Where the graph
    has no float64 run, as int8 has none, the limit is what a move of every input and state by one int8 level
    does: a rounding error may well turn into one, and C may quantize what onnxruntime does not.
    """
    golden = interface.manifest.golden
    examples, values = golden.inputs if golden else {}, index_values(ir.from_proto(graph).graph)
    cases = CaseGenerator(
        tuple(
            InputSpec(*spec, example=examples.get(spec.name), values=values.get(spec.name))
            for spec in interface.manifest.data_inputs
        ),
        batch=interface.manifest.batch,
        sequence=interface.manifest.sequence,
    )
    try:
        reference = None if interface.manifest.int8_activations else Graph64(graph)
    except UnsupportedError:
        reference = None
    full = {}
    if interface.lengths is not None:
        lengths = interface.lengths
        full[lengths.name] = np.full(lengths.shape, interface.chunk, lengths.dtype)
    states = {state.name: state.reset for state in interface.states}
    for place in range(count):
        feeds = {**cases.case(1, interface.chunk, at_reset=False, offset=place).feeds, **states}
        outputs = run(feeds)
        floors = _floors(reference, interface, feeds | full) if reference else None
        if floors is None:
            moved = run(_one_level_off(feeds))
            limits = {name: _apart(moved[name], array) for name, array in outputs.items()}
        else:
            limits = {name: 2 * MULTIPLE * floors[name] for name in outputs}
        yield CCall(feeds, outputs, limits)
        states = {state.name: outputs[state.output] for state in interface.states}


def golden_case(run: Runner, graph: onnx.ModelProto, interface: Interface) -> GoldenCase:
    """Return the file's golden case for one row, or one recorded here where that can't be cut into calls.

    Raises:
        InputError: the stream of a file has none, or it is shorter than a call.
    """
    golden, stream = interface.manifest.golden, interface.manifest.stream
    if stream is not None:
        return _from_stream(stream.golden, interface)
    case = golden and _from_file(golden, interface)
    return _end(run, case, interface) if case else _record(run, graph, interface)


def _from_stream(golden: Golden | None, interface: Interface) -> GoldenCase:
    """Cut the case of a stream into calls from the reset state.

    Frames before the first real one are zeros here, and of the outputs without a time axis there is the last
    result alone.
    """
    manifest, chunk = interface.manifest, interface.chunk
    steps = 0 if golden is None else manifest.steps(golden.inputs)
    calls = steps // chunk
    if golden is None or any(interface.early(port) >= calls * interface.runs for port in interface.outputs):
        raise InputError(
            f"the file's golden case has {steps} steps, too few for calls of {chunk}; take a smaller --chunk"
        )
    cut = partial(_cut, interface, calls, 0)
    names = [port.name for port in interface.outputs if port.time_axis is not None or not steps % chunk]
    return GoldenCase(
        calls,
        _feeds(calls, {port.name: cut(port.name, golden.inputs) for port in interface.inputs})
        | {state.name: state.reset.reshape(1, -1) for state in interface.states},
        {name: cut(name, golden.outputs, manifest.delays[name]) for name in names},
        {name: cut(name, _limits(golden), manifest.delays[name])[-1] for name in names},
        "the golden case of the file's stream",
    )


def _from_file(golden: Golden, interface: Interface) -> GoldenCase | None:
    manifest, chunk = interface.manifest, interface.chunk
    row, steps = 0, manifest.steps(golden.inputs)
    if manifest.lengths is not None:
        valid = golden.inputs[manifest.lengths]
        row, steps = int(valid.argmax()), int(valid.max())
    several = any(isinstance(axis, str) and "*" in axis for each in manifest.axes.values() for axis in each)
    rows, _ = case_size(manifest, golden.inputs)
    if steps % chunk or (several and rows > 1):
        return None
    calls = steps // chunk
    cut = partial(_cut, interface, calls, row)
    return GoldenCase(
        calls,
        _feeds(calls, {port.name: cut(port.name, golden.inputs) for port in interface.inputs})
        | {state.name: cut(state.name, golden.inputs) for state in interface.states},
        {name: cut(name, golden.outputs) for name in golden.outputs},
        {name: cut(name, _limits(golden))[0] for name in golden.outputs},
        "the end of the file's golden case",
    )


def _cut(
    interface: Interface, calls: int, row: int, name: str, arrays: Mapping[str, Array], early: int = 0
) -> Array:
    """Return one row of an array call by call, ``(calls, size)``, behind ``early`` frames of zeros.

    ``(1, size)`` where it has no time axis.
    """
    array, axes = arrays[name], interface.manifest.axes[name]
    batch, time = interface.manifest.batch_axis(axes), interface.manifest.time_axis(axes)
    if batch is not None:
        array = array.take([row], batch)
    if time is None:
        return array.reshape(1, -1)
    shape = resolve(axes, interface.sizes)
    assert shape is not None
    padded = np.pad(array, [(early if axis == time else 0, 0) for axis in range(array.ndim)])
    parts = np.split(padded.take(range(calls * shape[time]), time), calls, time)
    return np.stack([part.reshape(-1) for part in parts])


def _feeds(calls: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.broadcast_to(array, (calls, array.shape[1])) for name, array in inputs.items()}


def _limits(golden: Golden) -> dict[str, Array]:
    return {
        name: np.broadcast_to(golden_limits(golden, name), array.shape)
        for name, array in golden.outputs.items()
    }


def _end(run: Runner, case: GoldenCase, interface: Interface) -> GoldenCase:
    """Return the last calls of a case, from the states that onnxruntime has before them."""
    states = {state.name: case.feeds[state.name].reshape(state.shape) for state in interface.states}
    for call in range(case.calls - _GOLDEN):
        inputs = {port.name: port.from_c(case.feeds[port.name][call]) for port in interface.inputs}
        outputs = run({**inputs, **states})
        states = {state.name: outputs[state.output] for state in interface.states}
    return replace(
        case,
        calls=min(case.calls, _GOLDEN),
        feeds={name: array[-_GOLDEN:] for name, array in case.feeds.items()}
        | {name: array.reshape(1, -1) for name, array in states.items()},
        outputs={name: array[-_GOLDEN:] for name, array in case.outputs.items()},
    )


def _record(run: Runner, graph: onnx.ModelProto, interface: Interface) -> GoldenCase:
    calls = list(run_calls(run, graph, interface, _GOLDEN))
    timed = {port.name for port in interface.outputs if port.time_axis is not None}
    names = [port.name for port in interface.inputs]
    return GoldenCase(
        len(calls),
        {name: np.stack([call.feeds[name].reshape(-1) for call in calls]) for name in names}
        | {state.name: state.reset.reshape(1, -1) for state in interface.states},
        {
            name: np.stack([call.outputs[name].reshape(-1) for call in calls])[0 if name in timed else -1 :]
            for name in calls[0].outputs
        },
        # the errors of one call are in the states of the next
        {
            name: np.sum([np.broadcast_to(call.limits[name], array.shape) for call in calls], 0).reshape(-1)
            for name, array in calls[0].outputs.items()
        },
        "onnxruntime",
    )


def _floors(graph: Graph64, interface: Interface, feeds: Mapping[str, Array]) -> Mapping[str, Array] | None:
    try:
        return expected(graph, feeds, fixed_axes(interface.manifest), draws=MANY_DRAWS).floors
    except RuntimeError:  # the evaluator in float64 lacks more than it says beforehand
        return None


def _one_level_off(feeds: Mapping[str, Array]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            level = (max(array.max(), 0) - min(array.min(), 0)) / _LEVELS
            moved[name] = np.asarray(array + level * rng.integers(-1, 2, array.shape), array.dtype)
    return moved


def _apart(one: Array, other: Array) -> Array:
    return np.asarray(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
