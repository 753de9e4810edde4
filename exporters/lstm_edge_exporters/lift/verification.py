"""Verifying a lifted file: equal to the original at reset, equal in chunks or why not, and a golden case."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import with_ones
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.tolerance import MULTIPLE, compare

from ..graph import axes_of, dynamic_axes, to_proto
from ..numerics.cases import GRID, Case
from ..numerics.floors import Expected, expected
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
from .evaluate import Session, case_generator, try_evaluate, two_sizes
from .quantized import float_twin, is_quantized
from .subgraphs import recurrences, sequences

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
    lifts: bool
    """Whether any of the states was lifted, and not an input before."""
    reach: int
    """How many steps the states of operators along time hold together."""
    refused: str
    """Why such operators have no states; empty where they need none, or take all steps together."""
    fixed_batch: int
    """The batch size that initial states fix the original at; 1 where they don't."""
    declared: Mapping[str, int]
    """The sizes that ``batch`` and ``sequence`` were declared with, of those that were made dynamic."""
    lengths: tuple[str, ...]
    """Inputs with each row's count of valid steps."""


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


def verify_lifted(graph: LiftedGraph, seed: int) -> Verification:
    """Verify that the lifted graph computes what the original does, and whether it can be fed in chunks.

    Args:
        graph: both graphs, and the lifted file's manifest before anything was measured.
        seed: of the random data.

    Raises:
        CheckFailedError: it does not, or an axis that was made dynamic does not work at other sizes.
        FileFormatError: onnxruntime does not run the original.
    """
    verifier = _Verifier(graph, seed)
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

    def __init__(self, graph: LiftedGraph, seed: int) -> None:
        self._graph, self._manifest, self._seed = graph, graph.manifest, seed
        self._original = Session(graph.source, "the original")
        self._lifted = Session(graph.lifted, "the lifted file")
        self._noise = _Noise(graph.lifted, graph.manifest, self._lifted, graph.source)
        axes = graph.manifest.batch_axes
        self._batch = {name: axes[name] for name in graph.manifest.input_names if name in axes}
        """The batch axis of each input and state that has one."""

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
        exact: list[str] = []
        by_rows: list[str] = []
        rounded: list[str] = []
        reason, max_abs, max_rel = "", 0.0, 0.0
        rewritten = self._graph.source is not self._graph.original or self._graph.reach > 0
        data = {spec.name for spec in self._manifest.inputs}
        batch = {name: axis for name, axis in self._batch.items() if name in data}
        for each in cases:
            got = _try(self._lifted, each.feeds)
            try:
                wanted = self._original.run(each.feeds)
            except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
                reason = first_line(error)
                rows = self._graph.fixed_batch
                if got is not None and self._rows_agree(self._original, each, got, rows, batch):
                    by_rows.append(each.sizes_text)
                continue
            if got is None:
                raise CheckFailedError(f"at {each}: the original runs and the lifted file does not")
            different = [
                name
                for name, array in wanted.items()
                if not np.array_equal(got[name], array, equal_nan=array.dtype.kind == "f")
            ]
            self._noise.check(each)
            limits = self._noise.limits(each.feeds) if different and rewritten else {}
            for name in different:
                array = wanted[name]
                found = compare(name, got[name], array, floor=0.0, limit=limits.get(name, 0.0))
                if not found.ok:
                    raise CheckFailedError(f"at {each}: {found}")
                max_abs, max_rel = max(max_abs, found.max_abs), max(max_rel, found.max_rel)
            (rounded if different else exact).append(each.sizes_text)
        if not exact and not rounded:
            raise FileFormatError(f"the original itself runs at none of the sizes tried: {reason}")
        return Equality(tuple(exact), tuple(by_rows), tuple(rounded), max_abs, max_rel)

    def _rows_agree(
        self, session: Session, case: Case, got: Mapping[str, Array], rows: int, batch: Mapping[str, int]
    ) -> bool:
        """Compare what the lifted file gives for a batch with runs of ``rows`` rows in ``session``.

        Returns:
            Whether ``session`` ran at all.

        Raises:
            CheckFailedError: an output differs by more than rounding.
        """
        total = next((case.feeds[name].shape[axis] for name, axis in batch.items()), 0)
        if total <= rows or total % rows:
            return False
        parts = []
        for first in range(0, total, rows):
            part = {
                name: array.take(range(first, first + rows), batch[name]) if name in batch else array
                for name, array in case.feeds.items()
            }
            if (outputs := _try(session, part)) is None:
                return False  # not a matter of the batch size, then
            parts.append(outputs)
        limits = self._noise.limits(case.feeds)
        for name, array in parts[0].items():
            sizes = zip(got[name].shape, array.shape, strict=True)
            joined = next((axis for axis, (whole, part) in enumerate(sizes) if whole != part), None)
            if joined is not None:
                array = np.concatenate([part[name] for part in parts], joined)
            found = compare(name, got[name], array, floor=0.0, limit=limits[name])
            if not found.ok:
                raise CheckFailedError(f"at {case}, against the original row by row: {found}")
        return True

    def check_dynamic(self, case: Case) -> None:
        """Check that axes that were made dynamic are so inside the graph as well."""
        try:
            got = self._lifted.run(case.feeds)
        except Exception as error:
            raise CheckFailedError(f"at {case}: the axes are fixed inside the graph") from error
        if BATCH in self._graph.declared and not self._rows_agree(self._lifted, case, got, 1, self._batch):
            raise CheckFailedError(f"at {case}: rows of a batch can't be run one by one")

    def run_in_chunks(self) -> tuple[ChunkRun | None, str, bool]:
        """Feed the file in chunks.

        Returns:
            The worst of the runs; why chunks do not equal the whole; whether states stop at lengths.
        """
        graph, manifest, lifted, noise = self._graph, self._manifest, self._lifted, self._noise
        if not manifest.states:
            return None, "", True
        if not manifest.time_axes:
            fixed = _steps_of_a_call(graph)
            return None, f"chunks were not tried: every call takes {fixed} steps" if fixed > 1 else "", True
        batch, steps = _CHUNKED[0], _CHUNKED[1] + min(graph.reach, _MOST_REACHED)
        whole = self._case(batch * graph.fixed_batch, steps)
        model = graph.lifted
        if is_quantized(model) and (twin := float_twin(model)) is not None:
            model, lifted = twin, Session(twin, "its float twin")
            noise = _Noise(model, manifest, lifted, model)
        file = ChunkedFile(manifest, lifted.run, graph.lengths, noise.floors)
        function = noise.function and replace(noise.function, reference=noise.function.graph)
        feeds = {**whole.feeds, **file.with_lengths(whole.feeds, steps)}
        found = run_in_chunks(file, feeds, np.random.default_rng(self._seed), function)
        reason = "" if found.ok else graph.refused or explain_divergence(model, file, feeds, found)
        chunks = None if found.error else replace(found, in_float=model is not graph.lifted)
        if function is not None:
            file = replace(file, run=function.graph.run64, floors=None)
        if reason or not states_stop_at_lengths(file, whole.feeds):
            return chunks, reason, bool(reason)
        by_row = all(state.input in self._batch for state in manifest.states)
        if by_row and not rows_keep_states(file, whole.feeds, self._batch):
            reason = (
                "rows are in another order inside (sorted by length, say), and their states do not follow: "
                "a row gets another's state where the order changes from chunk to chunk"
            )
        return chunks, reason, True

    def record_golden(self, case: Case) -> Golden:
        """Record the original's outputs, and the lifted file's states, for one case."""
        known = self._noise.expected(case.feeds)
        outputs = {**self._lifted.run(case.feeds), **self._original.run(case.feeds)}
        inputs = {name: case.feeds[name] for name in self._lifted.inputs}
        return golden_case(self._manifest, inputs, replace(known, ref64=outputs))


def _steps_of_a_call(graph: LiftedGraph) -> int:
    """Return the steps that lifted layers take in every call; 1 where all states were inputs before."""
    if not graph.lifts:
        return 1
    read = [each for node in recurrences(graph.original) for each in sequences(node)]
    sizes, _ = two_sizes(graph.original.graph)
    runs = try_evaluate(graph.original, [each.value for each in read], [sizes])
    return max((runs[0][each.value].shape[each.time] for each in read), default=1) if runs else 1


class _Noise:
    """A lifted file in float64 beside its original, or measured where an operator has no float64 run."""

    def __init__(self, model: ir.Model, manifest: Manifest, session: Session, source: ir.Model) -> None:
        self._measured = MeasuredGraph(to_proto(model), session.run)
        self._fixed = fixed_axes(manifest)
        self.function: Function | None = None
        with contextlib.suppress(UnsupportedError):
            original = Graph64(to_proto(source), "the original")
            self.function = Function(Graph64(to_proto(model)), original, self._fixed)
        floats = (state.dtype for state in manifest.states if state.dtype.startswith("float"))
        kinds = [np.finfo(dtype).eps for dtype in floats]
        self._scale = max(1.0, float(max(kinds) / np.finfo(np.float32).eps)) if kinds else 1.0

    def check(self, case: Case) -> None:
        """Compare with the original in float64, where both can be evaluated.

        Raises:
            CheckFailedError: they differ.
        """
        if self.function is not None:
            try:
                found = self.function.compare(case.feeds)
            except (GraphError, RuntimeError, ValueError, IndexError):  # it can't be evaluated after all
                self.function = None
                return
            if not found.ok:
                raise CheckFailedError(f"at {case}, in float64: {found.worst}")

    def limits(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return how far an engine's outputs may be from other outputs of its own."""
        return {name: MULTIPLE * array for name, array in self.floors(feeds).items()}

    def floors(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the noise floors at ``feeds``."""
        return self.expected(feeds).floors

    def expected(self, feeds: Mapping[str, Array]) -> Expected:
        """Return outputs and noise floors at ``feeds``; floors are as much larger for float16 states."""
        if self.function is not None:
            with contextlib.suppress(RuntimeError):
                return self._scaled(expected(self.function.graph, feeds, self._fixed))
            self.function = None
        return self._scaled(expected(self._measured, feeds, self._fixed))

    def _scaled(self, known: Expected) -> Expected:
        return replace(known, floors={name: self._scale * array for name, array in known.floors.items()})


def _try(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    try:
        return session.run(feeds)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return None
