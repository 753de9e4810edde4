"""Rest: the states that a network settles into on silence, from which a stream starts without a transient.

Silence is zero in every input, in the units of the file. The states are followed in float64, over a first
span and then over as many steps as before, again and again. Of a state that approaches rest by a constant
factor a step, however near to 1, the change over the last span bounds what is left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Manifest, StateSpec
from lstm_edge_runtime.tolerance import distance

from .cases import CaseGenerator, full_length

REST = "rest"
"""In the provenance of a manifest: whether the reset values are the states at rest."""
_MOVED = 1e-7
"""Largest change of a state at rest, as a fraction of its largest element, or of 1 if that is smaller."""
_FIRST, _MOST = 64, 1 << 17
"""Steps of the first span, and of all."""
_CALL = 4096
"""Steps of a call."""
_PUSH, _RETURN = 1e-3, 4096
"""Change that must not grow, in the same unit, and the steps that it has."""
_EQUAL = 16.0
"""Rounding errors of a state's dtype by which two computations of its rest may differ."""


@dataclass(frozen=True)
class Rest:
    """States at rest."""

    states: Mapping[str, Array]
    """By input name: one row, in float64."""
    steps: int
    """Steps of silence from the reset values after which nothing moved."""

    def __str__(self) -> str:
        """Return it in words."""
        return f"every state was at rest after {self.steps:,} steps of silence, and starts there"


def refuse_past(past: Sequence[StateSpec]) -> None:
    """Refuse states of past steps.

    Raises:
        UnsupportedError: there are some.
    """
    if past:
        raise UnsupportedError(
            f"state {past[0].input} holds past steps, and what the file was made from can't be started from "
            "others than its padding, so that a rest can't be verified; leave rest out"
        )


def find_rest(manifest: Manifest, run: Runner) -> Rest:
    """Follow the states on silence until they settle, and verify that they stay.

    Args:
        manifest: the file's, with the reset values to start from.
        run: runs the network in float64.

    Raises:
        UnsupportedError: there are no states to carry, or silence is not defined for an input.
        CheckFailedError: the states do not settle within 131,072 steps, oscillate, or are not stable.
    """
    if reason := next(_why_none(manifest), ""):
        raise UnsupportedError(f"{reason}; leave rest out")
    cases = CaseGenerator.of(manifest)

    def follow(states: Mapping[str, Array], steps: int) -> Mapping[str, Array]:
        call = min(steps, _CALL) if manifest.time_axes else 1
        drawn = cases.case(1, call, at_reset=True).feeds
        zeros = {spec.name: np.zeros_like(drawn[spec.name]) for spec in manifest.data_inputs}
        feeds = full_length(manifest, {**drawn, **zeros})
        for _ in range(steps // call):
            states = manifest.states_out(run({**feeds, **states}))
        return states

    start = manifest.states_in(cases.case(1, 1, at_reset=True).feeds).items()
    states: Mapping[str, Array] = {name: array.astype(_wide(array)) for name, array in start}
    steps, moved = 0, {"": np.inf}
    while not all(change <= _MOVED for change in moved.values()):
        if steps == _MOST or not all(np.isfinite(each).all() for each in states.values()):
            name, change = max(moved.items(), key=lambda each: each[1])
            raise CheckFailedError(
                f"the states do not settle on silence: after {steps:,} steps {name} still moves by "
                f"{change:.3g} over {steps // 2:,} steps; leave rest out"
            )
        span = steps or _FIRST
        before, states, steps = states, follow(states, span), steps + span
        moved = _distance(before, states)
    for name, change in _distance(states, follow(states, 1)).items():
        if change > _MOVED:
            raise CheckFailedError(
                f"the states do not settle on silence: after {steps:,} steps {name} moves by {change:.3g} at "
                f"every step and comes back within {steps // 2:,}; leave rest out"
            )
    rng = np.random.default_rng(0)
    pushed = {
        name: array + _PUSH * _unit(array) * rng.uniform(-1, 1, array.shape)
        if array.dtype.kind == "f"
        else array
        for name, array in states.items()
    }
    for name, change in _distance(states, follow(pushed, _RETURN)).items():
        if change > _PUSH:
            raise CheckFailedError(
                f"the states at rest are not stable: a change of {_PUSH} grows to {change:.3g} in {name} "
                f"within {_RETURN:,} steps of silence; leave rest out"
            )
    return Rest({state.input: _one_row(state, states[state.input]) for state in manifest.states}, steps)


def with_reset(manifest: Manifest, values: Mapping[str, Array]) -> Manifest:
    """Return the manifest with these reset values, one row of each state by input name."""
    states = (
        state._replace(reset=array if np.ptp(array) else float(array.flat[0]))
        for state, array in ((each, values[each.input].astype(each.dtype)) for each in manifest.states)
    )
    return manifest._replace(states=tuple(states), provenance={**manifest.provenance, REST: True})


def is_at_rest(state: StateSpec, rest: Array) -> bool:
    """Return whether a state's reset value is ``rest`` but for rounding."""
    limit = _EQUAL * float(np.finfo(state.dtype).eps) if np.dtype(state.dtype).kind == "f" else 0.0
    return bool(np.all(np.abs(np.asarray(state.reset, np.float64) - rest) <= limit * _unit(rest)))


def _why_none(manifest: Manifest) -> Iterator[str]:
    """Yield why a stream of the network has no rest to start from."""
    if manifest.stream is not None or any(state.start for state in manifest.states):
        late = any(manifest.delays.values()) or any(state.start for state in manifest.states)
        why = f"takes {manifest.unit} steps at a time, by a graph of its own"
        why = "is behind, and its states are held at padding at first" if late else why
        yield f"a stream of this network {why}, so that it can't start at rest"
    if not manifest.streamable:
        reason = manifest.unstreamable or "the file has no states"
        yield f"{reason}, so that there is no state to start from"
    for spec in manifest.data_inputs:
        if np.dtype(spec.dtype).kind != "f":
            yield f"input {spec.name} is {spec.dtype}, and silence is zero in float inputs"


def _wide(array: Array) -> Any:
    return np.float64 if array.dtype.kind == "f" else array.dtype


def _unit(array: Array) -> float:
    """Return the unit of a state's changes: its largest element, or 1 if that is smaller."""
    return max(1.0, float(np.abs(array).max(initial=0.0)))


def _distance(one: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest change of each state; infinite where one is no longer finite."""
    found = {}
    for name, array in other.items():
        away = float(distance(one[name], array).max(initial=0.0)) / _unit(one[name])
        found[name] = away if np.isfinite(array).all() and np.isfinite(one[name]).all() else np.inf
    return found


def _one_row(state: StateSpec, array: Array) -> Array:
    """Return a state with one element along each axis that has a name.

    Raises:
        UnsupportedError: elements along such an axis are not alike.
    """
    axes = tuple(place for place, axis in enumerate(state.axes) if isinstance(axis, str))
    if np.ptp(array, axis=axes).max(initial=0.0) > _MOVED * _unit(array):
        raise UnsupportedError(
            f"state {state.input} {describe(state.axes)} has no one rest for every row; leave rest out"
        )
    return array[tuple(slice(1 if isinstance(axis, str) else None) for axis in state.axes)]
