"""The file alone: what must hold whatever the network is, where there is no reference to compare with.

All but the last check run the file's graph in float64 where it can be.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from lstm_edge_runtime.chunks import Runner, even_sizes
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Golden, Manifest
from lstm_edge_runtime.selftest import compare_golden

from ...numerics.cases import CaseGenerator, Feeds, full_length, in_chunks, join_rows, misshapen, take_rows
from ...numerics.compare import channel_limits, compare_within
from ..reference import ModelFile
from ..report import Check, answered, asked

_OFFSET = 10_000
_ROWS = 3
_LONG, _CHUNK = 1000, 100
_WIDE = 100
"""How often each row of the golden case is repeated."""
_SAME = 1e-3
"""How far a long sequence may be from its chunks, as a fraction of an output's largest value; in float64 a
millionth of that."""


def check_alone(file: ModelFile, seed: int) -> Iterator[Check]:
    """Run at other sizes, change rows and steps one at a time, and repeat the rows of the golden case."""
    manifest, golden, (graph, _) = file.manifest, file.manifest.golden, file.graph64
    run, same = (file.runner(), _SAME) if graph is None else (graph.run64, 1e-6 * _SAME)
    cases = CaseGenerator.of(manifest, golden.inputs if golden else {}, None, seed)
    # of a length that the file is known to take
    steps = manifest.steps(golden.inputs) if golden and manifest.time_axes else 12
    rows = (1, 2, 5) if manifest.batch is not None else ()
    said = next(filter(None, (_try(manifest, run, cases, n, steps) for n in rows)), "")
    if rows:
        yield answered("runs at other batch sizes", said)
    if manifest.sequence is not None:
        yield _lengths(manifest, run, cases, steps)
    for length in (2 * steps + 4, _LONG) if manifest.sequence is not None else (steps,):
        yield from _dependence(manifest, run, cases, length)
    if file.precision in ("fp32", "fp64") and manifest.sequence is not None and manifest.streamable:
        yield asked(f"{_LONG} steps equal their chunks", lambda: _long(manifest, run, cases, same))
    if golden is not None and manifest.batch is not None:
        yield asked("rows of the golden case repeated", lambda: _repeated(manifest, file.runner(), golden))


def _lengths(manifest: Manifest, run: Runner, cases: CaseGenerator, steps: int) -> Check:
    """Short sequences may be refused, as a convolution does; every other length may not."""
    lengths = (1, steps - 1, steps + 1, 2 * steps + 3)
    said = {length: _try(manifest, run, cases, 2, length) for length in lengths}
    ran = ", ".join(str(length) for length, reason in said.items() if not reason)
    none = f"at no length but {steps}: {said[steps + 1]}"
    return answered("runs at other lengths", "" if ran else none, f"at {ran} steps")


def _try(manifest: Manifest, run: Runner, cases: CaseGenerator, n: int, length: int) -> str:
    """Return why the file does not run, or what comes out in another shape than stated."""
    case = cases.case(n, length, at_reset=False, offset=_OFFSET, full=True)
    try:
        return next((f"at {case} {each}" for each in misshapen(manifest, run(case.feeds), case.sizes)), "")
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own
        return f"at {case} it does not run: {first_line(error)}"


def _dependence(manifest: Manifest, run: Runner, cases: CaseGenerator, length: int) -> Iterator[Check]:
    """Change the first and the last steps of one row, which must follow."""
    rows = range(_ROWS) if manifest.batch is not None else range(1)
    feeds = full_length(manifest, cases.case(_ROWS, length, at_reset=True, offset=_OFFSET + 1).feeds)
    rng = np.random.default_rng((cases.seed, _OFFSET))
    other = {name: rng.permutation(array.reshape(-1)).reshape(array.shape) for name, array in feeds.items()}
    spans = {"first": slice(0, length // 4), "last": slice(length - length // 4, length)}
    moved: dict[tuple[int, str], set[str]] = {}
    try:
        before = run(feeds)
        for row, about in product(rows, spans):
            after = run(_changed(manifest, feeds, other, row, spans[about]))
            moved[row, about] = set(_moved(manifest, before, after, row))
    except Exception:  # noqa: BLE001 - a length that it does not take; see above
        return
    # what is long ago may be forgotten: in a stream the first steps, otherwise those of either end
    needed = [about for about in spans if length < _LONG or (manifest.streamable and about == "last")]
    unfelt = [key for key, names in moved.items() if not names]
    deaf = [f"the {about} steps of row {row}" for row, about in unfelt if about in needed]
    deaf += [f"any step of row {row}" for row in rows if all((row, about) in unfelt for about in spans)]
    varying = {spec.name for spec in manifest.outputs if _varies(manifest, spec.name)}
    deaf += [f"any step in {name}" for name in sorted(varying.difference(*moved.values()))]
    said = f"no output depends on {', '.join(deaf)}" if deaf else ""
    yield replace(answered(f"every row and step counts, L={length}", said), size=(len(rows), length))


def _varies(manifest: Manifest, name: str) -> bool:
    """Return whether an output is a float that is not the same throughout the golden case."""
    recorded = manifest.golden.outputs.get(name) if manifest.golden else None
    return recorded is not None and recorded.dtype.kind == "f" and float(np.ptp(recorded)) > 0


def _changed(manifest: Manifest, feeds: Feeds, other: Feeds, row: int, span: slice) -> Feeds:
    changed = dict(feeds)
    for spec in manifest.data_inputs:
        index: list[Any] = [slice(None)] * len(spec.axes)
        for place, part in ((manifest.batch_axis(spec.axes), row), (manifest.time_axis(spec.axes), span)):
            if place is not None:
                index[place] = part
        changed[spec.name] = feeds[spec.name].copy()
        changed[spec.name][tuple(index)] = other[spec.name][tuple(index)]
    return changed


def _moved(manifest: Manifest, before: Feeds, after: Feeds, row: int) -> Iterator[str]:
    """Return the outputs of which what belongs to ``row`` moved."""
    one, two = (take_rows(manifest, each, row, _ROWS) for each in (before, after))
    for name, array in one.items():
        if not np.array_equal(np.nan_to_num(array), np.nan_to_num(two[name])):
            yield name


def _long(manifest: Manifest, run: Runner, cases: CaseGenerator, same: float) -> str:
    """A long sequence in one call is the same in chunks, whatever the file computes."""
    feeds = full_length(manifest, cases.case(1, _LONG, at_reset=True, offset=_OFFSET + 2).feeds)
    chunks = in_chunks(manifest, even_sizes(_LONG, _CHUNK))(run, feeds)
    records = compare_within(run(feeds), chunks, channel_limits(chunks, same))
    return next((f"the whole and chunks with states carried: {each}" for each in records if not each.ok), "")


def _repeated(manifest: Manifest, run: Runner, golden: Golden) -> str:
    """Each row of the golden case many times over, within the case's own limits."""
    inputs, outputs = (join_rows(manifest, [arrays] * _WIDE) for arrays in (golden.inputs, golden.outputs))
    records = compare_golden(golden._replace(inputs=inputs, outputs=outputs), run(inputs))
    worst = max(records, key=lambda each: each.ratio)
    return "" if worst.ok else str(worst)
