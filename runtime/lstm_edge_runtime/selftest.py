"""The golden cases that a file carries, replayed with states carried between chunks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .chunks import Runner, folds_time, join_chunks, run_chunks
from .errors import (
    CheckFailedError,
    InputError,
    LstmEdgeError,
    ManifestError,
    first_line,
)
from .manifest import Array, Golden, Manifest


class Comparison(NamedTuple):
    """Difference of one output from the recorded one; the worst element is the one
    nearest to its limit.
    """

    name: str
    """Name of the output."""
    max_abs: float
    """The largest absolute difference; infinite if one side is not finite and the other
    differs."""
    ratio: float
    """The difference of the worst element, as a fraction of its limit."""
    where: tuple[int, ...]
    """The index of the worst element."""
    limit: float = 0.0
    """The limit of the worst element."""
    problem: str = ""
    """Why no elements were compared; empty if they were."""

    @property
    def ok(self) -> bool:
        """True if every element is within its limit."""
        return self.ratio <= 1

    def __str__(self) -> str:
        """Return the largest difference in one line: the output, the index and the
        value.
        """
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
        """True if every output is within its limit."""
        return self.worst.ok

    @property
    def worst(self) -> Comparison:
        """The comparison nearest to its limit, or furthest beyond it."""
        return max(
            (record for case in self.cases for record in case),
            key=lambda record: record.ratio,
        )

    def require(self) -> None:
        """Raise ``CheckFailedError`` with the worst element if an output exceeds its
        limit.
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
        comparisons = []
        for name, expected in case.outputs.items():
            limits = golden_limits(case, name)
            comparisons.append(
                compare(name, outputs[name], expected=expected, limits=limits)
            )
        cases.append(tuple(comparisons))
    return SelfTest(tuple(cases))


def check_golden_case(manifest: Manifest, golden: Golden) -> None:
    """Raise ``ManifestError`` if a case lacks an input or output, which would not be
    verified.
    """
    expected = {*manifest.input_names, *manifest.output_names}
    left_out = expected - {*golden.inputs, *golden.outputs}
    if left_out:
        names = ", ".join(sorted(left_out))
        raise ManifestError(f"the golden case has no {names}; export the model again")


def _replay(manifest: Manifest, run: Runner, golden: Golden) -> dict[str, Array]:
    """Return the outputs of a case, run in chunks with states carried."""
    sizes = _chunk_sizes(manifest, golden)
    chunks = list(run_chunks(run, manifest, feeds=golden.inputs, sizes=sizes))
    is_one_call = len(chunks) == 1
    outputs = dict(chunks[0]) if is_one_call else join_chunks(manifest, chunks)
    lengths = manifest.lengths_in(golden.inputs)
    if lengths is None:
        return outputs
    return _without_padding(
        manifest, golden, outputs=outputs, lengths=lengths.reshape(-1, 1)
    )


def _chunk_sizes(manifest: Manifest, golden: Golden) -> list[int]:
    """Return the steps of two chunks, a unit and the rest; of one call if the file or
    the case can't be divided.
    """
    steps = manifest.steps(golden.inputs)
    lengths = manifest.lengths_in(golden.inputs)
    shortest = steps if lengths is None else int(lengths.min(initial=steps))
    has_time = manifest.sequence is not None
    folded = any(folds_time(manifest, spec.axes) for spec in manifest.outputs)
    is_divisible = manifest.streamable and has_time and not folded
    if not is_divisible or shortest <= manifest.unit:
        return [steps]
    return [manifest.unit, steps - manifest.unit]


def _without_padding(
    manifest: Manifest, golden: Golden, outputs: dict[str, Array], lengths: Array
) -> dict[str, Array]:
    """Return outputs with the recorded values beyond the lengths ``(N, 1)``, where an
    engine may return anything.
    """
    filled = dict(outputs)
    for spec in manifest.outputs:
        rows = manifest.batch_axis(spec.axes)
        time = manifest.time_axis(spec.axes)
        expected = golden.outputs[spec.name]
        same_shape = outputs[spec.name].shape == expected.shape
        if rows is None or time is None or not same_shape:
            continue
        filled[spec.name] = np.array(outputs[spec.name])
        output = np.moveaxis(filled[spec.name], (rows, time), (0, 1))
        recorded = np.moveaxis(expected, (rows, time), (0, 1))
        beyond = np.arange(output.shape[1]) >= lengths
        output[beyond] = recorded[beyond]
    return filled


def compare(name: str, got: Array, expected: Array, limits: Array) -> Comparison:
    """Compare an output in float64 with the expected one, within absolute limits that
    broadcast against it.

    Equal infinities, and NaN in both places, agree; another shape is infinitely far
    away.
    """
    if got.shape != expected.shape:
        about = f"has shape {got.shape}, expected {expected.shape}"
        return Comparison(name, max_abs=np.inf, ratio=np.inf, where=(), problem=about)
    left = np.asarray(got, np.float64)
    right = np.asarray(expected, np.float64)
    is_equal = (left == right) | (np.isnan(left) & np.isnan(right))
    limits = np.broadcast_to(limits, right.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
        difference = np.where(is_equal, 0, distance)
        ratio = np.where(difference > 0, difference / limits, 0)
    if not ratio.size:
        return Comparison(name, max_abs=0, ratio=0, where=())
    worst = np.unravel_index(ratio.argmax(), ratio.shape)
    where = tuple(map(int, worst))
    return Comparison(
        name,
        max_abs=float(difference.max()),
        ratio=float(ratio[where]),
        where=where,
        limit=float(limits[where]),
    )


def golden_limits(golden: Golden, name: str) -> Array:
    """Return the limits of an output: one for all of it, else those of its channels.

    Outputs of whole numbers have none and must be equal.
    """
    if name in golden.limit:
        return np.asarray(golden.limit[name])
    return golden.limits.get(name, np.zeros(()))
