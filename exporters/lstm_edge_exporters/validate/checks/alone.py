"""The file alone: what must hold whatever the network is, where there is no reference to compare with."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lstm_edge_runtime.axes import row_factor
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.selftest import compare_golden
from lstm_edge_runtime.state import Runner, even_sizes

from ...numerics.cases import CaseGenerator, Feeds, full_length, in_chunks, misshapen, take_row, with_padding
from ..reference import ModelFile
from ..report import Check

__all__ = ["check_alone"]

_OFFSET = 10_000
_ROWS = 3
_LONG, _CHUNK = 1000, 100
_WIDE = 100
"""How often each row of the golden case is repeated."""
_SAME = 1e-3
"""How far a long sequence may be from its chunks, relative to an output's largest value."""
_APART = 1e-5
"""How far, relative to its largest value, a float32 output may move when another row changes."""


def check_alone(file: ModelFile, seed: int) -> Iterator[Check]:
    """Run at other sizes, change rows and steps one at a time, and repeat the rows of the golden case."""
    manifest, run = file.manifest, file.runner()
    golden = manifest.golden
    cases = CaseGenerator.of(manifest, golden.inputs if golden else {}, None, seed)
    steps = _golden_steps(manifest)
    yield _batches(manifest, run, cases, steps)
    if manifest.sequence is not None:
        yield _lengths(manifest, run, cases, steps)
    exact = file.precision in ("fp32", "fp64")
    for length in (2 * steps + 4, _LONG) if manifest.sequence is not None else (steps,):
        yield from _dependence(manifest, run, cases, length, exact=exact)
    if exact and manifest.sequence is not None and manifest.streamable:
        yield _long(manifest, run, cases)
    if manifest.lengths is not None and manifest.sequence is not None:
        yield _padding(manifest, run, cases, 2 * steps)
    if golden is not None and manifest.batch is not None:
        yield _repeated(manifest, run, golden)


def _golden_steps(manifest: Manifest) -> int:
    """Return the golden case's time steps: a length that the file is known to take."""
    return manifest.steps(manifest.golden.inputs) if manifest.golden and manifest.time_axes else 12


def _batches(manifest: Manifest, run: Runner, cases: CaseGenerator, steps: int) -> Check:
    name = "runs at other batch sizes"
    if manifest.batch is None:
        return Check(name, "skipped", "the file has no batch axis")
    for n in (1, 2, 5):
        if said := _try(manifest, run, cases, n, steps):
            return Check(name, "failed", said, size=(n, steps))
    return Check(name, "passed")


def _lengths(manifest: Manifest, run: Runner, cases: CaseGenerator, steps: int) -> Check:
    """Short sequences may be refused, as a convolution does; every other length may not."""
    name = "runs at other lengths"
    said = {
        length: _try(manifest, run, cases, 2, length) for length in (1, steps - 1, steps + 1, 2 * steps + 3)
    }
    ran = [length for length, reason in said.items() if not reason]
    if not ran:
        return Check(name, "failed", f"at no length but {steps}: {said[steps + 1]}", size=(2, steps + 1))
    return Check(name, "passed", f"at {', '.join(map(str, ran))} steps")


def _try(manifest: Manifest, run: Runner, cases: CaseGenerator, n: int, length: int) -> str:
    """Return why the file does not run, or what comes out in another shape than stated."""
    case = cases.case(n, length, at_reset=False, offset=_OFFSET, full=True)
    try:
        outputs = run(case.feeds)
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
        return f"at {case} it does not run: {first_line(error)}"
    return next((f"at {case} {each}" for each in misshapen(manifest, outputs, case.sizes)), "")


def _dependence(
    manifest: Manifest, run: Runner, cases: CaseGenerator, length: int, *, exact: bool
) -> Iterator[Check]:
    """Change the first and the last steps of one row: that row must follow, and no other."""
    rows = range(_ROWS) if manifest.batch is not None else range(1)
    size = (len(rows), length)
    feeds = full_length(manifest, cases.case(_ROWS, length, at_reset=True, offset=_OFFSET + 1).feeds)
    rng = np.random.default_rng((cases.seed, _OFFSET))
    other = {name: rng.permutation(array.reshape(-1)).reshape(array.shape) for name, array in feeds.items()}
    deaf, leaking, still = [], [], {spec.name for spec in manifest.outputs if _varies(manifest, spec.name)}
    spans = {"first": slice(0, length // 4), "last": slice(length - length // 4, length)}
    try:
        before = run(feeds)
        for row in rows:
            felt = dict.fromkeys(spans, False)
            for about, span in spans.items():
                after = run(_changed(manifest, feeds, other, row, span))
                moved = [_moved(manifest, before, after, each) for each in rows]
                still -= {name for name, by in moved[row].items() if by > 0}
                felt[about] = any(moved[row].values())
                if exact and any(by > _APART for each in rows if each != row for by in moved[each].values()):
                    leaking.append(f"the {about} steps of row {row}")
            # what is long ago may be forgotten: in a stream the first steps, otherwise those of either end
            needed = [about for about in spans if length < _LONG or (manifest.streamable and about == "last")]
            deaf += [f"the {about} steps of row {row}" for about in needed if not felt[about]]
            deaf += [f"any step of row {row}"] if not any(felt.values()) else []
    except Exception:  # noqa: BLE001 - a length that it does not take; see above
        return
    deaf += [f"any step in {name}" for name in sorted(still)]
    said = f"no output depends on {', '.join(deaf)}" if deaf else ""
    yield Check(f"every row and step counts, L={length}", "failed" if deaf else "passed", said, size=size)
    if exact and len(rows) > 1:
        said = f"other rows change with {', '.join(leaking)}" if leaking else ""
        name = f"rows do not change one another, L={length}"
        yield Check(name, "failed" if leaking else "passed", said, size=size)


def _varies(manifest: Manifest, name: str) -> bool:
    """Return whether an output is a float that is not the same throughout the golden case."""
    recorded = manifest.golden.outputs.get(name) if manifest.golden else None
    return recorded is not None and recorded.dtype.kind == "f" and float(np.ptp(recorded)) > 0


def _long(manifest: Manifest, run: Runner, cases: CaseGenerator) -> Check:
    """A long sequence in one call is the same in chunks, whatever the file computes."""
    name, steps = f"{_LONG} steps equal their chunks", _LONG
    feeds = full_length(manifest, cases.case(1, steps, at_reset=True, offset=_OFFSET + 2).feeds)
    try:
        whole = run(feeds)
        chunked = in_chunks(manifest, even_sizes(steps, _CHUNK))(run, feeds)
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
        return Check(name, "failed", f"it does not run: {first_line(error)}", size=(1, steps))
    for output, array in chunked.items():
        if array.shape != whole[output].shape:
            said = f"{output} of the whole is {whole[output].shape}, and of chunks {array.shape}"
            return Check(name, "failed", said, size=(1, steps))
        scale = float(np.max(np.abs(array), initial=0.0)) or 1.0
        away = float(np.nan_to_num(np.abs(array - whole[output]), nan=np.inf).max(initial=0.0))
        if away > _SAME * scale:
            said = f"{output} of the whole is {away:.3g} away from that of chunks with states carried"
            return Check(name, "failed", said, size=(1, steps))
    return Check(name, "passed", size=(1, steps))


def _padding(manifest: Manifest, run: Runner, cases: CaseGenerator, steps: int) -> Check:
    """NaN behind a row's length reaches no output, where other numbers there do not."""
    name = "padding of NaN"
    feeds = dict(cases.case(_ROWS, steps, at_reset=True, offset=_OFFSET + 3).feeds)
    try:
        clean, other, dirty = (run(with_padding(manifest, feeds, value)) for value in (0.0, 1.0, np.nan))
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
        return Check(name, "failed", f"it does not run: {first_line(error)}")
    wrong = [
        each
        for each in clean
        if np.array_equal(clean[each], other[each]) and not np.array_equal(clean[each], dirty[each])
    ]
    return Check(name, "failed" if wrong else "passed", f"it reaches {', '.join(wrong)}" if wrong else "")


def _changed(manifest: Manifest, feeds: Feeds, other: Feeds, row: int, span: slice) -> dict[str, Array]:
    changed = dict(feeds)
    for spec in manifest.data_inputs:
        index: list[Any] = [slice(None)] * len(spec.axes)
        for place, part in ((manifest.batch_axis(spec.axes), row), (manifest.time_axis(spec.axes), span)):
            if place is not None:
                index[place] = part
        changed[spec.name] = feeds[spec.name].copy()
        changed[spec.name][tuple(index)] = other[spec.name][tuple(index)]
    return changed


def _moved(
    manifest: Manifest, before: Mapping[str, Array], after: Mapping[str, Array], row: int
) -> dict[str, float]:
    """Return by how much of its largest value what belongs to ``row`` moved, by output."""
    found = {}
    for name, array in before.items():
        one, two = (take_row(manifest, name, each, row, _ROWS) for each in (array, after[name]))
        difference = np.abs(one.astype(np.float64) - two)
        scale = float(np.max(np.abs(one), initial=0.0)) or 1.0
        found[name] = float(np.nan_to_num(difference).max(initial=0.0)) / scale
    return found


def _repeated(manifest: Manifest, run: Runner, golden: Golden) -> Check:
    """Each row of the golden case many times over, within the case's own limits."""
    name = "rows of the golden case repeated"
    axes = manifest.axes

    def repeat(array: Array, which: str) -> Array:
        for place, axis in enumerate(axes[which]):
            blocks = row_factor(axis, manifest.batch)  # an axis of k*N holds k blocks of N
            if blocks is not None:
                shape = list(array.shape)
                split = array.reshape(*shape[:place], max(blocks, 1), -1, *shape[place + 1 :])
                shape[place] *= _WIDE
                return split.repeat(_WIDE, axis=place + 1).reshape(shape)
        return array

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
