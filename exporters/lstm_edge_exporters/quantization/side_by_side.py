"""Running the float file and the smaller one on the same inputs, each with its own state."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.model import Model
from lstm_edge_runtime.state import State

from .cases import Case

__all__ = ["Pair", "run_both", "step_both"]

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]
"""An output of the float file, and the same of the smaller one."""


def run_both(before: Model, after: Model, case: Case) -> dict[str, Pair]:
    """Run both files on ``case``; gives every output by name, states by their output names."""
    found, _ = _run((before, after), case.inputs, (case.state, case.state), case.lengths)
    return found


def step_both(before: Model, after: Model, cases: Sequence[Case], steps: int) -> Iterator[dict[str, Pair]]:
    """Go through the samples of ``cases`` on end, from the first one's state, and give every call's outputs.

    Args:
        before: the float file.
        after: the smaller file.
        cases: whose samples; they are repeated where they are fewer than ``steps``.
        steps: time steps in all, one a call; all in one call where a file can't carry states.
    """
    states: tuple[Mapping[str, Array] | None, ...] = (cases[0].state, cases[0].state)
    for inputs in _timeline(before, cases, steps):
        found, states = _run((before, after), inputs, states)
        yield found


def _run(
    models: tuple[Model, Model],
    inputs: Mapping[str, Array],
    states: Sequence[Mapping[str, Array] | None],
    lengths: Array | None = None,
) -> tuple[dict[str, Pair], tuple[State, ...]]:
    sides, new = [], []
    for model, state in zip(models, states, strict=True):
        outputs, after = model.run(inputs, _start(model, state), lengths)
        sides.append({**outputs, **{spec.output: after[spec.input] for spec in model.states}})
        new.append(after)
    return {name: (array, sides[1][name]) for name, array in sides[0].items()}, tuple(new)


def _start(model: Model, state: Mapping[str, Array] | None) -> State | None:
    if not state:
        return None
    return State({spec.input: state[spec.input].astype(spec.dtype) for spec in model.states}, model.identity)


def _timeline(model: Model, cases: Sequence[Case], count: int) -> Iterator[dict[str, Array]]:
    """Return inputs of each call: the cases' samples on end, repeated as needed, ``count`` steps in all."""
    manifest = model.manifest
    sequence = manifest.sequence if manifest else None
    names = set(cases[0].inputs)
    axis = {
        spec.name: spec.axes.index(sequence) if sequence in spec.axes else None
        for spec in model.inputs
        if spec.name in names
    }
    if sequence is None:
        for step in range(count):
            yield dict(cases[step % len(cases)].inputs)
        return
    first = cases[0].inputs
    joined = {}
    for name, along in axis.items():
        same = [case.inputs[name] for case in cases[:count] if along is not None]
        joined[name] = np.concatenate(same, axis=along) if along is not None else first[name]
    width = 1 if manifest and manifest.states and not manifest.unstreamable else count
    for start in range(0, count, width):
        steps = start + np.arange(width)
        yield {
            name: array
            if (along := axis[name]) is None
            else array.take(steps % array.shape[along], axis=along)
            for name, array in joined.items()
        }
