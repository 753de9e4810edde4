"""The verification of an export: the graph in float64 is the module, and onnxruntime is
near the graph.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.axes import row_axis
from lstm_edge_runtime.chunks import Runner, take_steps
from lstm_edge_runtime.errors import CheckFailedError, first_line
from lstm_edge_runtime.manifest import Array, AxisRange, Manifest
from lstm_edge_runtime.selftest import Comparison

from ..graph import is_data_free, line_of
from ..progress import Progress, in_turn
from .cases import (
    Case,
    CaseGenerator,
    Feeds,
    case_size,
    fill_rows,
    full_length,
    in_chunks,
    random_sizes,
    row_by_row,
    split_rows,
)
from .check import Check, within_limits
from .compare import EQUAL, REFUSALS, Pair, compare_all
from .rows import PART, UndecidedRowsError, mixed_rows, own_rows

_CHUNKED = 24
"""Steps that are fed in chunks, in addition to those that states of operators along
time hold."""
_MOST_REACHED = 256
"""Of these at the most."""
_ORDERING = frozenset({"ArgMax", "ArgMin", "TopK"})
"""Operators whose results depend on an order of numbers, which NaN do not have."""
_OF_MANY_STEPS = (
    "; if forward counts steps or holds them in a list, deque or attribute, keep the"
    " count in a tensor: n = n + 1, and torch.where(n > limit, a, b)"
)
"""What to do if the comparison fails at more steps than a trace shows."""
_SHORT = 7
"""Number of steps of the rows that are compared with and without padding."""
_ROWS_OFFSET = 50
_CHUNKS_OFFSET = 51


@dataclass(frozen=True)
class Verified:
    """Results of a verification; every comparison passed."""

    cases: tuple[str, ...]
    """Sizes and states of the cases that were compared."""
    largest: float
    """The largest difference of graph and module in float64, as a fraction of its
    channel's largest value."""
    engine: tuple[Comparison, ...]
    """Comparisons of onnxruntime with the graph in float64."""
    skipped: tuple[str, ...]
    """Cases that the module itself refuses, or for which it returns NaN, with the
    reason."""
    notes: tuple[str, ...] = ()
    """Properties that the checks could not decide."""

    @property
    def worst(self) -> Comparison:
        """The output of onnxruntime that is nearest to its limit."""
        return max(self.engine, key=lambda comparison: comparison.ratio)

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of onnxruntime from float64."""
        return max(comparison.max_abs for comparison in self.engine)

    def figures(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        return {
            "cases": list(dict.fromkeys(self.cases)),
            "skipped": list(self.skipped),
            "float64": self.largest,
            "max_abs": self.max_abs,
            "ratio": self.worst.ratio,
            "worst": str(self.worst),
        }


def verify(
    pair: Pair, cases: CaseGenerator, module32: Runner | None, show: Progress
) -> Verified:
    """Compare on every case that the module itself takes: whole, row by row, and one
    row of NaN.

    Args:
        pair: the graph, the module and onnxruntime.
        cases: draws the inputs.
        module32: the module in float32, which tells on the first case whether it is
            another function there: one that asks for ``torch.finfo(x.dtype)``, say.
        show: called with progress.

    Raises:
        CheckFailedError: a difference beyond its limit, a case that the file can't run,
            or no case that the module takes.
    """
    compared = list[Case]()
    largest = 0.0
    engine = list[Comparison]()
    skipped = list[str]()
    notes = list[str]()
    for case in in_turn(
        list(cases.cases()), show, what="verifying", start=0.3, end=0.7
    ):
        if reason := refused(pair.reference, case.feeds):
            skipped.append(f"{case}: {reason}")
            continue
        try:
            require(f"at {case}", pair.equal(case.feeds))
            if not case.is_long:
                engine += require(
                    f"at {case}: onnxruntime in float32", pair.rounding(case.feeds)
                )
        except CheckFailedError as error:
            about = _OF_MANY_STEPS if case.is_long else ""
            raise CheckFailedError(f"{error}{about}") from error
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise CheckFailedError(
                f"at {case} the file does not run: {first_line(error)}"
            ) from error
        largest = max(
            largest, pair.relative(pair.exact(case.feeds), pair.reference(case.feeds))
        )
        if module32 is not None and not compared:
            got = module32(case.feeds)
            want = pair.reference(case.feeds)
            about = f"at {case}: the module in float32, which the file can't follow"
            require(about, compare_all(got, want, pair.limits(case.feeds)))
        compared.append(case)
    if not compared:
        raise CheckFailedError(
            "the reference failed or returned NaN for every test case"
            f" ({'; '.join(skipped[:2])})"
        )
    for check in row_checks(pair, cases):
        if check.status == "failed":
            raise CheckFailedError(f"{check.name}: {check.message}")
        notes += [f"{check.name}: {check.message}"] if check.message else []
    return Verified(
        cases=tuple(map(str, compared)),
        largest=largest,
        engine=tuple(engine),
        skipped=tuple(skipped),
        notes=tuple(notes),
    )


def require(about: str, records: Sequence[Comparison]) -> Sequence[Comparison]:
    """Return ``records``.

    Raises:
        CheckFailedError: one is beyond its limit.
    """
    if failed := "; ".join(str(record) for record in records if not record.ok):
        raise CheckFailedError(f"{about}: {failed}")
    return records


def refused(reference: Runner, feeds: Feeds) -> str:
    """Return why a case has no reference: the module raises or returns NaN; else empty."""
    try:
        want = reference(feeds)
    except REFUSALS as error:
        return first_line(error)
    undefined = [
        name
        for name, array in want.items()
        if array.dtype.kind == "f" and np.isnan(array).any()
    ]
    return f"the reference gives NaN in {', '.join(undefined)}" if undefined else ""


def row_checks(pair: Pair, cases: CaseGenerator) -> Iterator[Check]:
    """Compare row by row, and with NaN in one row, which must leave the other rows as
    the module has them.
    """
    manifest = pair.manifest
    if manifest.batch is None:
        return
    least = manifest.ranges.get(manifest.batch, AxisRange()).nearest(1)
    count = 3 if least == 1 else 2 * least
    case = cases.case(count, 9, at_reset=False, offset=_ROWS_OFFSET, full=True)
    feeds = full_length(manifest, case.feeds)
    if case_size(manifest, feeds)[0] != count or refused(pair.reference, feeds):
        return
    yield _rows_alone(pair, feeds, least, cases.held)
    row_of_nan = fill_rows(manifest, feeds, value=np.nan, starts=[0])
    try:
        want = pair.reference(row_of_nan)
    except REFUSALS:
        return
    got = pair.exact(row_of_nan)
    if any(node.op_type in _ORDERING for node in pair.graph.model.graph.all_nodes()):
        got = _without_order_of_nan(manifest, got, want)
    records = pair.within(got, want, row_of_nan, reference=pair.reference)
    yield within_limits("one row of NaN", records)


def _without_order_of_nan(manifest: Manifest, got: Feeds, want: Feeds) -> Feeds:
    """Return ``got`` with the first row of ``want``, unless all of this is NaN: numbers
    in it may follow from an order of NaN.
    """
    compared = dict(got)
    for name, array in want.items():
        own = own_rows(manifest, name, array.shape, part=slice(1))
        if own is not None and name in got and got[name].shape == array.shape:
            is_ordered = (own == PART) & ~np.isnan(array[own == PART]).all()
            compared[name] = np.where(is_ordered, array, got[name])
    return compared


def _rows_alone(pair: Pair, feeds: Feeds, count: int, held: Collection[str]) -> Check:
    """Compare ``count`` rows at a time with the module on the whole batch, and find
    the rows that each output depends on.

    Outputs without an axis of rows belong to the batch. Where rows and steps share an
    axis, their order is unknown.
    """
    manifest = pair.manifest
    try:
        alone = row_by_row(manifest, pair.graph, count)(feeds)
    except (RuntimeError, ValueError) as error:
        message = (
            f"rows of the batch {manifest.batch} can't be run alone ({error}); keep one"
            f" row per source, or give {manifest.batch} as a number with inputs="
        )
        return Check("row by row", "failed", message)
    want = {
        name: array
        for name, array in pair.reference(feeds).items()
        if row_axis(manifest.axes.get(name, ()), manifest.batch) is not None
    }
    check = within_limits("row by row", pair.within(alone, want, feeds))
    try:
        mixed = mixed_rows(pair.graph, manifest, feeds, count, held)
    except UndecidedRowsError as error:
        about = f"compared on samples alone, as rows are unknown in {error}"
        return replace(check, message=check.message or about)
    if check.status == "passed" and mixed is None:
        return check
    node = mixed.node if mixed else None
    if node is None:
        *_, last_rows = split_rows(manifest, feeds, count)
        node = _node_across_rows(pair, feeds, last_rows)
    if node is None and mixed is None:
        return check  # the graph differs from the module otherwise
    reason = check.message
    if mixed is not None and check.status == "passed":
        reason = f"{mixed.output} differs at values that no case has"
    message = (
        f"rows of the batch {manifest.batch} depend on each other"
        f"{f' ({_description(node)})' if node else ''}: {reason}; compute over time or"
        f" features instead, or give {manifest.batch} as a number with inputs="
    )
    return replace(check, status="failed", message=message)


def _description(node: ir.Node) -> str:
    """Return operator, name and line of a node for a message."""
    line = line_of(node)
    return f"{node.op_type} {node.name!r}{f', {line}' if line else ''}"


def _node_across_rows(pair: Pair, feeds: Feeds, last_rows: Feeds) -> ir.Node | None:
    """Return the first node whose results, computed from data, differ for a batch and
    for its last rows alone; None if none is found.
    """
    for value in pair.graph.differences(feeds, last_rows, _differs):
        if not is_data_free(value):
            return value.producer()
    return None


def _differs(batch: Any, rows: Any) -> bool:
    """Return True if ``rows`` are not the last ones of ``batch``; both have a size of
    their own on the axis of rows, and on no other axis.
    """
    if not isinstance(batch, np.ndarray) or batch.dtype.kind != "f":
        return False
    sizes = zip(batch.shape, rows.shape, strict=True)
    end = batch[tuple(slice(size - count, None) for size, count in sizes)]
    scale = EQUAL * np.abs(batch).max(initial=0.0)
    return not np.allclose(end, rows, rtol=0, atol=scale, equal_nan=True)


def find_streaming(
    pair: Pair, cases: CaseGenerator, reach: int, cause: str = ""
) -> Manifest:
    """Return the manifest with why chunks do not equal the full sequence, if so, and
    how padding acts.

    ``reach`` are the steps that states of operators along time hold; ``cause`` is why
    chunks may differ.
    """
    manifest = pair.manifest
    if manifest.unstreamable or not manifest.time_axes:
        return manifest
    if reason := _why_no_chunks(manifest):
        return manifest._replace(unstreamable=cause or reason)
    try:
        for check in chunk_checks(pair, cases, reach):
            if check.status == "failed":
                about = cause or f"chunks are not the full sequence: {check.message}"
                return manifest._replace(unstreamable=about)
    except Exception as error:  # noqa: BLE001  a chunk may be a size that the graph does not take
        return manifest._replace(
            unstreamable=cause or f"a chunk does not run: {first_line(error)}"
        )
    return manifest._replace(padded_states=states_stop_at_lengths(pair, cases))


def chunk_checks(pair: Pair, cases: CaseGenerator, reach: int) -> Iterator[Check]:
    """Compare chunks with states carried, step by step and cut at random, with the
    module's full sequence.
    """
    unit = pair.manifest.unit
    steps = unit * _CHUNKED + min(reach, _MOST_REACHED)
    case = cases.case(
        2, steps, at_reset=True, offset=_CHUNKS_OFFSET
    )  # fractions of a call are below 1
    feeds = full_length(pair.manifest, case.feeds)
    steps = pair.manifest.steps(feeds)
    want = pair.reference(feeds)
    random = [
        unit * units for units in random_sizes(steps // unit, np.random.default_rng(0))
    ]
    for name, sizes in (
        ("step by step", [unit] * (steps // unit)),
        (
            "in chunks",
            random,
        ),
    ):
        got = in_chunks(pair.manifest, sizes)(pair.graph, feeds)
        if folded := [output for output in want if output not in got]:
            message = (
                f"an axis of {folded[0]} follows the time axis, and chunks cut that"
                " alone"
            )
            yield Check(name, "failed", message)
            return
        yield within_limits(f"{name}, {case}", pair.within(got, want, feeds))


def _why_no_chunks(manifest: Manifest) -> str:
    """Return why the file can't be fed one step or one row at a time; empty if it can."""
    for name, taken in ((manifest.sequence, "steps"), (manifest.batch, "rows")):
        sizes = manifest.ranges.get(name or "", AxisRange())
        if sizes.nearest(1) > (manifest.unit if taken == "steps" else 1):
            return f"a call takes {sizes} {taken} ({name}), not one"
    return ""


def states_stop_at_lengths(pair: Pair, cases: CaseGenerator) -> bool:
    """Return True if padding does not change a row's final states, as with packed
    sequences.
    """
    manifest = pair.manifest
    if manifest.lengths is None or not manifest.states:
        return True
    feeds = dict(
        cases.case(
            2, 2 * _SHORT, at_reset=True, offset=_CHUNKS_OFFSET + 1, full=True
        ).feeds
    )
    lengths = {manifest.lengths: np.full_like(feeds[manifest.lengths], _SHORT)}
    cut = {**take_steps(manifest.time_axes, feeds, start=0, stop=_SHORT), **lengths}
    try:
        padded = pair.graph({**feeds, **lengths})
        alone = pair.graph(cut)
    except Exception:  # noqa: BLE001  the evaluator's exceptions share no base class
        return False
    ends = [state.output for state in manifest.states]
    records = pair.within(
        {e: padded[e] for e in ends}, {e: alone[e] for e in ends}, cut
    )
    return all(record.ok for record in records)


def differing_constants(file: onnx.ModelProto, exact: Mapping[str, Array]) -> list[str]:
    """Return the float constants of a file that are not the rounded ones of its graph
    in float64.
    """
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in file.graph.initializer
    }
    return [
        name
        for name, array in exact.items()
        if name not in constants
        or constants[name].tobytes() != array.astype(constants[name].dtype).tobytes()
    ]
