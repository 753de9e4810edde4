"""Calls as onnxruntime computes them, and how far C may be from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime import Model
from lstm_edge_runtime.manifest import Golden
from lstm_edge_runtime.selftest import golden_limit
from lstm_edge_runtime.state import State
from lstm_edge_runtime.tolerance import limit_for

from ...numerics.cases import Drawing, Source
from ...numerics.noise import DRAWS, apart, near
from ._interface import Interface

__all__ = ["Call", "GoldenCase", "golden_case", "run_calls"]

Array = npt.NDArray[Any]

_RECORDED = 4
"""Calls of a golden case that is recorded here."""
_LEVELS = 255
"""Steps of an int8 range."""


@dataclass(frozen=True)
class Call:
    """One call: what goes in, what onnxruntime gives, and the limits; all by name in the file."""

    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    limits: Mapping[str, float]


@dataclass(frozen=True)
class GoldenCase:
    """Successive calls with states carried, for the self-test in C; arrays are by their name in the file."""

    calls: int
    feeds: Mapping[str, Array]
    """Inputs ``(calls, size)``, and the states ``(1, size)`` to start from."""
    outputs: Mapping[str, Array]
    """``(calls, size)`` where the output has a time axis; else ``(1, size)``, after the last call."""
    limits: Mapping[str, float]
    """The largest absolute difference that passes."""
    origin: str
    """Where the expected values come from, in words."""


def run_calls(model: Model, interface: Interface, count: int, *, quantized: bool) -> Iterator[Call]:
    """Draw inputs and run them with states carried, at batch 1.

    The limit of an output is that of the tolerance policy. Its noise floor is how far onnxruntime's result
    moves when inputs and states move by one float32 place; where ``quantized``, a move of one int8 level is
    added, which a rounding error may well turn into.
    """
    golden = interface.manifest.golden
    examples = golden.inputs if golden else {}
    drawing = Drawing(
        tuple(
            Source(port.name, port.dtype, port.shape, "signal", examples.get(port.name))
            for port in interface.inputs
        ),
        batch=None,
        sequence=None,
    )
    states = {state.name: state.reset for state in interface.states}
    for place in range(count):
        feeds = {**drawing.case(1, interface.chunk, fresh=False, salt=place).feeds, **states}
        outputs = _run(model, interface, feeds)
        limits = dict.fromkeys(outputs, 0.0)
        for draw in range(DRAWS):
            moved = _run(model, interface, near(feeds, draw))
            for name, array in outputs.items():
                limits[name] = max(limits[name], apart(moved[name], array))
        for name, array in outputs.items():
            if array.dtype.kind == "f":
                limits[name] = limit_for(array, limits[name], array.dtype.name)
        if quantized:
            moved = _run(model, interface, _one_level_off(feeds))
            limits = {name: limit + apart(moved[name], outputs[name]) for name, limit in limits.items()}
        yield Call(feeds, outputs, limits)
        states = {state.name: outputs[state.output] for state in interface.states}


def golden_case(model: Model, interface: Interface, *, quantized: bool) -> GoldenCase:
    """Return the file's golden case for one row, or one recorded here where that can't be cut into calls."""
    golden = interface.manifest.golden
    return (golden and _from_file(golden, interface)) or _record(model, interface, quantized=quantized)


def _from_file(golden: Golden, interface: Interface) -> GoldenCase | None:
    manifest, chunk = interface.manifest, interface.chunk
    axes = {
        **{spec.name: spec.axes for spec in (*manifest.inputs, *manifest.outputs)},
        **{name: spec.axes for spec in manifest.states for name in (spec.input, spec.output)},
    }
    row, steps = 0, chunk
    for name, array in golden.inputs.items():
        if manifest.sequence in axes[name]:
            steps = array.shape[axes[name].index(manifest.sequence)]
    if manifest.lengths is not None:
        valid = golden.inputs[manifest.lengths]
        row, steps = int(valid.argmax()), int(valid.max())
    several = any(isinstance(axis, str) and "*" in axis for each in axes.values() for axis in each)
    rows = max(
        (
            array.shape[axes[name].index(manifest.batch)]
            for name, array in golden.inputs.items()
            if manifest.batch in axes[name]
        ),
        default=1,
    )
    if steps % chunk or (several and rows > 1):
        return None

    def cut(name: str, array: Array) -> Array:
        own = axes[name]
        if manifest.batch in own:
            array = array.take([row], own.index(manifest.batch))
        if manifest.sequence not in own:
            return array.reshape(1, -1)
        place = own.index(manifest.sequence)
        parts = np.split(array.take(range(steps), place), steps // chunk, place)
        return np.stack([part.reshape(-1) for part in parts])

    calls = steps // chunk
    inputs = {port.name: cut(port.name, golden.inputs[port.name]) for port in interface.inputs}
    return GoldenCase(
        calls,
        {name: np.broadcast_to(array, (calls, array.shape[1])) for name, array in inputs.items()}
        | {state.name: cut(state.name, golden.inputs[state.name]) for state in interface.states},
        {name: cut(name, array) for name, array in golden.outputs.items()},
        {name: golden_limit(golden, name) for name in golden.outputs},
        "the file's golden case",
    )


def _record(model: Model, interface: Interface, *, quantized: bool) -> GoldenCase:
    calls = list(run_calls(model, interface, _RECORDED, quantized=quantized))
    timed = {port.name for port in interface.outputs if port.time_axis is not None}
    names = [port.name for port in interface.inputs]
    return GoldenCase(
        len(calls),
        {name: np.stack([call.feeds[name].reshape(-1) for call in calls]) for name in names}
        | {state.name: state.reset.reshape(1, -1) for state in interface.states},
        {
            name: np.stack(
                [call.outputs[name].reshape(-1) for call in (calls if name in timed else calls[-1:])]
            )
            for name in calls[0].outputs
        },
        # the errors of one call are in the states of the next
        {name: sum(call.limits[name] for call in calls) for name in calls[0].outputs},
        "onnxruntime",
    )


def _run(model: Model, interface: Interface, feeds: Mapping[str, Array]) -> dict[str, Array]:
    state = State({each.name: feeds[each.name] for each in interface.states}, model.identity)
    outputs, after = model.run({port.name: feeds[port.name] for port in interface.inputs}, state)
    return outputs | {each.output: after[each.name] for each in interface.states}


def _one_level_off(feeds: Mapping[str, Array]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            level = (max(array.max(), 0) - min(array.min(), 0)) / _LEVELS
            moved[name] = np.asarray(array + level * rng.integers(-1, 2, array.shape), array.dtype)
    return moved
