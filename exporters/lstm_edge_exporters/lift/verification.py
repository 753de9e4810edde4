"""Verifying a lifted file: equal to the original at reset, equal in chunks or why not, and a golden case."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import with_ones
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest, StateSpec
from lstm_edge_runtime.tolerance import compare

from ..graph import axes_of, data_inputs, dynamic_axes, to_proto
from ..numerics.cases import GRID, Case
from ..numerics.noise import Layout, PerturbableReference, Rounding, noise_floors
from ..numerics.onnx_reference import OnnxReference
from ..numerics.verify import (
    ChunkedFile,
    ChunkRun,
    rows_keep_states,
    run_in_chunks,
    states_stop_at_lengths,
)
from .axes import AxisNames
from .axis_roles import BATCH, SEQUENCE, axis_roles
from .divergence import explain_divergence
from .evaluate import Session, case_generator, evaluate, two_sizes
from .quantized import float_twin, is_quantized
from .subgraphs import recurrences, sequences

__all__ = ["Equality", "LiftedGraph", "Verification", "case_at", "verify_lifted"]

_CHUNKED = (2, 24)


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
    states: tuple[StateSpec, ...]
    lifts: bool
    """Whether any of the states was lifted, and not an input before."""
    names: AxisNames
    fixed_batch: int
    """The batch size that initial states fix the original at; 1 where they don't."""
    declared: Mapping[str, int]
    """The sizes that ``batch`` and ``sequence`` were declared with, of those that were made dynamic."""
    lengths: tuple[str, ...]
    """Inputs with each row's count of valid steps."""

    def axes_named(self, name: str | None) -> dict[str, int]:
        """Return the place of the axis called ``name`` in every data input that has one."""
        states = {state.input for state in self.states}
        return {
            str(value.name): axes_of(value).index(name)
            for value in data_inputs(self.original.graph)
            if name is not None and name in axes_of(value) and value.name not in states
        }


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


def verify_lifted(graph: LiftedGraph, manifest: Manifest, seed: int) -> Verification:
    """Verify that the lifted graph computes what the original does, and whether it can be fed in chunks.

    Args:
        graph: both graphs.
        manifest: the lifted file's, before anything was measured.
        seed: of the random data.

    Raises:
        CheckFailedError: it does not, or an axis that was made dynamic does not work at other sizes.
        FileFormatError: onnxruntime does not run the original.
    """
    original, lifted = Session(graph.source, "the original"), Session(graph.lifted, "the lifted file")
    cases = _cases(graph, seed)
    noise = _Noise(graph.lifted, manifest, lifted)
    equality = _check_equality(graph, original, lifted, cases, noise)
    if graph.declared:
        _check_dynamic(graph, lifted, cases[-1], noise)
    chunks, unstreamable, padded_states = _run_in_chunks(graph, manifest, lifted, noise, seed)
    equal = [each for each in cases if each.sizes_text in (*equality.exact, *equality.rounded)]
    golden = next((each for each in equal if each.sizes.get(graph.names.sequence or "", 2) > 1), equal[0])
    recorded = _record_golden(original, lifted, golden, noise)
    return Verification(equality, chunks, unstreamable, padded_states, recorded)


def case_at(graph: LiftedGraph, sizes: Mapping[str, int], seed: int, offset: int = 0) -> Case:
    """Generate the inputs of both files with every dynamic axis at its size; states are at reset.

    ``offset`` gives another case for another number.
    """
    steps = 1 if graph.names.sequence else _fixed_steps(graph)
    cases = case_generator(
        graph.original.graph, steps, states=graph.states, sequence=graph.names.sequence, seed=seed
    )
    for state in graph.states:
        sizes = with_ones(state.axes, sizes)
    case = cases.at(sizes, offset)
    return replace(case, feeds={**case.feeds, **graph.constants})


def _case(graph: LiftedGraph, batch: int, sequence: int, seed: int) -> Case:
    named = {graph.names.batch: batch, graph.names.sequence: sequence}
    sizes = {
        name: named.get(name, 2 + place) for place, name in enumerate(dynamic_axes(graph.original.graph))
    }
    return case_at(graph, sizes, seed)


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


def _cases(graph: LiftedGraph, seed: int) -> list[Case]:
    """Generate the verification's cases; N of the grid counts in the batch size that the original has."""
    cases = [_case(graph, n * graph.fixed_batch, length, seed) for n, length in GRID]
    if graph.declared:
        declared = graph.declared.get(BATCH, graph.fixed_batch), graph.declared.get(SEQUENCE, 1)
        cases.insert(0, _case(graph, *declared, seed))
    return list({each.sizes_text: each for each in cases}.values())


def _check_equality(
    graph: LiftedGraph, original: Session, lifted: Session, cases: Sequence[Case], noise: "_Noise"
) -> Equality:
    """Compare every output of ``original`` with ``lifted``'s.

    Raises:
        CheckFailedError: an output differs.
        FileFormatError: the original itself runs at no size.
    """
    exact: list[str] = []
    by_rows: list[str] = []
    rounded: list[str] = []
    reason, max_abs, max_rel = "", 0.0, 0.0
    branched = graph.source is not graph.original
    batch = graph.axes_named(graph.names.batch)
    for each in cases:
        got = _try(lifted, each.feeds)
        try:
            expected = original.run(each.feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            reason = first_line(error)
            if got is not None and _rows_agree(original, each, got, graph.fixed_batch, batch, noise):
                by_rows.append(each.sizes_text)
            continue
        if got is None:
            raise CheckFailedError(f"at {each}: the original runs and the lifted file does not")
        different = [name for name, array in expected.items() if not _is_same(got[name], array)]
        floors = noise.floors(each.feeds) if different and branched else {}
        for name in different:
            array = expected[name]
            floor = floors[name] if branched and _is_float(array) else 0.0
            found = compare(name, got[name], array, floor=floor, limit=None if branched else 0.0)
            if not found.ok:
                raise CheckFailedError(f"at {each}: {found}")
            max_abs, max_rel = max(max_abs, found.max_abs), max(max_rel, found.max_rel)
        (rounded if different else exact).append(each.sizes_text)
    if not exact and not rounded:
        raise FileFormatError(f"the original itself runs at none of the sizes tried: {reason}")
    return Equality(tuple(exact), tuple(by_rows), tuple(rounded), max_abs, max_rel)


def _rows_agree(
    original: Session,
    case: Case,
    got: Mapping[str, Array],
    rows: int,
    batch: Mapping[str, int],
    noise: "_Noise",
) -> bool:
    """Compare a batch that only the lifted file runs with the original's runs of ``rows`` rows.

    Args:
        original: runs ``rows`` rows at a time.
        case: the data.
        got: what the lifted file gives for it.
        rows: the batch size that the original is fixed at.
        batch: input name to its batch axis.
        noise: tells what is rounding.

    Returns:
        Whether the original ran at all.

    Raises:
        CheckFailedError: an output differs by more than rounding.
    """
    if not batch:
        return False
    name, axis = next(iter(batch.items()))
    total = case.feeds[name].shape[axis]
    if total <= rows or total % rows:
        return False
    try:
        parts = [
            original.run(
                {
                    name: array.take(range(first, first + rows), batch[name]) if name in batch else array
                    for name, array in case.feeds.items()
                }
            )
            for first in range(0, total, rows)
        ]
    except Exception:  # noqa: BLE001  not a matter of the batch size, then
        return False
    floors = noise.floors(case.feeds)
    for name in parts[0]:
        joined = next(
            (axis for axis, size in enumerate(got[name].shape) if parts[0][name].shape[axis] != size), None
        )
        expected = (
            parts[0][name] if joined is None else np.concatenate([part[name] for part in parts], joined)
        )
        found = compare(name, got[name], expected, floor=floors[name] if _is_float(expected) else 0.0)
        if not found.ok:
            raise CheckFailedError(f"at {case}, against the original row by row: {found}")
    return True


def _check_dynamic(graph: LiftedGraph, lifted: Session, case: Case, noise: "_Noise") -> None:
    """Check that axes that were made dynamic are so inside the graph as well."""
    try:
        got = lifted.run(case.feeds)
    except Exception as error:
        raise CheckFailedError(f"at {case}: the axes are fixed inside the graph") from error
    name = graph.names.batch
    batch = graph.axes_named(name)
    batch |= {state.input: state.axes.index(name) for state in graph.states if name in state.axes}
    if BATCH in graph.declared and not _rows_agree(lifted, case, got, 1, batch, noise):
        raise CheckFailedError(f"at {case}: rows of a batch can't be run one by one")


def _run_in_chunks(
    graph: LiftedGraph, manifest: Manifest, lifted: Session, noise: "_Noise", seed: int
) -> tuple[ChunkRun | None, str, bool]:
    """Feed the file in chunks.

    Returns:
        The worst of the runs; why chunks do not equal the whole; whether states stop at lengths.
    """
    batch, steps = _CHUNKED
    if not graph.states:
        return None, "", True
    if not graph.axes_named(graph.names.sequence):
        fixed = _steps_of_a_call(graph)
        return None, f"chunks were not tried: every call takes {fixed} steps" if fixed > 1 else "", True
    whole = _case(graph, batch * graph.fixed_batch, steps, seed)
    model = graph.lifted
    if is_quantized(model) and (twin := float_twin(model)) is not None:
        model, lifted = twin, Session(twin, "its float twin")
        noise = _Noise(model, manifest, lifted)
    file = ChunkedFile(manifest, lifted.run, graph.lengths)
    feeds = {**whole.feeds, **file.with_lengths(whole.feeds, steps)}
    found = run_in_chunks(file, feeds, noise.floors(feeds), np.random.default_rng(seed))
    reason = "" if found.ok else explain_divergence(model, file, feeds, found)
    chunks = None if found.error else replace(found, in_float=model is not graph.lifted)
    if reason or not states_stop_at_lengths(file, whole.feeds, noise.floors):
        return chunks, reason, bool(reason)
    batch_axes = graph.axes_named(graph.names.batch)
    name = graph.names.batch
    batch_axes |= {state.input: state.axes.index(name) for state in graph.states if name in state.axes}
    by_row = all(state.input in batch_axes for state in graph.states)
    if by_row and not rows_keep_states(file, whole.feeds, batch_axes, noise.floors):
        reason = (
            "rows are in another order inside (sorted by length, say), and their states do not follow: "
            "a row gets another's state where the order changes from chunk to chunk"
        )
    return chunks, reason, True


def _steps_of_a_call(graph: LiftedGraph) -> int:
    """Return the steps that lifted layers take in every call; 1 where all states were inputs before."""
    if not graph.lifts:
        return 1
    read = [each for node in recurrences(graph.original) for each in sequences(node)]
    sizes, _ = two_sizes(graph.original.graph)
    try:
        (arrays,) = evaluate(graph.original, [each.value for each in read], [sizes])
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return 1
    return max((arrays[each.value].shape[each.time] for each in read), default=1)


def _record_golden(original: Session, lifted: Session, case: Case, noise: "_Noise") -> Golden:
    """Record the original's outputs, and the lifted file's states, for one case."""
    outputs = {**lifted.run(case.feeds), **original.run(case.feeds)}
    floors = {name: float(array.max(initial=0.0)) for name, array in noise.floors(case.feeds).items()}
    return Golden({name: case.feeds[name] for name in lifted.inputs}, outputs, floors)


class _Noise:
    """Noise floors of a lifted file: modeled in float64, or measured where an operator has no float64 run."""

    def __init__(self, model: ir.Model, manifest: Manifest, session: Session) -> None:
        self._manifest = manifest
        self._measured = _MeasuredReference(model, session, Layout.of(manifest))
        self._modeled: OnnxReference | None = None
        with contextlib.suppress(UnsupportedError):
            self._modeled = OnnxReference(to_proto(model), session.run, self._measured.layout, "the file")
        kinds = [np.finfo(state.dtype).eps for state in manifest.states]
        self._scale = max(1.0, float(max(kinds) / np.finfo(np.float32).eps)) if kinds else 1.0

    def floors(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output's noise floors at ``feeds``; they are as much larger for float16 states."""
        if self._modeled is not None:
            try:
                return self._floors(self._modeled, feeds)
            except RuntimeError:  # an operator that can't be evaluated after all
                self._modeled = None
        return self._floors(self._measured, feeds)

    def _floors(self, reference: PerturbableReference, feeds: Mapping[str, Array]) -> dict[str, Array]:
        floors = noise_floors(reference, feeds, reference.run64(feeds))
        return {name: self._scale * array for name, array in floors.items()}


class _MeasuredReference:
    """The file itself, its float weights and inputs moved by one unit in the last place.

    A ``PerturbableReference`` for graphs with operators that only onnxruntime runs.
    """

    def __init__(self, model: ir.Model, session: Session, layout: Layout) -> None:
        self.layout = layout
        self._model = model
        self._session = session

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._session.run(feeds)

    def run64(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._session.run(feeds)

    def perturbed(self, feeds: Mapping[str, Array], rounding: Rounding) -> dict[str, Array]:
        copy = self._model.clone()
        for value in copy.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
                value.const_value = ir.tensor(_moved(tensor.numpy(), rounding), name=value.name)
        nearby = {name: _moved(array, rounding) for name, array in feeds.items()}
        try:
            return Session(copy, guarded=False).run(nearby)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RuntimeError(first_line(error)) from error


def _moved(array: Array, rounding: Rounding) -> Array:
    """Return floats moved by one unit in the last place, up or down at random."""
    if not _is_float(array):
        return array
    direction = np.where(rounding.signs(array.shape) > 0, np.inf, -np.inf).astype(array.dtype)
    return np.asarray(np.where(array == 0, array, np.nextafter(array, direction)))


def _try(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    try:
        return session.run(feeds)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return None


def _is_same(got: Array, expected: Array) -> bool:
    return got.shape == expected.shape and np.array_equal(got, expected, equal_nan=_is_float(expected))


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"
