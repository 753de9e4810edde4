"""The verification of a lifted file: the original tells what is right, from the reset states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import CheckFailedError, first_line
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.ort import open_session, run_by_name

from ..chunks import Runner, take_steps
from ..export.cast import widened
from ..graph import to_bytes, to_proto
from ..progress import ignore
from ..verify.cases import (
    Case,
    CaseGenerator,
    Feeds,
    full_length,
    in_chunks,
    remember,
    row_by_row,
)
from ..verify.compare import FLOOR, Pair, compare_all
from ..verify.float64 import Graph64
from ..verify.report import judged
from ..verify.verify import Verified, find_streaming, verify
from .running import Session

_GRID = ((1, 1), (2, 7), (3, 12), (1, 33))
"""``(N, L)`` of a verification."""
_STRICT = 1e-6
"""Largest difference in float64, whatever rounding does, as a fraction of a channel's largest value."""
_CHUNKS = (5, 12, 7)
_SHORTER = 3
"""Steps of the chunks with rows of unequal lengths, and by how many the first row is shorter."""
_FIRST = 5
"""Steps of the chunk in which the first node is looked for that chunks change."""


@dataclass(frozen=True)
class Cases(CaseGenerator):
    """Draws inputs at the sizes that the original declares first, and in multiples of its rows."""

    rows: int = 1
    steps: int | None = None
    """Declared sizes of axes that became dynamic."""

    def cases(self) -> Iterator[Case]:
        """Generate the cases of a verification, from the reset states of what is lifted."""
        for place, (rows, steps) in enumerate(_GRID):
            size = self.rows * rows, self.steps or steps
            yield self.case(*size, at_reset=False, offset=place, full=place % 2 == 0)


class _Original:
    """The original as the reference of a file with more states."""

    def __init__(self, manifest: Manifest, model: ir.Model, run: Runner, given: Feeds, cases: Cases) -> None:
        """Take the original, its float64 run, and what stands in the place of inputs of its own."""
        self._manifest, self._given, self._cases = manifest, given, cases
        self._engine, self._exact = Session(model, "the original"), run
        names = {str(value.name) for value in model.graph.inputs}
        self._lifted = [state for state in manifest.states if state.input not in names]

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Return the outputs; raises RuntimeError for other states than at reset, and at sizes of no use."""
        if any(np.any(feeds[state.input] != state.reset) for state in self._lifted):
            raise RuntimeError("the original starts from the reset states alone")
        if self._cases.steps not in (None, self._manifest.steps(feeds)):
            raise RuntimeError(f"the original takes {self._cases.steps} steps")
        by_rows = row_by_row(self._manifest, self._run, self._cases.rows)
        for run in (self._run, by_rows) if self._manifest.batch else (self._run,):
            try:
                return run(feeds)
            except Exception as error:  # noqa: BLE001, PERF203  onnxruntime's exceptions share no base class
                reason = first_line(error)
        raise RuntimeError(reason)

    def _run(self, feeds: Feeds) -> Mapping[str, Array]:
        given = {**self._given, **feeds}
        self._engine.run(given)  # onnxruntime checks sizes that the float64 run would take
        return self._exact(given)


def pair_up(manifest: Manifest, original: ir.Model, lifted: ir.Model, given: Feeds, cases: Cases) -> Pair:
    """Return a lifted file and its original, whose missing inputs are ``given``.

    Raises:
        UnsupportedError: one of them has no float64 run.
    """
    engine: Any = partial(run_by_name, open_session(to_bytes(lifted)))
    graph, exact = (Graph64(widened(to_proto(model))) for model in (lifted, original))
    return Pair(manifest, graph, remember(_Original(manifest, original, exact, given, cases)), engine)


def verify_lifted(pair: Pair, cases: Cases) -> Verified:
    """Check that a lifted file computes what its original does; raises ``CheckFailedError``."""
    found = verify(pair, cases, None, ignore)
    if found.largest > _STRICT:  # allowed where the effect of rounding is as large
        raise CheckFailedError(
            f"it differs from the original by {found.largest:.2g} of the largest value in float64; "
            "a network with random numbers, or one that amplifies rounding, can't be verified"
        )
    if cases.rows > 1 or cases.steps is not None:  # sizes that the original does not take
        case = cases.case(3, 9, at_reset=True, full=True)
        try:
            want = row_by_row(pair.manifest, pair.graph)(case.feeds)
            check = judged("row by row", pair.within(pair.graph(case.feeds), want, case.feeds))
        except Exception as error:
            raise CheckFailedError(f"at {case} the file does not run: {first_line(error)}") from error
        if check.status == "failed":
            raise CheckFailedError(f"at {case}: {check.name}: {check.message}")
    return found


def find_chunks(pair: Pair, cases: Cases, reach: int, known: str) -> Manifest:
    """Return the manifest with why chunks do not equal the full sequence, if so, and how padding acts.

    The lifted graph is its own reference here: at sizes that the original does not take, too.
    """
    pair = replace(pair, reference=pair.graph)
    manifest = find_streaming(pair, cases, reach, known)
    if manifest.unstreamable and not known:
        node = _first_node(pair, cases)
        return manifest._replace(unstreamable=f"{node} sees more than its chunk") if node else manifest
    if manifest.unstreamable or not manifest.time_axes:
        return manifest
    reason = _differing(pair, cases, 0)
    if not reason and manifest.lengths is not None and (reason := _differing(pair, cases, _SHORTER)):
        reason = f"rows are in another order inside, and lose their states ({reason})"
    return manifest._replace(unstreamable=reason)


def _differing(pair: Pair, cases: Cases, shorter: int) -> str:
    """Return which output differs in chunks, in the last of which one row ends ``shorter`` steps early."""
    manifest, steps = pair.manifest, sum(_CHUNKS)
    feeds = full_length(manifest, cases.case(2, steps, at_reset=True).feeds)
    if (name := manifest.lengths) is not None:
        feeds[name] = np.array([steps - shorter, *feeds[name][1:]], feeds[name].dtype)
    got, full = in_chunks(manifest, _CHUNKS)(pair.graph, feeds), pair.graph(feeds)
    want = {each: full[each] for each in got}
    limits = {each: _STRICT * pair.largest(each, array) + FLOOR * 2.0**-29 for each, array in want.items()}
    found = compare_all(got, want, limits)
    return "; ".join(f"chunks are not the full sequence: {each}" for each in found if not each.ok)


def _first_node(pair: Pair, cases: Cases) -> str:
    """Return the first node that gives something else in a first chunk than at the start of the whole."""
    manifest = pair.manifest
    feeds = full_length(manifest, cases.case(2, 6 * _FIRST, at_reset=True).feeds)
    chunk = take_steps(manifest.time_axes, feeds, 0, _FIRST)
    try:
        runs = pair.graph.values(feeds), pair.graph.values(full_length(manifest, chunk))
    except Exception:  # noqa: BLE001  the evaluator's exceptions share no base class
        return ""
    for node in pair.graph.model.graph:
        for value in node.outputs:
            one, two = (run.get(str(value.name)) for run in runs)
            if isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and _starts_otherwise(one, two):
                return f"{node.op_type} {node.name or value.name!r}"
    return ""


def _starts_otherwise(full: Array, part: Array) -> bool:
    """Return True if ``part`` is not the start of ``full`` along the axes in which they differ in size."""
    if full.dtype.kind != "f" or full.ndim != part.ndim or full.shape == part.shape:
        return False
    start = full[tuple(map(slice, part.shape))]
    scale = float(np.abs(full).max(initial=0.0, where=np.isfinite(full))) or 1.0
    return start.shape == part.shape and not np.allclose(start, part, rtol=0, atol=1e-9 * scale)
