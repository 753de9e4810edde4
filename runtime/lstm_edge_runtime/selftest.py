"""The golden cases that a file carries, replayed whole, in two chunks and step by step, states carried."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ._core import Core, as_lengths
from .axes import check_array, learn_sizes
from .chunks import Runner, join_chunks, run_chunks
from .errors import CheckFailedError, ContractError, InputError, ManifestError, first_line
from .manifest import Array, Golden, Manifest, TensorSpec
from .tolerance import MULTIPLE, Comparison, compare, limit_for


@dataclass(frozen=True)
class Replay:
    """One way in which one golden case was run."""

    how: str
    """``whole``, ``in two chunks`` or ``step by step`` (unit by unit)."""
    sizes: tuple[int, ...]
    """Steps of each chunk; empty for the whole."""
    case: int
    """Which case of the file, from 0."""
    comparisons: tuple[Comparison, ...]
    """Each output and state."""


@dataclass(frozen=True)
class SelfTest:
    """Results of replaying the golden cases."""

    replays: tuple[Replay, ...]

    @property
    def whole(self) -> tuple[Comparison, ...]:
        """Each output and state of each case in one call."""
        return tuple(record for each in self.replays if not each.sizes for record in each.comparisons)

    @property
    def chunked(self) -> tuple[Comparison, ...]:
        """The same after two calls and after single steps, with carried states.

        Empty if the file can't be fed in chunks.
        """
        return tuple(record for each in self.replays if each.sizes for record in each.comparisons)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All of them."""
        return self.whole + self.chunked

    @property
    def ok(self) -> bool:
        """Whether every output is within its limit."""
        return all(comparison.ok for comparison in self.comparisons)

    @property
    def worst(self) -> Comparison:
        """The one nearest to its limit, or furthest beyond it."""
        return max(self.comparisons, key=lambda comparison: comparison.ratio)

    def require(self) -> None:
        """Raise ``CheckFailedError`` with the worst element where an output is beyond its limit."""
        for how, records in (("whole", self.whole), ("in chunks", self.chunked)):
            failed = [record for record in records if not record.ok]
            if failed:
                worst = max(failed, key=lambda record: record.ratio)
                raise CheckFailedError(f"the golden case fails on this device ({how}): {worst}")


def selftest(core: Core) -> SelfTest:
    """Replay the golden cases of a file; see ``Model.selftest``."""
    manifest = core.manifest
    return SelfTest(tuple(replay_golden(manifest, lambda feeds: manifest.all_outputs(*core.call(feeds)))))


def replay_golden(manifest: Manifest, run: Runner) -> Iterator[Replay]:
    """Run every golden case in every way and compare.

    Args:
        manifest: the file's.
        run: runs the file: every input by name in, every output by name out.

    Raises:
        InputError: the file carries no golden case.
        ManifestError: a golden case leaves an input, an output or a state out.
        CheckFailedError: the file does not run on a case.
    """
    golden = manifest.golden
    if golden is None:
        raise InputError("this file has no golden case; export it again with lstm-edge export")
    cases = (golden, *golden.more)
    for case in cases:
        check_golden_case(manifest, case)
    for number, case in enumerate(cases):
        for how, sizes in _ways(manifest, case):
            try:
                if sizes:
                    outputs = join_chunks(manifest, list(run_chunks(run, manifest, case.inputs, sizes)))
                else:
                    outputs = dict(run(case.inputs))
            except ContractError as error:
                raise CheckFailedError(f"the golden case does not run {how}: {first_line(error)}") from error
            yield Replay(how, sizes, number, compare_golden(case, _within_lengths(manifest, case, outputs)))


def _within_lengths(manifest: Manifest, case: Golden, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs with the expected values in place of what is beyond a row's length: it means nothing."""
    found = dict(outputs)
    for spec in manifest.outputs if manifest.lengths is not None else ():
        time, batch = manifest.time_axis(spec.axes), manifest.batch_axis(spec.axes)
        if time is None or batch is None or spec.name not in found:
            continue
        expected, lengths = case.outputs[spec.name], case.inputs[manifest.lengths or ""].reshape(-1)
        beyond = np.arange(expected.shape[time]) >= lengths[:, None]
        shape = [size if axis in (time, batch) else 1 for axis, size in enumerate(expected.shape)]
        mask = (beyond if batch < time else beyond.T).reshape(shape)
        if found[spec.name].shape == expected.shape:
            found[spec.name] = np.where(mask, expected.astype(found[spec.name].dtype), found[spec.name])
    return found


def check_golden_case(manifest: Manifest, golden: Golden) -> None:
    """Refuse a golden case that leaves something out, which would not be verified, or does not fit the file.

    An expected output may be of a wider dtype: a half-precision file is compared with the one it was made of.

    Raises:
        ManifestError: its inputs, outputs or states are not the file's.
        CheckFailedError: an array has another shape or dtype than the file's, or a length is outside 1..L.
    """
    for role, found, expected in (
        ("inputs", golden.inputs, manifest.input_names),
        ("outputs", golden.outputs, manifest.output_names),
    ):
        if set(found) != set(expected):
            raise ManifestError(
                f"the golden case has the {role} {sorted(found)}, the file {sorted(expected)}; export again"
            )
    sizes: dict[str, int] = {}
    try:
        for specs, arrays, end in (
            (manifest.inputs, golden.inputs, "input"),
            (manifest.outputs, golden.outputs, "output"),
        ):
            for spec in (*specs, *(TensorSpec(getattr(s, end), s.dtype, s.axes) for s in manifest.states)):
                array = arrays[spec.name]
                if end == "output" and np.can_cast(spec.dtype, array.dtype):
                    learn_sizes(spec.name, spec.axes, array.shape, sizes)
                else:
                    check_array(spec, array, sizes)
        if manifest.lengths is not None:
            as_lengths(golden.inputs[manifest.lengths], manifest.lengths_input, sizes, manifest.sequence)
    except InputError as error:
        raise CheckFailedError(f"the golden case does not run: {first_line(error)}") from error


def compare_golden(golden: Golden, outputs: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Compare outputs with a golden case, each within the case's own limits.

    Outputs that the case has and ``outputs`` has not are left out.
    """
    records = []
    for name, expected in golden.outputs.items():
        if name in outputs:
            limits = golden_limits(golden, name)
            modeled = name in golden.limits and name not in golden.limit
            floor = limits / MULTIPLE if modeled else golden.floor.get(name, 0.0)
            dtype = expected.dtype.name if expected.dtype.kind == "f" else "float64"
            records.append(compare(name, outputs[name], expected, floor=floor, limit=limits, dtype=dtype))
    return tuple(records)


def golden_limits(golden: Golden, name: str) -> Array:
    """Return the largest absolute differences at which output ``name`` passes, broadcastable against it.

    Use the budget if recorded, otherwise the per-channel limits, otherwise the rule of older files.
    """
    if name in golden.limit:
        return np.asarray(golden.limit[name])
    if name in golden.limits:
        return golden.limits[name]
    expected = golden.outputs[name]
    if expected.dtype.kind != "f":  # whole numbers must be equal
        return np.asarray(0.0)
    return np.asarray(limit_for(expected, golden.floor.get(name, 0.0), expected.dtype.name))


def _ways(manifest: Manifest, golden: Golden) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return how a case is run: in words, and the sizes of its chunks."""
    yield "whole", ()
    if not manifest.streamable or manifest.sequence is None:
        return
    steps = manifest.steps(golden.inputs)
    # a row may end in the last chunk only
    shortest = steps if manifest.lengths is None else int(golden.inputs[manifest.lengths].min(initial=steps))
    unit, units = manifest.unit, shortest // manifest.unit
    if units > 1:
        yield "in two chunks", (units // 2 * unit, steps - units // 2 * unit)
    if units > 2:
        yield "step by step", (*[unit] * (units - 1), steps - (units - 1) * unit)
