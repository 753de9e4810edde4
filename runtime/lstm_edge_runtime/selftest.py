"""The golden cases that a file carries, replayed with states carried between chunks."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .errors import (
    CheckFailedError,
    InputError,
    LstmEdgeError,
    ManifestError,
    first_line,
)
from .manifest import Array, Golden, Manifest

Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs a file: every input by name in, every output by name out, those of states
included."""


class Comparison(NamedTuple):
    """How far one output is from what is recorded; the worst element is the one nearest
    to its limit.
    """

    name: str
    max_abs: float
    """The largest absolute difference; infinity where one side is not finite and the
    other differs."""
    ratio: float
    where: tuple[int, ...]
    limit: float = 0.0
    """The difference of the worst element as a fraction of its limit, its index, and
    its limit."""
    problem: str = ""
    """Why no elements were compared; empty if they were."""

    @property
    def ok(self) -> bool:
        """Whether every element is within its limit."""
        return self.ratio <= 1

    def __str__(self) -> str:
        """Return in one line what differs, where and by how much."""
        if self.problem:
            return f"{self.name} {self.problem}"
        return (
            f"{self.name} differs by {self.max_abs:.3g} at {list(self.where)} (limit"
            f" {self.limit:.3g})"
        )


@dataclass(frozen=True)
class SelfTest:
    """Results of replaying the golden cases."""

    cases: tuple[tuple[Comparison, ...], ...]
    """The outputs and states of each case."""

    @property
    def ok(self) -> bool:
        """Whether every output is within its limit."""
        return self.worst.ok

    @property
    def worst(self) -> Comparison:
        """The one nearest to its limit, or furthest beyond it."""
        return max(
            (record for case in self.cases for record in case),
            key=lambda record: record.ratio,
        )

    def require(self) -> None:
        """Raise ``CheckFailedError`` with the worst element where an output is beyond
        its limit.
        """
        if not self.ok:
            raise CheckFailedError(
                f"the golden case fails on this device: {self.worst}"
            )


def selftest(manifest: Manifest, run: Runner) -> SelfTest:
    """Replay the golden cases of a file.

    Raises:
        InputError, ManifestError: there is no golden case, or one leaves an input, an
            output or a state out.
        CheckFailedError: the file does not run on a case.
    """
    if manifest.golden is None:
        raise InputError(
            "this file has no golden case; export it again with lstm-edge export"
        )
    cases = []
    for case in (manifest.golden, *manifest.golden.more):
        check_golden_case(manifest, case)
        try:
            outputs = _replay(manifest, run, case)
        except LstmEdgeError as error:
            raise CheckFailedError(
                f"the golden case does not run: {first_line(error)}"
            ) from error
        expected = case.outputs.items()
        cases.append(
            tuple(
                compare(n, outputs[n], array, golden_limits(case, n))
                for n, array in expected
            )
        )
    return SelfTest(tuple(cases))


def check_golden_case(manifest: Manifest, golden: Golden) -> None:
    """Raise ``ManifestError`` if a case leaves something out, which would not be
    verified.
    """
    left_out = {*manifest.input_names, *manifest.output_names} - {
        *golden.inputs,
        *golden.outputs,
    }
    if left_out:
        raise ManifestError(
            f"the golden case has no {', '.join(sorted(left_out))}; export the model"
            " again"
        )


def _replay(manifest: Manifest, run: Runner, golden: Golden) -> dict[str, Array]:
    """Return the outputs of a case, run in two chunks with carried states: a unit, and
    the rest.
    """
    time = manifest.time_axes
    outputs = list[Mapping[str, Array]]()
    start = 0
    states = {state.input: golden.inputs[state.input] for state in manifest.states}
    steps = manifest.steps(golden.inputs)
    lengths = golden.inputs.get(manifest.lengths or "")
    shortest = steps if lengths is None else int(lengths.min(initial=steps))
    others = [str(spec.axes) for spec in manifest.outputs if spec.name not in time]
    folded = manifest.sequence in re.findall(
        r"\w+", " ".join(others)
    )  # steps, but not as frames
    cut = (
        manifest.streamable
        and manifest.sequence is not None
        and not folded
        and shortest > manifest.unit
    )
    for end in (manifest.unit, steps) if cut else (steps,):
        feeds = {
            name: array.take(range(start, end), time[name]) if name in time else array
            for name, array in golden.inputs.items()
        }
        if lengths is not None:
            feeds[manifest.lengths or ""] = np.minimum(
                lengths - start, end - start
            ).astype(lengths.dtype)
        outputs.append(run(feeds | states))
        states = manifest.states_out(outputs[-1])
        start = end
    joined = dict(outputs[-1])
    for name in manifest.output_names:
        if name in time:
            joined[name] = _join(name, [output[name] for output in outputs], time[name])
        elif name in manifest.counts:
            joined[name] = np.sum(
                [output[name] for output in outputs], axis=0, dtype=joined[name].dtype
            )
    return joined if lengths is None else _without_padding(manifest, golden, joined)


def _join(name: str, chunks: Sequence[Array], time: int) -> Array:
    """Join the chunks of an output; ``CheckFailedError`` if their other axes differ."""
    shapes = {chunk.shape[:time] + chunk.shape[time + 1 :] for chunk in chunks}
    if len(shapes) > 1:
        found = " and ".join(str(chunk.shape) for chunk in chunks)
        raise CheckFailedError(
            f"the golden case fails on this device: {name} has shapes {found} in two"
            " chunks"
        )
    return np.concatenate(chunks, time)


def _without_padding(
    manifest: Manifest, golden: Golden, outputs: dict[str, Array]
) -> dict[str, Array]:
    """Return outputs with the recorded values beyond a row's length, where an engine
    may give any.
    """
    lengths = golden.inputs[manifest.lengths or ""].reshape(-1, 1)
    for spec in manifest.outputs:
        rows = manifest.batch_axis(spec.axes)
        time = manifest.time_axis(spec.axes)
        expected = golden.outputs[spec.name]
        if (
            rows is not None
            and time is not None
            and outputs[spec.name].shape == expected.shape
        ):
            outputs[spec.name] = np.array(outputs[spec.name])
            both = outputs[spec.name], expected
            output, recorded = (
                np.moveaxis(array, (rows, time), (0, 1)) for array in both
            )
            beyond = np.arange(output.shape[1]) >= lengths
            output[beyond] = recorded[beyond]
    return outputs


def compare(name: str, got: Array, expected: Array, limits: Array) -> Comparison:
    """Compare an output in float64, within absolute limits that broadcast against what
    is expected.

    Equal infinities, and NaN in both places, agree; another shape is infinitely far
    away.
    """
    if got.shape != expected.shape:
        about = f"has shape {got.shape}, expected {expected.shape}"
        return Comparison(name, np.inf, np.inf, (), problem=about)
    left = np.asarray(got, np.float64)
    right = np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
        difference = np.asarray(distance)  # NumPy makes a scalar of an array of no axes
        difference[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
        limits = np.broadcast_to(limits, right.shape)
        ratio = np.where(difference > 0, difference / limits, 0)
    if not ratio.size:
        return Comparison(name, 0, 0, ())
    where = tuple(int(index) for index in np.unravel_index(ratio.argmax(), ratio.shape))
    return Comparison(
        name, float(difference.max()), float(ratio[where]), where, float(limits[where])
    )


def golden_limits(golden: Golden, name: str) -> Array:
    """Return the limits of an output: one for all of it, else those of its channels.

    Outputs of whole numbers have none and must be equal.
    """
    if name in golden.limit:
        return np.asarray(golden.limit[name])
    return golden.limits.get(name, np.zeros(()))
