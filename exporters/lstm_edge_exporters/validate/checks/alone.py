"""The file alone: what must hold whatever the network is, where there is no reference to compare with."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.axes import describe, resolve
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Golden, Manifest
from lstm_edge_runtime.selftest import compare_golden

from ...numerics.cases import CaseGenerator
from ...numerics.noise import Run
from ..file import ModelFile
from ..report import Check
from ..rows import take_row

__all__ = ["TITLE", "check"]

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

TITLE = "The file alone"
_OFFSET = 10_000
_ROWS = 3
_APART = 1e-5
"""How far, relative to its largest value, a float32 output may move when another row changes."""


def check(file: ModelFile, seed: int) -> Iterator[Check]:
    """Run at other sizes, change rows and steps one at a time, and repeat the rows of the golden case."""
    manifest, run = file.manifest, file.runner()
    golden = manifest.golden
    cases = CaseGenerator.of(manifest, golden.inputs if golden else {}, None, seed)
    steps = _golden_steps(manifest)
    yield _batches(manifest, run, cases, steps)
    if manifest.sequence is not None:
        yield _lengths(manifest, run, cases, steps)
    yield from _dependence(manifest, run, cases, steps, exact=file.precision in ("fp32", "fp64"))
    if golden is not None and manifest.batch is not None:
        yield _repeated(manifest, run, golden)


def _golden_steps(manifest: Manifest) -> int:
    """Return the golden case's time steps: a length that the file is known to take."""
    recorded = manifest.golden.inputs if manifest.golden else {}
    for spec in manifest.inputs:
        axis = manifest.time_axis(spec.axes)
        if axis is not None and spec.name in recorded:
            return int(recorded[spec.name].shape[axis])
    return 12


def _batches(manifest: Manifest, run: Run, cases: CaseGenerator, steps: int) -> Check:
    name = "runs at other batch sizes"
    if manifest.batch is None:
        return Check(name, "skipped", "the file has no batch axis")
    for n in (1, 2, 5):
        if said := _try(manifest, run, cases, n, steps):
            return Check(name, "failed", said, size=(n, steps))
    return Check(name, "passed")


def _lengths(manifest: Manifest, run: Run, cases: CaseGenerator, steps: int) -> Check:
    """Short sequences may be refused, as a convolution does; every other length may not."""
    name = "runs at other lengths"
    said = {
        length: _try(manifest, run, cases, 2, length) for length in (1, steps - 1, steps + 1, 2 * steps + 3)
    }
    ran = [length for length, reason in said.items() if not reason]
    if not ran:
        return Check(name, "failed", f"at no length but {steps}: {said[steps + 1]}", size=(2, steps + 1))
    return Check(name, "passed", f"at {', '.join(map(str, ran))} steps")


def _try(manifest: Manifest, run: Run, cases: CaseGenerator, n: int, length: int) -> str:
    """Say why the file does not run, or what comes out in another shape than stated."""
    case = cases.case(n, length, at_reset=False, offset=_OFFSET, full=True)
    try:
        outputs = run(case.feeds)
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
        return f"at {case} it does not run: {first_line(error)}"
    axes = {spec.name: spec.axes for spec in manifest.outputs}
    axes |= {state.output: state.axes for state in manifest.states}
    for name, stated in axes.items():
        shape = resolve(stated, case.sizes)
        if shape is not None and outputs[name].shape != shape:
            return f"at {case} {name} {describe(stated)} comes out as {outputs[name].shape}"
    return ""


def _dependence(
    manifest: Manifest, run: Run, cases: CaseGenerator, steps: int, *, exact: bool
) -> Iterator[Check]:
    """Change the first and the last steps of one row: that row must follow, and no other."""
    length = 2 * steps + 4
    feeds = _full(manifest, dict(cases.case(_ROWS, length, at_reset=True, offset=_OFFSET + 1).feeds), length)
    rng = np.random.default_rng((cases.seed, _OFFSET))
    other = {name: rng.permutation(array.reshape(-1)).reshape(array.shape) for name, array in feeds.items()}
    try:
        before = run(feeds)
    except Exception:  # noqa: BLE001 - a length that it does not take; see above
        return
    rows = range(_ROWS) if manifest.batch is not None else (0,)
    deaf, leaking = [], []
    for row in rows:
        for about, span in (("first", slice(0, length // 4)), ("last", slice(length - length // 4, length))):
            try:
                after = run(_changed(manifest, feeds, other, row, span))
            except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
                yield Check("every row and step counts", "failed", f"it does not run: {first_line(error)}")
                return
            moved = {each: _moved(manifest, before, after, each) for each in rows}
            if moved[row] == 0:
                deaf.append(f"the {about} steps of row {row}")
            if exact and any(moved[each] > _APART for each in rows if each != row):
                leaking.append(f"the {about} steps of row {row}")
    size = (_ROWS, length)
    said = f"no output depends on {', '.join(deaf)} of {length}" if deaf else ""
    yield Check("every row and step counts", "failed" if deaf else "passed", said, size=size)
    if exact and len(rows) > 1:
        said = f"other rows change with {', '.join(leaking)}" if leaking else ""
        yield Check("rows do not change one another", "failed" if leaking else "passed", said, size=size)


def _full(manifest: Manifest, feeds: Feeds, length: int) -> Feeds:
    name = manifest.lengths
    return feeds | {name: np.full_like(feeds[name], length)} if name else feeds


def _changed(manifest: Manifest, feeds: Feeds, other: Feeds, row: int, span: slice) -> Feeds:
    changed = dict(feeds)
    for spec in manifest.inputs:
        if spec.name == manifest.lengths:
            continue
        index: list[Any] = [slice(None)] * len(spec.axes)
        if manifest.batch in spec.axes:
            index[spec.axes.index(manifest.batch)] = row
        if manifest.sequence in spec.axes:
            index[spec.axes.index(manifest.sequence)] = span
        changed[spec.name] = feeds[spec.name].copy()
        changed[spec.name][tuple(index)] = other[spec.name][tuple(index)]
    return changed


def _moved(manifest: Manifest, before: Mapping[str, Array], after: Mapping[str, Array], row: int) -> float:
    """Return by how much of its largest value what belongs to ``row`` moved, of the outputs the most."""
    most = 0.0
    for name, array in before.items():
        one, two = (take_row(manifest, name, each, row, _ROWS) for each in (array, after[name]))
        difference = np.abs(one.astype(np.float64) - two)
        scale = float(np.max(np.abs(one), initial=0.0)) or 1.0
        most = max(most, float(np.nan_to_num(difference).max(initial=0.0)) / scale)
    return most


def _repeated(manifest: Manifest, run: Run, golden: Golden) -> Check:
    """Each row of the golden case three times over, within the case's own limits."""
    name = "rows of the golden case repeated"
    axes = {spec.name: spec.axes for spec in (*manifest.inputs, *manifest.outputs)}
    for state in manifest.states:
        axes |= {state.input: state.axes, state.output: state.axes}

    def repeat(array: Array, which: str) -> Array:
        places = [place for place, axis in enumerate(axes[which]) if axis == manifest.batch]
        return array.repeat(_ROWS, axis=places[0]) if places else array

    if any(isinstance(axis, str) and "*" in axis for spec in manifest.outputs for axis in spec.axes):
        return Check(name, "skipped", "an output stacks the rows of several layers")
    repeated = golden._replace(
        inputs={each: repeat(array, each) for each, array in golden.inputs.items()},
        outputs={each: repeat(array, each) for each, array in golden.outputs.items()},
    )
    try:
        records = compare_golden(repeated, run(repeated.inputs))
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
        return Check(name, "failed", f"it does not run: {first_line(error)}")
    worst = max(records, key=lambda each: each.ratio)
    return Check(name, "passed" if worst.ok else "failed", "" if worst.ok else str(worst), worst)
