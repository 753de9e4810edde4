"""``validate``: a file compared with what it must be; causes come before consequences.

The reference is exported again in memory (see ``expected``). Then the two manifests are
compared field by field, the graphs node by node, and what they compute in float64 on the same
cases; each engine must be near the graph. int8 and fp16 files are made again, see
``quantized``. Without a reference the golden cases are replayed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir
from torch import nn

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import (
    InputError,
    LstmEdgeError,
    UnsupportedError,
    first_line,
)
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.native import installed
from lstm_edge_runtime.ort import CPU, import_onnxruntime
from lstm_edge_runtime.selftest import SelfTest, check_golden_case, selftest

from ..cast import widened
from ..progress import Progress, ignore
from ..targets.native.convert import native_runner
from ..verify.cases import Case, Feeds, fill_rows, full_length
from ..verify.check import Check, attempt, passed_unless, within_limits
from ..verify.compare import POLICY, REFUSALS, Pair, compare_all
from ..verify.file import ModelFile, open_file
from ..verify.float64 import Graph64
from ..verify.golden import gaps, record_golden
from ..verify.samples import sample_feeds
from ..verify.verify import chunk_checks, find_streaming, refused, row_checks
from ..versions import versions
from .config import ValidateConfig
from .contract import check_form, check_manifest
from .expected import Expected, against_module
from .nodes import GraphDifferences, compare_graphs
from .quantized import SLACK, check_golden, check_quantized
from .report import Group, Report

_VERSIONS = ("lstm-edge", "torch", "onnx", "onnxruntime", "numpy")
_LONG_QUICK = ((2, 1040), (310, 2))
"""Rows and steps that exceed tables and loops of a wrong file."""
_LONG = (*_LONG_QUICK, (7, 3), (1, 97), (16, 31), (64, 5), (2, 257), (1, 3000))
"""The same without ``quick``."""
_OFFSET = 60
_PADDED = 4000
_INPUTS = 6000
_ENGINES = 7000
_DATA = 8000
_SAMPLES_QUICK = 16
"""Samples of the data that are compared with ``quick``."""
_SAMPLES = 256
"""The same without ``quick``."""
_REMOTE = ("AzureExecutionProvider",)
"""Providers that call a service instead of running here."""
_NATIVE = "native engine"
_NODES = "node by node"
_SEED = "weights that differ in every call need --weights, or a seed in the factory"
_SHOWN = 3
"""Differences of one kind that a message names."""
_SMALLER = ("int8", "fp16")
_SAME = "the file holds the graph of the reference, node by node"
_AGAIN = "the graph does not compute the same as the reference"
_GROUPS = {
    "contract": ("Contract", "the manifest is not what the reference has"),
    "graph": (
        "Graph",
        "the file holds another graph than the reference; export again",
    ),
    "function": ("Function", f"{_AGAIN}; export again"),
    "states": (
        "States and rows",
        "rows or states are not carried as in the reference; export again",
    ),
    "inputs": ("Inputs", f"{_AGAIN} on these inputs; export again"),
    "quantized": (
        "Quantization",
        "the file is not what quantizing the reference gives; quantize again",
    ),
    "golden": (
        "Golden cases",
        "the recorded golden cases are not those of this graph; export again",
    ),
    "engines": (
        "Engines",
        "the graph is right, but an engine is less accurate than float32 allows",
    ),
}
"""Title of each group of checks, and the meaning of a failure."""
_OF_GRAPH = ("function", "states", "inputs")
"""Groups that test the exporter if the file's graph is the expected one."""


def _spike(x: Array) -> Array:
    """Return the array with one very large element."""
    spiked = np.array(x)
    spiked.reshape(-1)[x.size // 2] += 1e6
    return spiked


def _saturating(x: Array) -> Array:
    """Return values of one size, 50 times the largest, with the signs of the array."""
    largest = np.abs(x).max(initial=1.0)
    saturating: Array = np.sign(x) * 50.0 * largest
    return saturating


_CHANGES: Mapping[str, Callable[[Array], Array]] = {
    "zeros": np.zeros_like,
    "ones": np.ones_like,
    "denormal": lambda x: np.sign(x) * 1e-40,
    "a thousand times too large": lambda x: x * 1e3,
    "extreme (1e15)": lambda x: np.sign(x) * 1e15,
    "saturated gates": _saturating,
    "one spike": _spike,
}
"""Changes of float inputs, by name."""


def _without_decisions(run: Runner) -> Runner:
    """Return ``run`` without its results that are labels, flags or other whole numbers:
    they are decisions, and numbers that saturate differ by their rounding alone.
    """

    def floats(feeds: Feeds) -> Feeds:
        """Return the results that are floats."""
        results = run(feeds).items()
        return {name: array for name, array in results if array.dtype.kind == "f"}

    return floats


def validate_file(
    source: ModelFile | str | os.PathLike[str],
    against: Expected | nn.Module | None,
    config: ValidateConfig,
    show: Progress,
) -> Report:
    """Return the report on a file; see ``validate``."""
    file = source if isinstance(source, ModelFile) else open_file(source)
    if against is None and file.model and file.manifest.golden is None:
        raise InputError(
            f"{file.path} carries no golden case and there is nothing to compare it"
            " with; give --against a reference"
        )
    if file.model is None:
        against = None
    elif against is not None and not isinstance(against, Expected):
        against = against_module(against, file)
    return Validation(
        file=file, against=against, config=config, on_progress=show
    ).report()


@dataclass
class Validation:
    """One validation in progress, group by group; the caller may stop at the first
    failure.
    """

    file: ModelFile
    """The file under test."""
    against: Expected | None
    """What it must be; None without a reference."""
    config: ValidateConfig
    """Options."""
    on_progress: Progress = ignore
    """Called with the fraction that is done."""

    def report(self) -> Report:
        """Return the report of every group."""
        groups = tuple(self.groups())
        quantized = self.file.precision in _SMALLER
        return Report(
            model=self.file.path.name,
            sha256=self.file.sha256,
            reference=self.against.about if self.against else "its golden cases",
            precision=self.file.precision,
            policy=(
                "bit for bit what quantizing gives, within its budget"
                if quantized
                else POLICY
            ),
            seed=self.config.seed,
            quick=self.config.quick,
            groups=groups,
            versions=versions(*_VERSIONS),
        )

    def groups(self) -> Iterator[Group]:
        """Yield each group when it is done; only the contract if the file's is another
        one.
        """
        stages = self._stages()
        for number, (key, check) in enumerate(stages.items()):
            title, advice = _GROUPS[key]
            self.on_progress(number / len(stages), f"checking: {title}")
            checks = tuple(check())
            is_about_export = key in _OF_GRAPH and self.is_same_graph
            group = Group(
                key=key,
                title=title,
                checks=checks,
                advice=advice,
                tests="exporter" if is_about_export else "file",
            )
            yield group
            if key == "contract" and group.failed:
                return

    def _stages(self) -> Mapping[str, Callable[[], Iterator[Check]]]:
        """Return the groups of checks in order: causes before consequences."""
        contract = {"contract": self._contract}
        if self.against is None:
            return contract | ({"golden": self._replay} if self.file.model else {})
        if self.file.precision in _SMALLER:
            return {**contract, "quantized": self._quantized, "golden": self._golden}
        return {
            **contract,
            "graph": self._graph,
            "function": self._function,
            "states": self._states,
            "inputs": self._inputs,
            "golden": self._golden,
            "engines": self._engines,
        }

    def _contract(self) -> Iterator[Check]:
        """Compare the manifest with the graph and with the expected manifest."""
        reference = self.against if self.file.model else None
        if reference is not None:
            yield from self._checkpoint(reference)
        yield from check_form(self.file)
        if reference is not None:
            yield from check_manifest(self.file, reference)

    def _checkpoint(self, reference: Expected) -> Iterator[Check]:
        """Fail if the file and the reference record different checkpoints."""
        recorded = self.file.manifest.provenance.get("checkpoint_sha256")
        if recorded and reference.sha256 and recorded != reference.sha256:
            about = (
                f"the file has {recorded}, the reference {reference.sha256}; export"
                " again if it is newer"
            )
            yield Check("checkpoint", "failed", about)

    @property
    def expected(self) -> Expected:
        """The reference."""
        assert self.against is not None
        return self.against

    @cached_property
    def reference_pair(self) -> Pair:
        """The expected graph and the reference."""
        graph = Graph64(self.expected.exact)
        return Pair(
            manifest=self.expected.manifest,
            graph=graph,
            reference=self.expected.reference,
            engine=self.file.runner(),
        )

    @property
    def is_same_graph(self) -> bool:
        """True if the file holds the expected graph, node by node."""
        return self.against is not None and not self._differences

    @property
    def is_same_function(self) -> bool:
        """True if the file's graph is the reference itself: nothing can differ."""
        return self.is_same_graph and not self.expected.is_module

    @cached_property
    def file_pair(self) -> Pair:
        """The file's graph and the reference."""
        if self.is_same_graph:
            return self.reference_pair
        graph = Graph64(widened(self.file.proto, self.expected.exact))
        return replace(self.reference_pair, graph=graph)

    def _case(
        self, rows: int, steps: int, offset: int, *, at_reset: bool = False
    ) -> dict[str, Array]:
        """Return random inputs of one size."""
        case = self.expected.cases.case(
            rows, steps, at_reset=at_reset, offset=offset, full=True
        )
        return dict(case.feeds)

    @cached_property
    def _differences(self) -> GraphDifferences:
        """Differences of the file's graph from the expected one, node by node."""
        expected = ir.from_proto(self.expected.proto)
        return compare_graphs(self.file.inlined, expected)

    def _graph(self) -> Iterator[Check]:
        """Compare node by node if the same versions made both graphs."""
        nodes = "; ".join(_first(self._differences.nodes))
        constants = "; ".join(_first(self._differences.constants))
        other = _other_versions(self.file.manifest, self.expected.manifest)
        if self._differences and other:
            about = f"made with {other}; values are compared instead"
            yield Check(_NODES, "skipped", f"{about} ({nodes or constants})")
            return
        hint = f"; {self.expected.hint}" if nodes and self.expected.hint else ""
        yield passed_unless(_NODES, nodes + hint)
        if not nodes:
            advice = f"{constants}; {_SEED}" if constants else ""
            yield passed_unless("constants bit for bit", advice)

    def _cases(self) -> Iterator[Case]:
        """Yield the ordinary cases and the long ones."""
        yield from self.expected.cases.cases()
        sizes = _LONG_QUICK if self.config.quick else _LONG
        for number, size in enumerate(sizes):
            yield self.expected.cases.case(
                *size, at_reset=False, offset=_OFFSET + number, full=True
            )

    def _function(self) -> Iterator[Check]:
        """Compare the graph with the reference on every size."""
        if self.is_same_function:
            yield Check("every size", "skipped", _SAME)
            return
        checks = [self._equal(str(case), case.feeds) for case in self._cases()]
        yield from checks
        if all(check.status == "skipped" for check in checks):
            yield Check(
                "any size at all", "failed", "the reference refuses all of them"
            )

    def _equal(self, name: str, feeds: Feeds, reference: Runner | None = None) -> Check:
        """Compare the file's graph with the reference if that takes a case."""
        run = reference or self.expected.reference
        if reason := refused(run, feeds):
            return Check(name, "skipped", reason)
        return attempt(name, partial(self._compare, name, feeds, run))

    def _compare(self, name: str, feeds: Feeds, run: Runner) -> Check:
        """Check a run against the file and the reference in float64."""
        got = self.file_pair.exact(feeds)
        comparisons = self.reference_pair.within(got, run(feeds), feeds, reference=run)
        return within_limits(name, comparisons)

    def _states(self) -> Iterator[Check]:
        """Run rows alone, with NaN in one row, padded rows, and chunks with states
        carried.
        """
        cases = self.expected.cases
        manifest = self.expected.manifest
        yield from row_checks(self.file_pair, cases)
        if manifest.lengths is not None and not self.is_same_function:
            yield from self._lengths(manifest.lengths)
        if not self.is_same_graph:
            yield from self._single_states()
        derived, claims = self._check_claims()
        yield from claims
        streams = claims[0].status == "passed" and not derived.unstreamable
        if not self.is_same_graph and streams and manifest.time_axes:
            yield from chunk_checks(self.file_pair, cases, self.expected.reach)

    def _single_states(self) -> Iterator[Check]:
        """Compare with one state away from reset at a time."""
        feeds = self._case(4, 9, _OFFSET + 10, at_reset=True)
        other = self._case(4, 9, _OFFSET + 11)
        for state in self.expected.manifest.states:
            moved = {**feeds, state.input: other[state.input]}
            yield self._equal(
                f"only {state.input} away from reset", moved, self.reference_pair.exact
            )

    def _check_claims(self) -> tuple[Manifest, list[Check]]:
        """Return the expected manifest, and compare the file's fields on chunks and
        padding.
        """
        saved = self.file.manifest
        derived = find_streaming(
            self.reference_pair, self.expected.cases, self.expected.reach
        )
        about = ""
        if derived.streamable != saved.streamable:
            about = (
                f"the file says {saved.streamable}, the reference {derived.streamable}"
                f" {derived.unstreamable}"
            )
        checks = [passed_unless("streamable", about)]
        if derived.lengths is not None and derived.states and not derived.unstreamable:
            about = ""
            if saved.padded_states != derived.padded_states:
                about = f"the file says {saved.padded_states}"
            checks.append(passed_unless("states stop at lengths", about))
        return derived, checks

    def _quantized(self) -> Iterator[Check]:
        """Check what a quantized file claims, then its accuracy."""
        yield from (claims := self._check_claims()[1])
        if all(check.status == "passed" for check in claims):
            yield from check_quantized(self.file, self.expected, self.config)

    def _lengths(self, name: str) -> Iterator[Check]:
        """Compare at random, full and single-step lengths, in every order, and with
        garbage as padding.
        """
        feeds = self._case(5, 23, _PADDED)
        lengths = feeds[name]
        changes = {
            "random": lengths,
            "no row full": np.minimum(lengths, max(1, int(lengths.max()) - 2)),
            "all one": np.ones_like(lengths),
            "falling": -np.sort(-lengths),
            "rising": np.sort(lengths),
        }
        for about, changed in changes.items():
            case = {**feeds, name: changed.astype(lengths.dtype)}
            yield self._equal(f"lengths, {about}", case)
        reference = self.expected.reference
        for garbage in (np.nan, 1e30):
            padded = fill_rows(
                self.expected.manifest, feeds, value=garbage, starts=lengths
            )
            with contextlib.suppress(*REFUSALS):
                reference(padded)
                about = f"padding of {garbage:g}"
                compare = partial(self._compare, about, padded, reference)
                yield attempt(about, compare)

    def _inputs(self) -> Iterator[Check]:
        """Compare on real data if given, and on constants and magnitudes that saturate
        or vanish.
        """
        manifest = self.expected.manifest
        if self.is_same_function:
            yield Check("every input", "skipped", _SAME)
            return
        for number, sample in enumerate(self._samples()):
            yield self._equal(f"sample {number} of the data", sample)
        feeds = full_length(manifest, self._case(3, 31, _INPUTS))
        floats = {}
        for spec in manifest.data_inputs:
            if np.dtype(spec.dtype).kind == "f":
                floats[spec.name] = feeds[spec.name]
        if not floats:
            return
        numbers = _without_decisions(self.expected.reference)
        for about, change in _CHANGES.items():
            changed = {}
            for name, array in floats.items():
                changed[name] = np.asarray(change(array), array.dtype)
            yield self._equal(about, {**feeds, **changed}, numbers)

    def _samples(self) -> list[dict[str, Array]]:
        """Return some samples of the data, each with every input, from reset; none
        without data.
        """
        if self.config.data is None:
            return []
        manifest = self.expected.manifest
        most = _SAMPLES_QUICK if self.config.quick else _SAMPLES
        samples = []
        for sample in sample_feeds(self.config.data, manifest, most):
            case = self._case(1, manifest.steps(sample), _DATA, at_reset=True)
            samples.append({**full_length(manifest, case), **sample})
        return samples

    def _rounded(self, name: str, feeds: Feeds, run: Runner | None = None) -> Check:
        """Check a run in float32 against the limits of rounding."""
        reason = refused(self.expected.reference, feeds)
        if reason:
            return Check(name, "skipped", reason)
        engine = run or self.file_pair.engine

        def compare() -> Check:
            """Compare the engine with the reference."""
            return within_limits(name, self.reference_pair.rounding(feeds, engine))

        return attempt(name, compare)

    def _engines(self) -> Iterator[Check]:
        """Compare each engine with the graph: providers, and the native engine."""
        for name, make in self._makers():
            try:
                run = make()
            except LstmEdgeError as error:
                failed = name == _NATIVE and not isinstance(error, UnsupportedError)
                yield Check(name, "failed" if failed else "skipped", first_line(error))
                continue
            for rows, steps in ((1, 1), (3, 20)):
                feeds = self._case(rows, steps, _ENGINES)
                if name == _NATIVE:  # it gives zeros beyond a row's length
                    feeds = full_length(self.expected.manifest, feeds)
                yield self._rounded(f"{name}, {rows} x {steps}", feeds, run)
            if name == _NATIVE and self.file.manifest.golden is not None:
                yield _selftested(
                    f"{name}, self-test", partial(selftest, self.file.manifest, run)
                )
        for case in self.expected.cases.cases():
            if not case.is_long:
                yield self._rounded(f"onnxruntime, {case}", case.feeds)
        for number, sample in enumerate(self._samples()):
            yield self._rounded(f"onnxruntime, sample {number} of the data", sample)

    def _makers(self) -> Iterator[tuple[str, Callable[[], Runner]]]:
        """Return every engine by name, with the function that opens it."""
        for provider in import_onnxruntime().get_available_providers():
            if provider not in _REMOTE:
                chain = (provider,) if provider == CPU else (provider, CPU)
                yield provider, partial(self.file.runner, 1, chain)
        if installed():
            assert self.file.model is not None
            yield _NATIVE, partial(native_runner, self.file.model, self.file.proto)

    def _golden(self) -> Iterator[Check]:
        """Compare the recorded cases with the graph, and replay them."""
        first = self.file.manifest.golden
        recorded = () if first is None else (first, *first.more)
        if not recorded:
            yield Check("golden cases", "failed", "the file carries no golden case")
            return
        yield from self._gaps(recorded)
        if self.file.precision in _SMALLER:
            yield from check_golden(self.file, self.expected)
        else:
            for number, golden in enumerate(recorded):
                name = f"golden case {number + 1} is the reference's"
                yield attempt(name, partial(self._recorded, name, golden))
        yield from self._replay()

    def _gaps(self, recorded: Sequence[Golden]) -> Iterator[Check]:
        """Compare recorded cases with those of an export of the reference: as many, and
        none smaller.
        """
        expected_golden = self.expected.manifest.golden
        if expected_golden is None:  # a module, and no file
            cases = replace(self.expected.cases, held=frozenset())
            expected_golden = record_golden(self.reference_pair, cases)
        expected = (expected_golden, *expected_golden.more)
        about = gaps(self.expected.manifest, recorded, expected)
        yield passed_unless("number and sizes", "; ".join(about))

    def _recorded(self, name: str, golden: Golden) -> Check:
        """Compare one recorded golden case with the reference."""
        check_golden_case(self.file.manifest, golden)
        exact = self.reference_pair.exact(golden.inputs)
        limits = self.reference_pair.limits(golden.inputs)
        computed = {}
        rounding = {}
        too_wide = []
        for output in golden.outputs:
            if output in exact:
                computed[output] = exact[output]
                rounding[output] = limits[output] / 8
                if not _has_narrow_limits(golden, output, limits[output]):
                    too_wide.append(output)
        check = within_limits(name, compare_all(golden.outputs, computed, rounding))
        if check.status == "passed" and too_wide:
            about = f"limits of {', '.join(too_wide)} are missing, or wider than needed"
            return Check(name, "failed", about)
        return check

    def _replay(self) -> Iterator[Check]:
        """Replay the cases in the file as a device's self-test does."""
        assert self.file.model is not None
        if self.file.manifest.golden is not None:
            yield _selftested("self-test", self.file.model.selftest)


def _has_narrow_limits(golden: Golden, output: str, needed: Array) -> bool:
    """Return True if a case records limits of an output that are about those needed."""
    # ``limit`` replaces ``limits``, and is for int8 and fp16
    if output in golden.limit or output not in golden.limits:
        return False
    return bool(np.all(golden.limits[output] <= SLACK * needed + 1e-30))


def _first(texts: Sequence[str]) -> list[str]:
    """Return the first texts, and the number of others."""
    others = len(texts) - _SHOWN
    return [*texts[:_SHOWN], *([f"{others} more"] if others > 0 else [])]


def _other_versions(manifest: Manifest, expected: Manifest) -> str:
    """Return the versions that made a file and differ from the expected ones."""
    of_file = manifest.provenance.get("versions") or {}
    installed = expected.provenance.get("versions") or {}
    texts = []
    for name in {**installed, **of_file}:
        version = of_file.get(name)
        here = installed.get(name)
        if version != here:
            texts.append(f"{name} {version} (here {here})")
    return ", ".join(texts)


def _selftested(name: str, test: Callable[[], SelfTest]) -> Check:
    """Check the result of a self-test."""
    try:
        result = test()
    except LstmEdgeError as error:
        return Check(name, "failed", first_line(error))
    return passed_unless(name, "" if result.ok else str(result.worst))
