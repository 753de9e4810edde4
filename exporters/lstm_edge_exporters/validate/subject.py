"""What every group works on: the file, its reference, and cases generated for both and compared.

A float file's graph is compared with the reference in float64 (``Subject.check``), and each engine with the
graph (``Subject.measure``). An int8 or fp16 file is held to the budgets that its gate held it to.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import LstmEdgeError, first_line
from lstm_edge_runtime.manifest import Array, AxisRange
from lstm_edge_runtime.tolerance import MULTIPLE, POLICY

from ..numerics.cases import (
    CaseGenerator,
    Feeds,
    Procedure,
    case_size,
    full_length,
    remember,
    row_by_row,
    whole,
)
from ..numerics.compare import (
    DRAWS,
    EQUAL,
    FEW_DRAWS,
    MANY_DRAWS,
    REFUSALS,
    Expected,
    Function,
    GraphError,
    Measured,
    RefusedError,
    ask,
    expected,
    fixed_axes,
    measure,
    run_file,
)
from ..numerics.graph64 import Graph64, MeasuredGraph
from ..numerics.samples import check_samples, join_samples, sample_batch, sample_feeds, selected
from ..numerics.verify import ChunkedFile, find_counts, run_in_chunks, states_stop_at_lengths
from .config import ValidateConfig
from .reference import ModelFile, ReferenceModel
from .report import OVERFLOW, Check, judged
from .tally import Tally

if TYPE_CHECKING:
    from ..quantization.judge import Budgets

_OFFSET = 9000
"""Of the cases that belong to no group."""
_USUAL = 32
"""How many samples of the data say what is usual."""
_STEPS, _ROWS = 24, 3
"""The case that tells whether the reference can be streamed."""


class Subject:
    """A file that can be fed, beside its reference."""

    def __init__(self, file: ModelFile, reference: ReferenceModel, config: ValidateConfig) -> None:
        self.file = file
        self.manifest = reference.manifest._replace(golden=file.manifest.golden, precision=file.precision)
        """The reference's: what the file claims decides nothing."""
        self.reference = reference
        self.config = config
        self.run = file.runner()
        """The file, in one call."""
        examples = dict(file.manifest.golden.inputs if file.manifest.golden else {}) | dict(
            reference.examples
        )
        cases = CaseGenerator.of(self.manifest, examples, reference.values, config.seed)
        self.cases = cases.fitted_to(reference.computation.run64)
        """Generates what both are fed."""
        self.manifest = self.manifest._replace(counts=self._counts())
        self.graph, self.not_in_float64 = file.graph64
        budgets = self._budgets() if file.precision in ("int8", "fp16") else None
        graph = None if budgets else self.graph
        self.function = Function(
            graph or MeasuredGraph(file.proto, self.run), reference.computation, fixed_axes(self.manifest)
        )
        """The file's graph beside the reference; measured where it has no float64 run, or is not float32."""
        self.budgets = budgets
        """What an int8 or fp16 file is held to; None for one that must be exact."""
        self.tally = Tally(self.manifest, reference.values, modeled=not budgets)
        self._few = remember(partial(self._modeled, procedure=whole, draws=FEW_DRAWS))
        self.run_alone = row_by_row(self.manifest, self.run) if budgets else self.run
        """The file with no rows that share a call where that changes results, as ranges in int8 do."""

    def draw(
        self, n: int, length: int, offset: int, *, at_reset: bool = False, full: bool = True
    ) -> dict[str, Array]:
        """Return the inputs of a case of ``n`` rows and ``length`` steps, the same for the same offset."""
        at_reset = at_reset or self.reference.stateless
        return dict(self.cases.case(n, length, at_reset=at_reset, offset=offset, full=full).feeds)

    def rng(self, *key: int) -> np.random.Generator:
        """Return a generator of its own for ``key``."""
        return np.random.default_rng((self.config.seed, *key))

    def check(
        self, name: str, feeds: Feeds, procedure: Procedure = whole, against: Procedure | None = None
    ) -> Check:
        """Compare the file's graph with its reference in float64; without a float64 run, the file itself.

        A case that the reference itself refuses is skipped with the reason; one that the file can't run has
        failed. The reference is run by the procedure ``against``, as the file by default.
        """
        if not self.function.in_float64:
            return self.check_engine(name, feeds, procedure=procedure)
        itself = self.reference.computation is self.graph
        if itself and procedure is whole:  # which is equal to itself; onnxruntime may not be
            return self.check_engine(name, feeds)

        def compare() -> Check:
            found = self.function.compare(feeds, procedure, whole if itself else against)
            self.tally.add_agreement(feeds, found)
            made = judged(name, found.records)
            if made.status == "failed" and (node := self._first_difference(feeds)):
                made = replace(made, message=f"{made.message}; the first node that differs is {node}")
            return made

        return self.ask(name, compare, feeds)

    def ask(self, name: str, question: Callable[[], Check], feeds: Feeds | None = None) -> Check:
        """Return the answer: failed if the file can't run a case, skipped if the reference refuses it."""
        began = time.perf_counter()
        try:
            found = question()
        except (RefusedError, GraphError) as error:
            found = Check(name, "skipped" if isinstance(error, RefusedError) else "failed", str(error))
        size = None if feeds is None else case_size(self.manifest, feeds)
        return replace(found, seconds=time.perf_counter() - began, size=size)

    def _first_difference(self, feeds: Feeds) -> str:
        """Return the first node whose values are not those of the reference's graph, where it has one."""
        with contextlib.suppress(LstmEdgeError, RuntimeError):
            twin = self.reference.graph()
            if self.graph is not None and twin is not None and twin is not self.graph:
                return self.graph.first_difference(feeds, twin, EQUAL)
        return ""

    def check_engine(
        self,
        name: str,
        feeds: Feeds,
        run: Runner | None = None,
        procedure: Procedure = whole,
        *,
        see: Callable[[Measured], None] | None = None,
        **options: Any,
    ) -> Check:
        """Compare an engine in float32, onnxruntime by default, with the graph in float64 on one case.

        ``see`` is given what was measured, where something was; ``options`` are those of ``measure``.
        """

        def compare() -> Check:
            measured = self.measure(run or self.run, feeds, procedure, **options)
            if measured.overflow:
                return Check(name, "skipped", f"{OVERFLOW} {measured.overflow}")
            if see is not None:
                see(measured)
            return judged(name, measured.records)

        return self.ask(name, compare, feeds)

    def measure(
        self,
        run: Runner,
        feeds: Feeds,
        procedure: Procedure = whole,
        *,
        beginning: tuple[Feeds, Procedure] | None = None,
        over_a_run: bool = False,
        draws: int = FEW_DRAWS,
    ) -> Measured:
        """Run one case in an engine and compare every output with what it should be in float64.

        Args:
            run: the engine.
            feeds: the case.
            procedure: how the case is run, on both sides.
            beginning: the first steps of a long case and how they are run. Their noise floors are at most
                the whole's; only where the file is not within those are the whole's worked out.
            over_a_run: whether it is a whole run of real data, for which budgets are tighter.
            draws: perturbed runs that the floors are found with at first.

        Raises:
            RefusedError: the reference refuses the case.
            GraphError: the file can't run the case.
        """
        exact = self.exact(feeds, procedure)
        got = run_file(run, feeds, procedure)
        ways = [(*beginning, draws), (feeds, procedure, DRAWS)] if beginning else [(feeds, procedure, draws)]

        def limit(name: str, known: Expected) -> Array:
            if self.budgets:
                return np.asarray(self.budgets.limit(name, got[name], exact[name], over_a_run=over_a_run))
            return MULTIPLE * known.floors[name]

        ways = ways[:1] if self.budgets else [*ways, (feeds, procedure, MANY_DRAWS)]
        known = (self._floors(*way) for way in ways)
        measured = measure(got, exact, known, limit)
        if not measured.ok:
            measured = replace(measured, overflow=self.function.graph.overflow(feeds))
        self.tally.add_measured(feeds, measured)
        return measured

    def run_both(self, run: Runner, feeds: Feeds) -> tuple[Feeds, Feeds]:
        """Return what an engine gives, and the reference in float64; raises as ``measure`` does."""
        exact = ask(self.function.reference.run64, feeds, whole)
        return run_file(run, feeds), exact

    def exact(self, feeds: Feeds, procedure: Procedure = whole) -> Feeds:
        """Return the graph's outputs in float64, the reference's where it has none; raises as ``measure``."""
        return ask(self.function.exact, feeds, procedure)

    def expected(self, feeds: Feeds) -> Expected:
        """Return what an engine should give, with noise floors; raises as ``measure`` does."""
        return Expected(self.exact(feeds), self._floors(feeds, whole, DRAWS))

    def _floors(self, feeds: Feeds, procedure: Procedure, draws: int) -> Mapping[str, Array]:
        if self.budgets:
            axes = self.manifest.axes
            return {name: np.zeros([1] * len(axes[name])) for name in self.manifest.output_names}
        if procedure is whole and draws == FEW_DRAWS:
            return self._few(feeds)
        return self._modeled(feeds, procedure, draws)

    def _modeled(self, feeds: Feeds, procedure: Procedure, draws: int) -> Mapping[str, Array]:
        return expected(self.function.graph, feeds, self.function.fixed, procedure, draws).floors

    @property
    def policy(self) -> str:
        """The rule that gives the limits, in words."""
        if self.budgets:
            return str(self.budgets)
        return f"in float64 {EQUAL:g} of a channel's largest value; in float32 {POLICY}"

    @cached_property
    def unstreamable(self) -> str:
        """How the reference itself, in float64, differs when fed in pieces; empty where it does not."""
        for axis, each in ((self.manifest.sequence, "steps"), (self.manifest.batch, "rows")):
            allowed = self.manifest.ranges.get(axis or "", AxisRange())
            if allowed.nearest(1) > (self.manifest.unit if each == "steps" else 1):
                return f"a call takes {allowed} {each}"
        asked, reference = self.reference.computation, self.reference.computation
        if self.reference.stateless:  # of which only the file's own pieces can be asked
            if self.graph is None or not self.file.manifest.unstreamable:
                return ""
            asked = self.graph
        file = self._chunked(asked.run64)
        if isinstance(asked, Graph64):
            file = replace(file, function=Function(asked, reference, fixed_axes(self.manifest)))
        feeds = self.full(self.draw(_ROWS, _STEPS * self.manifest.unit, _OFFSET + 3))
        found = run_in_chunks(file, feeds, self.rng(9))
        if found.error is not None:
            return f"it refuses {_STEPS} steps in chunks of {min(found.sizes)} ({first_line(found.error)})"
        worst = found.worst
        away = f"{worst.name} of pieces with states carried is {worst.error:.3g} away from the whole"
        return "" if found.ok else away

    @cached_property
    def padded_states(self) -> bool:
        """Whether the reference's states stop at a row's length, whatever stands behind it."""
        own = self.graph if self.reference.stateless else None
        file = self._chunked((own or self.reference.computation).run64)
        return states_stop_at_lengths(file, self.draw(_ROWS, _STEPS, _OFFSET + 4))

    def _counts(self) -> tuple[str, ...]:
        """Return the outputs of the reference that count a call's steps."""
        if not self.manifest.states or not self.manifest.time_axes:
            return ()
        file = self._chunked(self.reference.computation.run64)
        return find_counts(file, self.draw(2, _STEPS, _OFFSET + 6, at_reset=True))

    def _chunked(self, run: Runner) -> ChunkedFile:
        lengths = (self.manifest.lengths,) if self.manifest.lengths else ()
        return ChunkedFile(self.manifest, run, lengths)

    def full(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Return ``feeds`` with no padding."""
        return full_length(self.manifest, feeds)

    def sample_batches(self, most: int, size: int) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """Return at most ``most`` samples of the data, evenly spread, in batches from reset states.

        Samples of unequal length share a batch only where the file takes lengths.

        Raises:
            InputError: the data does not fit the file.
        """
        data = self.config.data
        assert data is not None
        check_samples(data, self.manifest)
        lengths = None if self.manifest.lengths is not None else data.lengths
        by_length: dict[int, list[int]] = {}
        for index in selected(data, most):
            by_length.setdefault(0 if lengths is None else int(lengths[index]), []).append(index)
        size = size if self.manifest.batch is not None else 1
        for length, indices in by_length.items():
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                drawn = self.draw(len(part), 1, _OFFSET, at_reset=True)
                feeds = self.full(drawn | sample_batch(data, self.manifest, part, length))
                if (name := self.manifest.lengths) is not None and data.lengths is not None:
                    feeds[name] = np.asarray(data.lengths[part], feeds[name].dtype)
                yield part, feeds

    def timeline(self, steps: int) -> dict[str, Array]:
        """Return one row of ``steps`` time steps of the data, samples one after another, from reset."""
        assert self.config.data is not None
        samples = join_samples(sample_feeds(self.config.data, self.manifest), self.manifest, steps)
        return self.full(self.draw(1, steps, _OFFSET, at_reset=True) | samples)

    def _budgets(self) -> "Budgets":
        """Return the budgets, with what is usual on a drawn batch and on data where it is given."""
        from ..quantization.judge import Budgets

        usual: list[Mapping[str, Array]] = []
        cases = [self.draw(8, 32, _OFFSET + 1, at_reset=True)]
        if self.config.data is not None:
            cases += [feeds for _, feeds in self.sample_batches(_USUAL, _USUAL)]
        for feeds in cases:
            with contextlib.suppress(*REFUSALS):  # a reference of fixed sizes
                usual.append(self.reference.computation.run64(feeds))
        return Budgets(self.config.budget, {state.output for state in self.manifest.states}, usual)
