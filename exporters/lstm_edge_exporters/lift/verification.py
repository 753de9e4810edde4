"""Verifying a lifted file: equal to the original at reset, equal in chunks or why not, and a golden case."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import with_ones
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest, StateSpec

from ..chunks import Runner
from ..evaluate import Session, case_generator
from ..graph import axes_of, dynamic_axes, to_bytes, to_proto
from ..numerics.compare import (
    REFUSALS,
    Expected,
    Function,
    GraphError,
    expected,
    fixed_axes,
    floors_of,
    measure,
)
from ..numerics.graph64 import Graph64, MeasuredGraph, open_graph
from ..numerics.verify import (
    ChunkedFile,
    ChunkRun,
    Equivalence,
    chunked_steps,
    golden_case,
    rows_keep_states,
    run_in_chunks,
    states_stop_at_lengths,
    verify,
)
from ..streaming.flow import NotStreamableError
from ..verify.cases import GRID, Case, case_size, remember, row_by_row
from .axes import BATCH, SEQUENCE, axis_roles
from .divergence import explain_divergence
from .quantized import float_twin, is_quantized
from .states import LiftedStates

_ROWS = 2
"""Rows that are fed in chunks."""


@dataclass(frozen=True)
class LiftedGraph:
    """The original graph, the lifted one, and what is known of them."""

    source: ir.Model
    """The file's own graph, its inputs' axes named."""
    constants: Mapping[str, Array]
    """What stands in the place of inputs of ``source``."""
    original: ir.Model
    """The same with its axes named, constants in their places and the branches that they decide."""
    lifted: ir.Model
    manifest: Manifest
    """The lifted file's."""
    known: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""
    found: LiftedStates
    """Those that were lifted, and those that were not."""
    fixed_batch: int
    """The batch size that initial states fix the original at; 1 where they don't."""
    declared: Mapping[str, int]
    """The sizes that ``batch`` and ``sequence`` were declared with, of those that were made dynamic."""
    lengths: tuple[str, ...]
    """Inputs with each row's count of valid steps."""
    steps: int
    """The steps that lifted layers take in every call where the inputs fix them; else 1."""
    reach: int = 0
    """How many steps the states of operators along time hold together."""
    refused: NotStreamableError | None = None
    """Why such operators have no states; None where they need none."""
    need: str = ""
    """Why a file of its own streams, ``looks 3 steps ahead``; empty if the lifted one does."""


@dataclass(frozen=True)
class Verification:
    """What was verified."""

    equivalence: Equivalence
    """The lifted file with its states at reset, beside the original."""
    sizes: tuple[str, ...]
    """Sizes at which both were run."""
    by_rows: tuple[str, ...]
    """Sizes that the original can't run, at which it was run row by row."""
    golden: Golden
    chunks: ChunkRun | None
    unstreamable: str
    padded_states: bool
    """Whether a row's states stop at its length."""

    def figures(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        figures = self.equivalence.to_dict() | {"reference": "the original ONNX file"}
        figures["by_rows"] = list(self.by_rows)
        if self.chunks is not None:
            worst = self.chunks.worst
            figures["chunks"] = {"sizes": list(self.chunks.sizes), "worst": str(worst), "equal": worst.ok}
            figures["chunks"] |= {"in_float": True} if self.chunks.in_float else {}
        return figures


def verify_lifted(graph: LiftedGraph, lifted: Session, seed: int) -> Verification:
    """Verify that the lifted graph computes what the original does, and whether it can be fed in chunks.

    Raises:
        CheckFailedError: it does not, or an axis that was made dynamic does not work at other sizes.
        FileFormatError: onnxruntime does not run the original.
    """
    original, cases = _Original(graph), _cases(graph, seed)
    refused = {case.sizes_text: reason for case in cases if (reason := original.refuses(case.feeds))}
    if len(refused) == len(cases):
        reason = refused[cases[-1].sizes_text]
        raise FileFormatError(f"the original itself runs at none of the sizes tried: {reason}")
    function = _function(graph.lifted, graph.manifest, lifted, original)
    try:
        found = verify(function, lifted.run, cases)
    except GraphError:  # it can't be evaluated in float64 after all
        original.graph = None
        function = _function(graph.lifted, graph.manifest, lifted, original)
        found = verify(function, lifted.run, cases)
    if graph.declared:
        _check_dynamic(graph, lifted, function, cases[-1])
    whole = [case for case in found.cases if case.sizes_text not in refused]
    by_rows = tuple(case.sizes_text for case in found.cases if case.sizes_text in refused)
    several = (case for case in whole if case.sizes.get(graph.manifest.sequence or "", 2) > 1)
    feeds = next(several, whole[0]).feeds
    outputs = {**function.graph.run64(feeds), **function.reference.run64(feeds)}  # of states the file's own
    known = Expected(outputs, expected(function.graph, feeds, function.fixed).floors)
    golden = golden_case(graph.manifest, {name: feeds[name] for name in lifted.inputs}, known)
    chunks = _run_in_chunks(graph, lifted, function, seed)
    return Verification(found, tuple(case.sizes_text for case in whole), by_rows, golden, *chunks)


class _Original:
    """The original as what a lifted file is compared with; row by row at batch sizes that it can't run."""

    def __init__(self, graph: LiftedGraph) -> None:
        self._manifest, self._rows = graph.manifest, graph.fixed_batch
        self._engine = remember(Session(graph.source, "the original").run)
        self.graph: Graph64 | None = None
        """In float64, where it can be evaluated."""
        with contextlib.suppress(UnsupportedError):
            self.graph = Graph64(to_proto(graph.source), "the original")

    @property
    def tensors(self) -> Iterable[Array]:
        return self.graph.tensors if self.graph else ()

    def refuses(self, feeds: Mapping[str, Array], *, by_rows: bool = False) -> str:
        """Return why onnxruntime can't run a case, where it can't."""
        try:
            self._run(self._engine, by_rows)(feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return first_line(error)
        return ""

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        reason, (rows, _) = self.refuses(feeds), case_size(self._manifest, feeds)
        if reason and (rows <= self._rows or rows % self._rows or self.refuses(feeds, by_rows=True)):
            raise RuntimeError(reason)
        if self.graph is None:
            return self._run(self._engine, bool(reason))(feeds)
        try:
            return self._run(self.graph.run64, bool(reason))(feeds)
        except REFUSALS as error:
            raise GraphError(error) from error

    def _run(self, run: Runner, by_rows: bool) -> Runner:
        return row_by_row(self._manifest, run, self._rows) if by_rows else run


def _cases(graph: LiftedGraph, seed: int) -> list[Case]:
    """Generate the cases; N of the grid counts in the batch size that the original has."""
    grid = [(n * graph.fixed_batch, length) for n, length in GRID]
    if graph.declared:
        grid.insert(0, (graph.declared.get(BATCH, graph.fixed_batch), graph.declared.get(SEQUENCE, 1)))
    cases = (case_of(graph, *sizes, seed) for sizes in grid)
    return list({each.sizes_text: each for each in cases}.values())


def case_of(graph: LiftedGraph, batch: int, sequence: int, seed: int, offset: int = 0) -> Case:
    """Generate a case at a batch size and a number of steps; other axes and ``offset`` as of ``case_at``."""
    named = {graph.manifest.batch: batch, graph.manifest.sequence: sequence}
    names = dynamic_axes(graph.original.graph)
    sizes = {name: named.get(name, 2 + place) for place, name in enumerate(names)}
    return case_at(graph, sizes, seed, offset)


def case_at(graph: LiftedGraph, sizes: Mapping[str, int], seed: int, offset: int = 0) -> Case:
    """Generate the inputs of both files with every dynamic axis at its size; states are at reset.

    ``offset`` gives another case for another number.
    """
    states, sequence = graph.manifest.states, graph.manifest.sequence
    steps = 1 if sequence else _fixed_steps(graph)
    cases = case_generator(graph.original.graph, steps, states=states, sequence=sequence, seed=seed)
    for state in states:
        sizes = with_ones(state.axes, sizes)
    case = cases.at(sizes, offset)
    return replace(case, feeds={**case.feeds, **graph.constants})


def _fixed_steps(graph: LiftedGraph) -> int:
    """Return the steps of one call where the inputs fix them."""
    fixed = (
        size
        for value, roles in axis_roles(graph.original).items()
        for axis, role in roles.items()
        if role == SEQUENCE and isinstance(size := axes_of(value)[axis], int)
    )
    return next(fixed, 1)


def _check_dynamic(graph: LiftedGraph, lifted: Session, function: Function, case: Case) -> None:
    """Check that axes that were made dynamic are so inside the graph as well."""
    try:
        got = lifted.run(case.feeds)
    except Exception as error:
        raise CheckFailedError(f"at {case}: the axes are fixed inside the graph") from error
    if BATCH not in graph.declared:
        return
    try:
        rows = row_by_row(graph.manifest, lifted.run)(case.feeds)
    except Exception as error:
        raise CheckFailedError(f"at {case}: rows of a batch can't be run one by one") from error
    found = measure(got, rows, floors_of(function.graph, case.feeds, function.fixed))
    if not found.ok:
        raise CheckFailedError(f"at {case}, against its rows one by one: {found.worst}")


def _run_in_chunks(
    graph: LiftedGraph, lifted: Session, function: Function, seed: int
) -> tuple[ChunkRun | None, str, bool]:
    """Return the worst of the runs, why chunks do not equal the whole, and whether states stop at lengths."""
    manifest, model = graph.manifest, graph.lifted
    if not manifest.states or graph.need:
        return None, "", True
    if not manifest.time_axes:
        fixed = graph.steps
        return None, f"chunks were not tried: every call takes {fixed} steps" if fixed > 1 else "", True
    steps = chunked_steps(graph.reach)
    feeds = case_of(graph, _ROWS * graph.fixed_batch, steps, seed).feeds
    if is_quantized(model) and (twin := float_twin(model)) is not None:
        model, lifted = twin, Session(twin, "its float twin")
        function = replace(function, graph=open_graph(to_bytes(model), lifted.run))
    file = ChunkedFile(manifest, lifted.run, graph.lengths, function).itself
    full = {**feeds, **file.with_lengths(feeds, steps)}
    found = run_in_chunks(file, full, np.random.default_rng(seed))
    refused = graph.refused if model is graph.lifted else None  # of the twin nothing was asked
    reason = "" if found.ok else explain_divergence(model, file, full, found, refused)
    chunks = None if found.error else replace(found, in_float=model is not graph.lifted)
    if reason or not states_stop_at_lengths(file, feeds):
        return chunks, reason, bool(reason)
    by_row = all(state.input in manifest.batch_axes for state in manifest.states)
    if by_row and not rows_keep_states(file, feeds):
        reason = (
            "rows are in another order inside (sorted by length, say), and their states do not follow: "
            "a row gets another's state where the order changes from chunk to chunk"
        )
    return chunks, reason, True


def _function(model: ir.Model, manifest: Manifest, session: Session, original: _Original) -> Function:
    """Return a lifted file in float64 beside its original, or measured where either has no such run."""
    if original.graph:
        graph = open_graph(to_bytes(model), session.run)
    else:
        graph = MeasuredGraph(to_proto(model), session.run)
    return Function(graph, original, fixed_axes(manifest))
