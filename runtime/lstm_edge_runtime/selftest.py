"""The golden cases that a file carries, replayed in chunks with carried states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .axes import check_array, parse_sum
from .errors import CheckFailedError, ContractError, InputError, ManifestError, first_line
from .manifest import Array, Golden, Manifest, TensorSpec

Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs a file: every input by name in, every output by name out, those of states included."""


class Comparison(NamedTuple):
    """How far one output is from what is recorded; the worst element is the one nearest to its limit."""

    name: str
    max_abs: float
    """The largest absolute difference; infinity where one side is not finite and the other differs."""
    ratio: float
    """The difference of the worst element as a fraction of its limit: 1 is at the limit."""
    where: tuple[int, ...]
    """The index of the worst element."""
    got: float = np.nan
    expected: float = np.nan
    limit: float = 0.0
    """Of the worst element."""

    @property
    def ok(self) -> bool:
        """Whether every element is within its limit."""
        return self.ratio <= 1

    @property
    def error(self) -> float:
        """The absolute difference of the worst element."""
        difference = abs(self.got - self.expected)
        return difference if np.isfinite(difference) else self.max_abs

    def __str__(self) -> str:
        """Return in one line what differs, where and by how much."""
        return (
            f"{self.name} differs by {self.max_abs:.3g} at {list(self.where)} (got {self.got:.9g}, "
            f"expected {self.expected:.9g}; limit {self.limit:.3g})"
        )


@dataclass(frozen=True)
class SelfTest:
    """Results of replaying the golden cases."""

    cases: tuple[tuple[Comparison, ...], ...]
    """Of each case each output and state."""

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All of them."""
        return tuple(record for case in self.cases for record in case)

    @property
    def ok(self) -> bool:
        """Whether every output is within its limit."""
        return all(record.ok for record in self.comparisons)

    @property
    def worst(self) -> Comparison:
        """The one nearest to its limit, or furthest beyond it."""
        return max(self.comparisons, key=lambda record: record.ratio)

    def require(self) -> None:
        """Raise ``CheckFailedError`` with the worst element where an output is beyond its limit."""
        if not self.ok:
            raise CheckFailedError(f"the golden case fails on this device: {self.worst}")


def selftest(manifest: Manifest, run: Runner) -> SelfTest:
    """Replay the golden cases of a file.

    Raises:
        InputError: the file carries no golden case.
        ManifestError: a golden case leaves an input, an output or a state out.
        CheckFailedError: the file does not run on a case.
    """
    golden = manifest.golden
    if golden is None:
        raise InputError("this file has no golden case; export it again with lstm-edge export")
    for case in (golden, *golden.more):
        check_golden_case(manifest, case)
    try:
        found = [compare_golden(case, _replay(manifest, run, case)) for case in (golden, *golden.more)]
    except (ContractError, InputError) as error:
        raise CheckFailedError(f"the golden case does not run: {first_line(error)}") from error
    return SelfTest(tuple(found))


def _replay(manifest: Manifest, run: Runner, golden: Golden) -> dict[str, Array]:
    """Return what a case gives, run a unit, another one, and then the rest, from state to state."""
    time, start, outputs = manifest.time_axes, 0, list[Mapping[str, Array]]()
    states = manifest.states_in(golden.inputs)
    for size in _sizes(manifest, golden):
        feeds = {
            name: array.take(range(start, start + size), time[name]) if name in time else array
            for name, array in golden.inputs.items()
        }
        if manifest.lengths is not None:
            lengths = golden.inputs[manifest.lengths]
            feeds[manifest.lengths] = np.minimum(lengths - start, size).astype(lengths.dtype)
        outputs.append(run(feeds | states))
        states, start = manifest.states_out(outputs[-1]), start + size
    joined = dict(outputs[-1])
    for name in manifest.output_names:
        if name in time:
            joined[name] = np.concatenate([each[name] for each in outputs], time[name])
        elif name in manifest.counts:
            joined[name] = np.sum([each[name] for each in outputs], axis=0, dtype=joined[name].dtype)
    if manifest.lengths is not None:
        _forget_padding(manifest, golden, joined)
    return joined


def _forget_padding(manifest: Manifest, golden: Golden, outputs: dict[str, Array]) -> None:
    """Put what is recorded in the place of what an engine gives beyond a row's length."""
    lengths = golden.inputs[manifest.lengths or ""].reshape(-1, 1)
    for spec in manifest.outputs:
        rows, time, expected = (
            manifest.batch_axis(spec.axes),
            manifest.time_axis(spec.axes),
            golden.outputs[spec.name],
        )
        if rows is not None and time is not None and outputs[spec.name].shape == expected.shape:
            outputs[spec.name] = np.array(outputs[spec.name])
            own, given = (np.moveaxis(each, (rows, time), (0, 1)) for each in (outputs[spec.name], expected))
            beyond = np.arange(own.shape[1]) >= lengths
            own[beyond] = given[beyond]


def _sizes(manifest: Manifest, golden: Golden) -> list[int]:
    """Return the steps of each chunk, one where chunks are not the whole; a row may end in the last."""
    steps = manifest.steps(golden.inputs)
    shortest = steps if manifest.lengths is None else int(golden.inputs[manifest.lengths].min(initial=steps))
    axes = [axis for spec in manifest.outputs for axis in spec.axes if spec.name not in manifest.time_axes]
    folded = any(manifest.sequence in parse_sum(axis)[0] for axis in axes if isinstance(axis, str))
    if not manifest.streamable or manifest.sequence is None or folded or shortest < 3 * manifest.unit:
        return [steps]
    return [manifest.unit, manifest.unit, steps - 2 * manifest.unit]


def check_golden_case(manifest: Manifest, golden: Golden) -> None:
    """Refuse a golden case that leaves something out, which would not be verified, or does not fit the file.

    An expected output may be of a wider dtype: a half-precision file is compared with the one it was made of.

    Raises:
        ManifestError: its inputs, outputs or states are not the file's.
        CheckFailedError: an array has another shape or dtype than the file's.
    """
    sizes: dict[str, int] = {}
    for role, found, expected in (
        ("inputs", golden.inputs, manifest.input_names),
        ("outputs", golden.outputs, manifest.output_names),
    ):
        if set(found) != set(expected):
            raise ManifestError(
                f"the golden case has the {role} {sorted(found)}, the file {sorted(expected)}; export again"
            )
    states = manifest.states
    try:
        for spec in (*manifest.inputs, *(TensorSpec(s.input, s.dtype, s.axes) for s in states)):
            check_array(spec, golden.inputs[spec.name], sizes)
        for spec in (*manifest.outputs, *(TensorSpec(s.output, s.dtype, s.axes) for s in states)):
            array = golden.outputs[spec.name]
            wider = np.can_cast(spec.dtype, array.dtype)
            check_array(spec._replace(dtype=array.dtype.name) if wider else spec, array, sizes)
    except InputError as error:
        raise CheckFailedError(f"the golden case does not run: {first_line(error)}") from error


def compare_golden(golden: Golden, outputs: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Compare outputs with a golden case, each within the case's own limits."""
    return tuple(
        compare(name, outputs[name], expected, golden_limits(golden, name))
        for name, expected in golden.outputs.items()
    )


def compare(name: str, got: Array, expected: Array, limits: Array) -> Comparison:
    """Compare one output with what is expected, in float64.

    Equal infinities, and NaN in both places, agree; another shape is infinitely far away.

    Args:
        name: the output's.
        got: any shape.
        expected: likewise.
        limits: largest absolute differences, which broadcast against ``expected``.
    """
    if got.shape != expected.shape:
        return Comparison(name, np.inf, np.inf, ())
    left, right = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
        difference[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
        limits = np.broadcast_to(limits, right.shape)
        ratio = np.where(difference > 0, difference / limits, 0)
    if not ratio.size:
        return Comparison(name, 0, 0, ())
    where = tuple(int(each) for each in np.unravel_index(ratio.argmax(), ratio.shape))
    worst = float(ratio[where]), where, float(left[where]), float(right[where]), float(limits[where])
    return Comparison(name, float(difference.max()), *worst)


def golden_limits(golden: Golden, name: str) -> Array:
    """Return the largest absolute differences at which output ``name`` passes, broadcastable against it.

    Use the budget if recorded, otherwise the per-channel limits, otherwise the rule for one floor an output.
    """
    if name in golden.limit:
        return np.asarray(golden.limit[name])
    if name in golden.limits:
        return golden.limits[name]
    expected = golden.outputs[name]
    if expected.dtype.kind != "f":  # whole numbers must be equal
        return np.asarray(0.0)
    scale, kind = np.abs(expected[np.isfinite(expected)]).max(initial=0), np.finfo(expected.dtype)
    return np.asarray(8 * (golden.floor.get(name, 0.0) + float(kind.eps * scale + kind.tiny)))
