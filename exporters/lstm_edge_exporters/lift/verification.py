"""The proof of a lift: equal at reset, equal in chunks or why not, and a golden case."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import CheckFailedError, first_line
from lstm_edge_runtime.manifest import Golden, StateSpec
from lstm_edge_runtime.tolerance import compare

from ._axes import axes_of, data_inputs, sizes_for
from ._chunks import ChunkRun, chunk_sizes, compare_chunks, moved
from ._contract import reset_arrays
from ._equality import Equality, Trial, check_equality, check_rows
from ._guard import open_guarded
from ._ort import Session, to_bytes
from ._sample import sample_inputs
from .axes import AxisNames
from .axis_roles import BATCH, SEQUENCE, axis_roles
from .divergence import blame, find_culprit

__all__ = ["Proof", "Subject", "draw", "prove"]

Array = npt.NDArray[Any]

_GRID = ((1, 1), (1, 5), (3, 8), (2, 33))
"""``(N, L)`` of the trials; N counts in the batch size that the original is held at."""
_CHUNKED = (2, 24)
_PLANS = 3
"""Random ways to cut the sequence."""


@dataclass(frozen=True)
class Subject:
    """The two files and what is known of them."""

    base: ir.Model
    """The original, its axes named."""
    lifted: ir.Model
    states: tuple[StateSpec, ...]
    names: AxisNames
    rows: int
    """The batch size that initial states hold the original at; 1 where they hold it at none."""
    declared: Mapping[str, int]
    """The sizes that ``batch`` and ``sequence`` were declared with, of those that were freed."""
    lengths: tuple[str, ...]
    """Inputs with each row's count of valid steps."""

    def axes_named(self, name: str | None) -> dict[str, int]:
        """Return the place of the axis called ``name`` in every data input that has one."""
        states = {state.input for state in self.states}
        return {
            str(value.name): axes_of(value).index(name)
            for value in data_inputs(self.base.graph)
            if name is not None and name in axes_of(value) and value.name not in states
        }


@dataclass(frozen=True)
class Proof:
    """What was proven."""

    equality: Equality
    chunks: ChunkRun | None
    unstreamable: str
    golden: Golden

    def figures(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        figures: dict[str, Any] = {
            "reference": "the original ONNX file",
            "cases": list(self.equality.exact),
            "max_abs": 0.0,
            "max_rel": 0.0,
            "by_rows": list(self.equality.by_rows),
        }
        if self.chunks is not None:
            worst = self.chunks.worst
            figures["chunks"] = {"sizes": list(self.chunks.sizes), "worst": str(worst), "equal": worst.ok}
        return figures


def prove(subject: Subject, seed: int) -> Proof:
    """Prove that ``lifted`` is ``base``, and see whether it can be fed in chunks.

    Raises:
        CheckFailedError: it is not, or an axis that was freed does not work at other sizes.
        FileFormatError: onnxruntime does not run the original.
    """
    rng = np.random.default_rng(seed)
    original = open_guarded(subject.base, "the original")
    lifted = open_guarded(subject.lifted, "the lifted file")
    trials = _trials(subject, rng)
    batch = subject.axes_named(subject.names.batch)
    equality = check_equality(original, lifted, trials, subject.rows, batch)
    if subject.declared:
        _check_freed(subject, lifted, trials[-1], batch)
    chunks, unstreamable = _chunks(subject, lifted, rng)
    exact = [trial for trial in trials if str(trial) in equality.exact]
    golden = next(
        (trial for trial in exact if trial.sizes.get(subject.names.sequence or "", 2) > 1), exact[0]
    )
    return Proof(equality, chunks, unstreamable, _golden(subject, original, lifted, golden, rng))


def draw(subject: Subject, sizes: Mapping[str, int], rng: np.random.Generator) -> Trial:
    """Draw data for the inputs with every free axis at its size; states are at reset."""
    graph = subject.base.graph
    steps = sizes[subject.names.sequence] if subject.names.sequence else _fixed_steps(subject)
    start = reset_arrays(subject.states, sizes)
    return Trial(sizes, {**sample_inputs(graph, sizes, rng, steps), **start}, start)


def _draw_at(subject: Subject, batch: int, sequence: int, rng: np.random.Generator) -> Trial:
    wanted = {subject.names.batch: batch, subject.names.sequence: sequence}
    named = {name: size for name, size in wanted.items() if name is not None}
    return draw(subject, sizes_for(subject.base.graph, 2, named), rng)


def _fixed_steps(subject: Subject) -> int:
    """Return the steps of one call where the inputs fix them."""
    return next(
        (
            size
            for value, roles in axis_roles(subject.base.graph, subject.base).items()
            for axis, role in roles.items()
            if role == SEQUENCE and isinstance(size := axes_of(value)[axis], int)
        ),
        1,
    )


def _trials(subject: Subject, rng: np.random.Generator) -> list[Trial]:
    trials = [_draw_at(subject, n * subject.rows, length, rng) for n, length in _GRID]
    if subject.declared:
        declared = subject.declared.get(BATCH, subject.rows), subject.declared.get(SEQUENCE, 1)
        trials.insert(0, _draw_at(subject, *declared, rng))
    return list({str(trial): trial for trial in trials}.values())


def _check_freed(subject: Subject, lifted: Session, trial: Trial, batch: Mapping[str, int]) -> None:
    try:
        got = lifted.run({**trial.feeds, **trial.start})
    except Exception as error:
        raise CheckFailedError(f"at {trial}: the freed axes are fixed inside the graph") from error
    name = subject.names.batch
    states = {state.input: state.axes.index(name) for state in subject.states if name in state.axes}
    if BATCH in subject.declared and not check_rows(lifted, lifted, trial, got, 1, {**batch, **states}):
        raise CheckFailedError(f"at {trial}: rows of a batch can't be run one by one")


def _chunks(subject: Subject, lifted: Session, rng: np.random.Generator) -> tuple[ChunkRun | None, str]:
    """Feed the file in chunks; gives the worst of the plans, and why chunks do not equal the whole."""
    batch, total = _CHUNKED
    axes = subject.axes_named(subject.names.sequence)
    if not axes or not subject.states:
        return None, ""
    trial = _draw_at(subject, batch * subject.rows, total, rng)
    data = {name: array for name, array in trial.feeds.items() if name not in trial.start}

    def run(
        part: Mapping[str, Array], state: Mapping[str, Array] | None, steps: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        filled = {name: np.full_like(part[name], steps) for name in subject.lengths}
        results = lifted.run({**part, **filled, **(state or trial.start)})
        return results, {spec.input: results[spec.output] for spec in subject.states}

    runs = []
    for _ in range(_PLANS):
        sizes = chunk_sizes(total, rng)
        try:
            runs.append(compare_chunks(run, data, axes, sizes, rng))
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return None, f"a chunk does not run by itself: {first_line(error)}"
    found = max(runs, key=lambda each: each.worst.ratio)
    if found.worst.ok:
        return found, ""
    worst = found.worst
    try:
        culprit = find_culprit(
            subject.lifted, subject.states, trial.start, data, axes, found.sizes, subject.lengths, worst.name
        )
    except Exception:  # noqa: BLE001  values between nodes may be no tensors (sequences), which it can't watch
        culprit = ""
    return found, blame(culprit, worst)


def _golden(
    subject: Subject, original: Session, lifted: Session, trial: Trial, rng: np.random.Generator
) -> Golden:
    """Record the original's outputs, and the lifted file's states, for one trial.

    The noise floor is what moving every float input and weight by one unit in the last place does.
    """
    feeds = {**trial.feeds, **trial.start}
    outputs = {**lifted.run(feeds), **original.run(feeds)}
    shaken = _shaken(subject.lifted, rng).run({name: moved(array, rng) for name, array in feeds.items()})
    floor = {
        name: compare(name, shaken[name], array, floor=0, limit=0).max_abs if array.dtype.kind == "f" else 0.0
        for name, array in outputs.items()
    }
    floor = {name: size if np.isfinite(size) else 0.0 for name, size in floor.items()}
    return Golden({name: feeds[name] for name in lifted.inputs}, outputs, floor)


def _shaken(model: ir.Model, rng: np.random.Generator) -> Session:
    copy = model.clone()
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            value.const_value = ir.tensor(moved(tensor.numpy(), rng), name=value.name)
    return Session(to_bytes(copy))
