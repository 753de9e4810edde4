"""The golden case that a file carries, replayed on this device: whole, and in chunks with carried states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import Core
from .errors import CheckFailedError, InputError, ManifestError
from .manifest import Golden
from .state import State
from .tolerance import Comparison, compare, limit_for

__all__ = ["SelfTest", "compare_golden", "selftest"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SelfTest:
    """What a replay of the golden case found."""

    whole: tuple[Comparison, ...]
    """Each output and state of the case in one call."""
    chunked: tuple[Comparison, ...]
    """The same after two calls with carried states; empty where the file can't be fed in chunks."""

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
    """Replay the golden case; see ``Model.selftest``."""
    golden = core.manifest.golden
    if golden is None:
        raise InputError("this file carries no golden case; export it again with lstm-edge export")
    _check_whole(core, golden)
    outputs = core.call(golden.inputs)
    whole = compare_golden(golden, core.manifest.all_outputs(*outputs))
    cut = _cut(core, golden)
    return SelfTest(whole, compare_golden(golden, _in_chunks(core, golden, cut)) if cut else ())


def _check_whole(core: Core, golden: Golden) -> None:
    """Refuse a golden case that leaves something out: what is not compared would not be proven."""
    manifest = core.manifest
    for role, found, expected in (
        ("inputs", golden.inputs, manifest.input_names),
        ("outputs", golden.outputs, manifest.output_names),
    ):
        if set(found) != set(expected):
            raise ManifestError(
                f"the golden case has the {role} {sorted(found)}, the file {sorted(expected)}; export again"
            )


def compare_golden(golden: Golden, outputs: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Compare outputs with a golden case, each within its own limit or the policy's for its dtype."""
    records = []
    for name, expected in golden.outputs.items():
        floor = golden.floor.get(name, 0.0)
        if expected.dtype.kind != "f":
            records.append(compare(name, outputs[name], expected, floor=0.0, limit=0.0))
            continue
        dtype = expected.dtype.name
        limit = golden.limit.get(name, limit_for(expected, floor, dtype))
        records.append(compare(name, outputs[name], expected, floor=floor, limit=limit, dtype=dtype))
    return tuple(records)


def _cut(core: Core, golden: Golden) -> int:
    """Return the step after which the case is cut in two; 0 where it can't be."""
    manifest = core.manifest
    if not manifest.streamable or manifest.sequence is None:
        return 0
    steps = [
        golden.inputs[spec.name].shape[axis]
        for spec in core.data
        if (axis := manifest.time_axis(spec.axes)) is not None
    ]
    if manifest.lengths is not None:
        steps.append(int(golden.inputs[manifest.lengths].min()))
    return min(steps, default=0) // 2


def _in_chunks(core: Core, golden: Golden, cut: int) -> dict[str, Array]:
    manifest = core.manifest
    state = State(manifest.states_in(golden.inputs), core.identity)
    valid = golden.inputs[manifest.lengths] if manifest.lengths is not None else None
    parts = []
    for start, stop in ((0, cut), (cut, None)):
        x = {}
        for spec in core.data:
            place = manifest.time_axis(spec.axes)
            index = () if place is None else (slice(None),) * place + (slice(start, stop),)
            x[spec.name] = golden.inputs[spec.name][index]
        lengths = None if valid is None else np.full_like(valid, cut) if stop else valid - cut
        outputs, state = core.run(x, state, lengths)
        parts.append(outputs)
    joined = {}
    for spec in manifest.outputs:
        pieces = [part[spec.name] for part in parts]
        axis = manifest.time_axis(spec.axes)
        joined[spec.name] = pieces[1] if axis is None else np.concatenate(pieces, axis)
    return manifest.all_outputs(joined, state)
