"""Verifying a lifted file: equal to the original at reset, equal in chunks or why not, and a golden case."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.axes import with_ones
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest, StateSpec
from lstm_edge_runtime.tolerance import MULTIPLE, Comparison, compare

from ..evaluate import Session, case_generator
from ..graph import axes_of, dynamic_axes, to_proto
from ..numerics.cases import GRID, Case, case_size, row_by_row
from ..numerics.floors import Expected, noise_floors
from ..numerics.function import Function, GraphError, fixed_axes
from ..numerics.graph64 import Graph64, MeasuredGraph
from ..numerics.verify import (
    ChunkedFile,
    ChunkRun,
    golden_case,
    rows_keep_states,
    run_in_chunks,
    states_stop_at_lengths,
)
from .axis_roles import BATCH, SEQUENCE, axis_roles
from .divergence import explain_divergence
from .quantized import float_twin, is_quantized
from .states import LiftedStates

__all__ = ["Equality", "LiftedGraph", "Verification", "case_at", "verify_lifted"]

_CHUNKED = (2, 24)
"""Rows, and steps beside those that the states of operators along time hold."""
_MOST_REACHED = 256
"""Of these at the most."""


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
    refused: str = ""
    """Why such operators have no states; empty where they need none, or take all steps together."""
    late: bool = False
    """Whether frames need later steps: then another graph streams, which is verified by itself."""


@dataclass(frozen=True)
class Equality:
    """At which sizes the lifted file with its states at reset is the original."""

    exact: tuple[str, ...]
    """Sizes at which every output is the same bit for bit."""
    by_rows: tuple[str, ...]
    """Sizes that the original can't run, compared with it row by row within rounding."""
    rounded: tuple[str, ...] = ()
    """Sizes at which every output is the same within rounding: onnxruntime may fuse the operators of a branch
    once no ``If`` is around it."""
    max_abs: float = 0.0
    max_rel: float = 0.0


@dataclass(frozen=True)
class Verification:
    """What was verified."""

    equality: Equality
    chunks: ChunkRun | None
    unstreamable: str
    padded_states: bool
    """Whether a row's states stop at its length."""
    golden: Golden

    def figures(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        figures: dict[str, Any] = {
            "reference": "the original ONNX file",
            "cases": list(self.equality.exact),
            "max_abs": self.equality.max_abs,
            "max_rel": self.equality.max_rel,
            "by_rows": list(self.equality.by_rows),
        }
        if self.equality.rounded:
            figures["rounded"] = list(self.equality.rounded)
        if self.chunks is not None:
            worst = self.chunks.worst
            figures["chunks"] = {"sizes": list(self.chunks.sizes), "worst": str(worst), "equal": worst.ok}
            figures["chunks"] |= {"in_float": True} if self.chunks.in_float else {}
        return figures


def verify_lifted(graph: LiftedGraph, lifted: Session, seed: int) -> Verification:
    """Verify that the lifted graph computes what the original does, and whether it can be fed in chunks.

    Args:
        graph: both graphs, and the lifted file's manifest before anything was measured.
        lifted: the lifted file.
        seed: of the random data.

    Raises:
        CheckFailedError: it does not, or an axis that was made dynamic does not work at other sizes.
        FileFormatError: onnxruntime does not run the original.
    """
    verifier = _Verifier(graph, lifted, seed)
    cases = verifier.cases()
    equality = verifier.check_equality(cases)
    if graph.declared:
        verifier.check_dynamic(cases[-1])
    chunks, unstreamable, padded_states = verifier.run_in_chunks()
    equal = [each for each in cases if each.sizes_text in (*equality.exact, *equality.rounded)]
    golden = next((each for each in equal if each.sizes.get(graph.manifest.sequence or "", 2) > 1), equal[0])
    return Verification(equality, chunks, unstreamable, padded_states, verifier.record_golden(golden))


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
    return next(
        (
            size
            for value, roles in axis_roles(graph.original.graph, graph.original).items()
            for axis, role in roles.items()
            if role == SEQUENCE and isinstance(size := axes_of(value)[axis], int)
        ),
        1,
    )


class _Verifier:
    """Both files, open, and what is rounding between them."""

    def __init__(self, graph: LiftedGraph, lifted: Session, seed: int) -> None:
        self._graph, self._manifest, self._seed = graph, graph.manifest, seed
        self._original = Session(graph.source, "the original")
        self._lifted = lifted
        self._function = _function(graph.lifted, self._manifest, self._lifted, graph.source)

    def cases(self) -> list[Case]:
        """Generate the cases; N of the grid counts in the batch size that the original has."""
        graph = self._graph
        grid = [(n * graph.fixed_batch, length) for n, length in GRID]
        if graph.declared:
            grid.insert(0, (graph.declared.get(BATCH, graph.fixed_batch), graph.declared.get(SEQUENCE, 1)))
        return list({each.sizes_text: each for each in starmap(self._case, grid)}.values())

    def _case(self, batch: int, sequence: int) -> Case:
        named = {self._manifest.batch: batch, self._manifest.sequence: sequence}
        names = dynamic_axes(self._graph.original.graph)
        sizes = {name: named.get(name, 2 + place) for place, name in enumerate(names)}
        return case_at(self._graph, sizes, self._seed)

    def check_equality(self, cases: Sequence[Case]) -> Equality:
        """Compare every output of the original with the lifted file's.

        Raises:
            CheckFailedError: an output differs.
            FileFormatError: the original itself runs at no size.
        """
        sizes: dict[str, list[str]] = {"exact": [], "by_rows": [], "rounded": []}
        reason, worst = "", [(0.0, 0.0)]
        for each in cases:
            got = _try(self._lifted, each.feeds)
            try:
                wanted = self._original.run(each.feeds)
            except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
                reason = first_line(error)
                if got is not None and self._rows_agree(self._original, each, got, self._graph.fixed_batch):
                    sizes["by_rows"].append(each.sizes_text)
                continue
            if got is None:
                raise CheckFailedError(f"at {each}: the original runs and the lifted file does not")
            different = [
                name
                for name, array in wanted.items()
                if not np.array_equal(got[name], array, equal_nan=array.dtype.kind == "f")
            ]
            self._check_in_float64(each)
            rewritten = self._graph.source is not self._graph.original or self._graph.reach > 0
            limits = self._limits(each.feeds) if different and rewritten else {}
            found = _compared(got, {name: wanted[name] for name in different}, limits, f"at {each}")
            worst += [(record.max_abs, record.max_rel) for record in found]
            sizes["rounded" if different else "exact"].append(each.sizes_text)
        if not sizes["exact"] and not sizes["rounded"]:
            raise FileFormatError(f"the original itself runs at none of the sizes tried: {reason}")
        max_abs, max_rel = map(max, zip(*worst, strict=True))
        return Equality(
            **{name: tuple(each) for name, each in sizes.items()}, max_abs=max_abs, max_rel=max_rel
        )

    def _rows_agree(self, session: Session, case: Case, got: Mapping[str, Array], rows: int) -> bool:
        """Compare what the lifted file gives for a batch with runs of ``rows`` rows in ``session``.

        Returns:
            Whether ``session`` ran at all.

        Raises:
            CheckFailedError: an output differs by more than rounding.
        """
        total, _ = case_size(self._manifest, case.feeds)
        if total <= rows or total % rows:
            return False
        try:
            joined = row_by_row(self._manifest, session.run, rows)(case.feeds)
        except Exception:  # noqa: BLE001  not a matter of the batch size, then
            return False
        where = f"at {case}, against the original row by row"
        return bool(_compared(got, joined, self._limits(case.feeds), where))

    def check_dynamic(self, case: Case) -> None:
        """Check that axes that were made dynamic are so inside the graph as well."""
        got = _try(self._lifted, case.feeds)
        if got is None:
            raise CheckFailedError(f"at {case}: the axes are fixed inside the graph")
        if BATCH in self._graph.declared and not self._rows_agree(self._lifted, case, got, 1):
            raise CheckFailedError(f"at {case}: rows of a batch can't be run one by one")

    def run_in_chunks(self) -> tuple[ChunkRun | None, str, bool]:
        """Feed the file in chunks.

        Returns:
            The worst of the runs; why chunks do not equal the whole; whether states stop at lengths.
        """
        graph, manifest, lifted, function = self._graph, self._manifest, self._lifted, self._function
        if not manifest.states or graph.late:
            return None, "", True
        if not manifest.time_axes:
            fixed = graph.steps
            return None, f"chunks were not tried: every call takes {fixed} steps" if fixed > 1 else "", True
        batch, steps = _CHUNKED[0], _CHUNKED[1] + min(graph.reach, _MOST_REACHED)
        whole = self._case(batch * graph.fixed_batch, steps)
        model = graph.lifted
        if is_quantized(model) and (twin := float_twin(model)) is not None:
            model, lifted = twin, Session(twin, "its float twin")
            function = _function(model, manifest, lifted, model)
        file = ChunkedFile(manifest, lifted.run, graph.lengths, partial(_floors, function, manifest))
        feeds = {**whole.feeds, **file.with_lengths(whole.feeds, steps)}
        itself = replace(function, reference=function.graph)
        found = run_in_chunks(file, feeds, np.random.default_rng(self._seed), itself)
        reason = (
            "" if found.ok else graph.refused or explain_divergence(model, function.graph, file, feeds, found)
        )
        chunks = None if found.error else replace(found, in_float=model is not graph.lifted)
        if function.in_float64:
            file = replace(file, run=function.exact, floors=None)
        if reason or not states_stop_at_lengths(file, whole.feeds):
            return chunks, reason, bool(reason)
        by_row = all(state.input in manifest.batch_axes for state in manifest.states)
        if by_row and not rows_keep_states(file, whole.feeds):
            reason = (
                "rows are in another order inside (sorted by length, say), and their states do not follow: "
                "a row gets another's state where the order changes from chunk to chunk"
            )
        return chunks, reason, True

    def record_golden(self, case: Case) -> Golden:
        """Record the original's outputs, and the lifted file's states, for one case."""
        outputs = {**self._lifted.run(case.feeds), **self._original.run(case.feeds)}
        inputs = {name: case.feeds[name] for name in self._lifted.inputs}
        return golden_case(self._manifest, inputs, Expected(outputs, self._noise(case.feeds)))

    def _check_in_float64(self, case: Case) -> None:
        try:
            found = self._function.compare(case.feeds)
        except (GraphError, RuntimeError, ValueError, IndexError):  # it can't be evaluated after all
            self._measure()
            return
        if not found.ok:
            raise CheckFailedError(f"at {case}, in float64: {found.worst}")

    def _limits(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return how far an engine's outputs may be from other outputs of its own."""
        return {name: MULTIPLE * array for name, array in self._noise(feeds).items()}

    def _noise(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if self._function.in_float64:
            with contextlib.suppress(RuntimeError):
                return _floors(self._function, self._manifest, feeds)
            self._measure()
        return _floors(self._function, self._manifest, feeds)

    def _measure(self) -> None:
        self._function = _measured(to_proto(self._graph.lifted), self._manifest, self._lifted)


def _function(model: ir.Model, manifest: Manifest, session: Session, source: ir.Model) -> Function:
    """Return a lifted file in float64 beside its original, or measured where an operator has no such run."""
    proto = to_proto(model)
    try:
        return Function(Graph64(proto), Graph64(to_proto(source), "the original"), fixed_axes(manifest))
    except UnsupportedError:
        return _measured(proto, manifest, session)


def _measured(proto: onnx.ModelProto, manifest: Manifest, session: Session) -> Function:
    graph = MeasuredGraph(proto, session.run)
    return Function(graph, graph, fixed_axes(manifest))


def _floors(function: Function, manifest: Manifest, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the noise floors at ``feeds``, as much larger as those of float16 where that is a state's."""
    kinds = [np.dtype(state.dtype) for state in manifest.states]
    units = [float(np.finfo(kind).eps / np.finfo(np.float32).eps) for kind in kinds if kind.kind == "f"]
    floors = noise_floors(function.graph, feeds, function.fixed)
    return {name: max([1.0, *units]) * array for name, array in floors.items()}


def _compared(
    got: Mapping[str, Array], wanted: Mapping[str, Array], limits: Mapping[str, Array], where: str
) -> list[Comparison]:
    """Compare outputs, exactly where there are no limits.

    Raises:
        CheckFailedError: one differs by more.
    """
    found = [
        compare(name, got[name], array, floor=0.0, limit=limits.get(name, np.zeros(())))
        for name, array in wanted.items()
    ]
    for each in found:
        if not each.ok:
            raise CheckFailedError(f"{where}: {each}")
    return found


def _try(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    try:
        return session.run(feeds)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return None
