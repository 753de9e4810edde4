"""``validate``: a file compared with what it must be; causes come before consequences.

The reference is exported again in memory (see ``expected``). Then the two manifests are compared field by
field, constants bit for bit, and the graphs in float64 on the same cases; each engine must be near the graph.
int8 and fp16 files are made again, see ``quantized``. Without a reference the golden cases are replayed.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import onnx

from lstm_edge_runtime.chunks import Runner, even_sizes, join_chunks, run_chunks, take_steps
from lstm_edge_runtime.errors import InputError, LstmEdgeError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.native.library import installed
from lstm_edge_runtime.ort import CPU, import_onnxruntime
from lstm_edge_runtime.selftest import check_golden_case
from lstm_edge_runtime.tolerance import distance

from ..export.cast import widened
from ..isolation import isolated
from ..progress import Progress, ignore
from ..versions import versions
from .cases import Case, Feeds, case_size, fill_rows, full_length
from .compare import EQUAL, POLICY, Pair, compare_all
from .config import ValidateConfig
from .contract import check_form, check_manifest, comparable, interface_of, unverified
from .expected import Expected
from .file import ModelFile, open_file
from .float64 import Graph64
from .golden import record_golden
from .reference import REFUSALS
from .report import Check, Curve, Disagreement, Group, Report, answered, asked, judged
from .samples import sample_feeds
from .verify import chunk_checks, differing_constants, find_streaming, refused, row_checks

_VERSIONS = ("lstm-edge", "torch", "onnx", "onnxruntime", "numpy")
_LONG = ((2, 1040), (310, 2)), ((2, 1040), (310, 2), (7, 3), (1, 97), (16, 31), (64, 5), (2, 257), (1, 3000))
"""Rows and steps beyond what tables and loops of a wrong file may hold: with ``quick``, and in full."""
_OFFSET = 60
_PADDED, _INPUTS, _ENGINES, _STEPS, _DATA = 4000, 6000, 7000, 5000, 8000
_SINGLE_STEPS = 40, 256
_CHUNK = 100
_EQUAL_STEPS = 600, 3000
_SAMPLES = 16, 256
_FEW_VALUES, _VALUES_A_ROW = 2000, 100
_SLACK = 1.05
"""How many times the limits found here may be those recorded."""
_REMOTE = ("AzureExecutionProvider",)
"""Providers that call a service instead of running here."""
_NATIVE = "native engine"
_ADVICE = {
    "contract": "the manifest is not what the reference has",
    "weights": "the file holds other constants than the reference; export again",
    "function": "the graph computes something else than the reference; export again",
    "states": "states or rows are not kept apart and carried as the reference does; export again",
    "inputs": "the graph computes something else than the reference on these inputs; export again",
    "quantized": "the file is not what quantizing the reference gives; quantize again",
    "golden": "the recorded golden cases are not those of this graph; export again",
    "engines": "the graph is right, but an engine does not compute it as accurately as float32 allows",
    "decisions": "the file decides otherwise than the reference",
}
_TITLES = {
    "contract": "Contract",
    "weights": "Weights",
    "function": "Function",
    "states": "States and rows",
    "inputs": "Inputs",
    "quantized": "Quantization",
    "golden": "Golden cases",
    "engines": "Engines",
    "decisions": "Decisions",
}


@isolated()
def validate(
    file: ModelFile | str | os.PathLike[str],
    against: Expected | None = None,
    config: ValidateConfig | None = None,
    *,
    on_progress: Progress | None = None,
) -> Report:
    """Check that a file computes what its reference does, in every way it will be used.

    Args:
        file: the ONNX file.
        against: what it must equal (see ``against_module`` and ``against_file``); None only replays its
            golden cases.
        config: see ``ValidateConfig``.
        on_progress: called with the fraction of the work that is done, and the group that begins.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign or unsafe to read, or onnxruntime ends on it.
        InputError: there is nothing to compare the file with, or the data does not fit it.
    """
    file = file if isinstance(file, ModelFile) else open_file(file)
    if against is None and file.model and file.manifest.golden is None:
        raise InputError(
            f"{file.path} carries no golden case and there is nothing to compare it with; "
            "give --against a reference"
        )
    return Validation(file, against, config or ValidateConfig(), on_progress or ignore).report()


@dataclass
class Validation:
    """One validation as it goes: group by group, for who would stop at the first that fails."""

    file: ModelFile
    against: Expected | None
    config: ValidateConfig
    on_progress: Progress = ignore
    curve: Curve | None = field(default=None, init=False)
    disagreements: tuple[Disagreement, ...] = field(default=(), init=False)
    _comparable: bool = field(default=True, init=False)

    def report(self) -> Report:
        """Return the report of every group."""
        groups = tuple(self.groups())
        quantized = self.file.precision in ("int8", "fp16")
        return Report(
            model=self.file.path.name,
            sha256=self.file.sha256,
            reference=self.against.about if self.against else "its golden cases",
            precision=self.file.precision,
            policy="bit for bit what quantizing gives, within its budget" if quantized else POLICY,
            seed=self.config.seed,
            quick=self.config.quick,
            groups=groups,
            steps=self.curve,
            disagreements=self.disagreements,
            notes=tuple(self._notes()),
            versions=versions(*_VERSIONS),
        )

    def groups(self) -> Iterator[Group]:
        """Yield each group when it is done."""
        stages = self._stages()
        for place, (key, check) in enumerate(stages.items()):
            self.on_progress(place / len(stages), f"checking: {_TITLES[key]}")
            if not self._comparable:
                checks: tuple[Check, ...] = (Check(key, "skipped", "inputs or outputs are not comparable"),)
            else:
                checks = tuple(_timed(check()))
            yield Group(key, _TITLES[key], checks, _ADVICE[key])

    def _stages(self) -> dict[str, Callable[[], Iterator[Check]]]:
        stages: dict[str, Callable[[], Iterator[Check]]] = {"contract": self._contract}
        if self.file.model is None:
            return stages
        if self.against is None:
            return {**stages, "golden": self._replay}
        if self.file.precision in ("int8", "fp16"):
            return {
                **stages,
                "quantized": self._quantized,
                "golden": self._quantized_golden,
                "decisions": self._decisions,
            }
        return {
            **stages,
            "weights": self._weights,
            "function": self._function,
            "states": self._states,
            "inputs": self._inputs,
            "golden": self._golden,
            "engines": self._engines,
            "decisions": self._decisions,
        }

    def _contract(self) -> Iterator[Check]:
        if self.against is not None and self.file.has_manifest:
            mine, theirs = (
                each.provenance.get("weights_sha256") for each in (self.file.manifest, self.against.manifest)
            )
            if mine and theirs and mine != theirs:
                yield Check(
                    "weights_sha256",
                    "failed",
                    "the file was exported with other weights; export again, or, for a factory that draws "
                    "weights, seed it (torch.manual_seed) or give the exported ones with --weights",
                )
            if self._other_checkpoint:
                yield Check("checkpoint", "failed", self._other_checkpoint)
        yield from check_form(self.file)
        if self.file.model is None or self.against is None:
            return
        if self.file.has_manifest:
            yield from check_manifest(self.file.manifest, self.against)
        if not comparable(self.file.manifest, self.against.manifest):
            self._comparable = False
            mine, theirs = map(interface_of, (self.file.manifest, self.against.manifest))
            about = f"the file has {mine}, expected {theirs}"
            yield Check("inputs and outputs are the reference's", "failed", about)

    @property
    def _other_checkpoint(self) -> str:
        """Name the checkpoints of the file and of the reference; empty if they are the same or unknown."""
        known = self.against and self.against.sha256, self.file.manifest.provenance.get("checkpoint_sha256")
        if not all(known) or known[0] == known[1]:
            return ""
        return f"the file has {known[1]}, the reference {known[0]}; export again if it is newer"

    @property
    def expected(self) -> Expected:
        """What the file is compared with."""
        assert self.against is not None
        return self.against

    @cached_property
    def pair(self) -> Pair:
        """The file's graph and the reference."""
        exact = self.expected.exact if self.expected.same_graph else None
        graph = Graph64(widened(self.file.proto, exact))
        return Pair(self.expected.manifest, graph, self.expected.reference, self.file.runner())

    @cached_property
    def truth(self) -> Pair:
        """The expected graph and the reference; the file's own graph if nothing else is known."""
        if not self.expected.same_graph:
            return self.pair
        return replace(self.pair, graph=Graph64(self.expected.exact))

    def _weights(self) -> Iterator[Check]:
        if not self.expected.same_graph:
            yield Check("constants bit for bit", "skipped", "the file was not made from this graph")
            return
        exact = self.expected.constants
        wrong = differing_constants(self.file.proto, exact)
        names = {each.name for each in self.file.proto.graph.initializer}
        missing = [name for name in wrong if name not in names]
        if missing and self._made_elsewhere():
            yield Check("constants bit for bit", "skipped", "other versions made the file; names differ")
            return
        shown = f"{', '.join(wrong[:3])}{' and more' if len(wrong) > 3 else ''}"
        yield answered("constants bit for bit", f"{shown} differ from the reference" if wrong else "")

    def _made_elsewhere(self) -> bool:
        mine, theirs = (
            each.provenance.get("versions") for each in (self.file.manifest, self.expected.manifest)
        )
        return bool(mine != theirs)

    def _cases(self) -> Iterator[Case]:
        yield from self.expected.cases.cases()
        for place, size in enumerate(_LONG[not self.config.quick]):
            yield self.expected.cases.case(*size, at_reset=False, offset=_OFFSET + place, full=True)

    def _function(self) -> Iterator[Check]:
        """Compare the graph with the reference and with the expected graph on every size."""
        compared = 0
        for case in self._cases():
            if reason := refused(self.expected.reference, case.feeds):
                yield Check(str(case), "skipped", reason)
                continue
            compared += 1
            yield self._equal(str(case), case.feeds)
            if self.truth is not self.pair:
                yield self._as_expected(f"{case}, the expected graph", case.feeds)
        if not compared:
            yield Check("any size at all", "failed", "the reference refuses all of them")

    def _equal(self, name: str, feeds: Feeds) -> Check:
        """Compare the file's graph with the reference; say where it differs first."""

        def compare() -> Check:
            got, want = self.pair.exact(feeds), self.expected.reference(feeds)
            found = judged(name, self.truth.within(got, want, feeds))
            if found.status == "failed" and (cause := self._first_difference(feeds)):
                found = replace(found, message=f"{cause}; {found.message}")
            return found

        return asked(name, compare)

    def _as_expected(self, name: str, feeds: Feeds) -> Check:
        return asked(
            name,
            lambda: judged(name, self.truth.within(self.pair.exact(feeds), self.truth.exact(feeds), feeds)),
        )

    def _first_difference(self, feeds: Feeds) -> str:
        """Return the first node that is not the expected one, or whose values are not; empty if unknown."""
        if self.truth is self.pair:
            return ""
        theirs = {node.name: node for node in self.expected.proto.graph.node}
        for node in self.file.proto.graph.node:
            other = theirs.get(node.name)
            if other is not None and _text(node) != _text(other):
                return f"{node.op_type} {node.name!r} is not the reference's node"
        with contextlib.suppress(Exception):
            one, two = self.pair.graph.values(feeds), self.truth.graph.values(feeds)
            for node in self.file.proto.graph.node:
                for name in node.output:
                    if name in two and _differs(one.get(name), two[name]):
                        return f"the first node that differs is {node.op_type} {node.name!r}"
        return ""

    def _states(self) -> Iterator[Check]:
        """Run rows alone, with NaN in one row, padded rows, and chunks with states carried."""
        cases, manifest = self.expected.cases, self.expected.manifest
        yield from row_checks(replace(self.pair, manifest=manifest), cases)
        if manifest.lengths is not None:
            yield from self._lengths()
        if manifest.states:
            feeds = cases.case(4, 9, at_reset=True, offset=_OFFSET + 10, full=True).feeds
            other = cases.case(4, 9, at_reset=False, offset=_OFFSET + 11, full=True).feeds
            for state in manifest.states:
                name = f"only {state.input} away from reset"
                yield self._as_expected(name, {**feeds, state.input: other[state.input]})
        known = find_streaming(self.truth, cases, self.expected.reach)
        mine = self.file.manifest
        if bool(known.unstreamable) != bool(mine.unstreamable) and self.file.has_manifest:
            words = ("yes" if not each.unstreamable else "no" for each in (mine, known))
            about = f"the file says {next(words)}, the reference {next(words)} {known.unstreamable}"
            yield Check("streamable", "failed", about)
        elif not known.unstreamable and manifest.states and manifest.time_axes:
            yield from chunk_checks(replace(self.pair, manifest=manifest), cases, self.expected.reach)
        if manifest.lengths is not None and manifest.states and not known.unstreamable:
            same = mine.padded_states == known.padded_states
            yield answered("states stop at lengths", "" if same else f"the file says {mine.padded_states}")

    def _lengths(self) -> Iterator[Check]:
        """Compare at random, full and single-step lengths, in every order, and with garbage as padding."""
        name, rows, steps = str(self.expected.manifest.lengths), 5, 23
        feeds = dict(self.expected.cases.case(rows, steps, at_reset=False, offset=_PADDED, full=True).feeds)
        lengths = feeds[name]
        kinds: Mapping[str, Array] = {
            "random": lengths,
            "no row full": np.minimum(lengths, max(1, int(lengths.max()) - 2)),
            "all one": np.ones_like(lengths),
            "falling": -np.sort(-lengths),
            "rising": np.sort(lengths),
        }
        for about, own in kinds.items():
            case = {**feeds, name: own.astype(lengths.dtype)}
            if not refused(self.expected.reference, case):
                yield self._equal(f"lengths, {about}", case)
        for garbage in (np.nan, 1e30):
            padded = fill_rows(self.expected.manifest, feeds, garbage, lengths)
            with contextlib.suppress(*REFUSALS):
                self.expected.reference(padded)
                yield self._equal(f"padding of {garbage:g}", padded)

    def _inputs(self) -> Iterator[Check]:
        """Compare on real data if given, and on constants and magnitudes that saturate or vanish."""
        cases, manifest = self.expected.cases, self.expected.manifest
        if self.config.data is not None:
            for place, feeds in enumerate(self.samples(_SAMPLES[not self.config.quick])):
                yield self._equal(f"sample {place} of the data", feeds)
                yield asked(f"sample {place} in float32", partial(self._rounded, f"sample {place}", feeds))
        feeds = full_length(manifest, cases.case(3, 31, at_reset=False, offset=_INPUTS, full=True).feeds)
        names = [each.name for each in manifest.data_inputs if np.dtype(each.dtype).kind == "f"]
        kinds: Mapping[str, Callable[[Array], Array]] = {
            "zeros": np.zeros_like,
            "ones": np.ones_like,
            "constant": _equal_steps,
            "denormal": lambda x: np.sign(x) * 1e-40,
            "a thousand times too large": lambda x: x * 1e3,
            "extreme (1e15)": lambda x: np.sign(x) * 1e15,
            "saturated gates": lambda x: np.sign(x) * 50.0 * np.abs(x).max(initial=1.0),
            "one spike": _spike,
        }
        for about, change in kinds.items() if names else ():
            changed = {name: np.asarray(change(feeds[name]), feeds[name].dtype) for name in names}
            if not refused(self.expected.reference, {**feeds, **changed}):
                yield self._equal(about, {**feeds, **changed})
        yield from self._every_value()
        if manifest.sequence is not None and names:
            count = _EQUAL_STEPS[not self.config.quick]
            drawn = cases.case(1, count, at_reset=True, offset=_INPUTS + 1, full=True)
            long = full_length(manifest, drawn.feeds)
            long |= {name: _equal_steps(long[name]) for name in names}
            if not refused(self.expected.reference, long):
                yield self._equal(f"{count} equal steps", long)

    def _every_value(self) -> Iterator[Check]:
        """Feed every value of an input of indices once, as the rows of its table are; with ``quick`` few."""
        cases, manifest = self.expected.cases, self.expected.manifest
        counts = {each.name: each.values or 0 for each in cases.inputs}
        for spec in manifest.data_inputs:
            count = counts.get(spec.name, 0)
            if not count or (self.config.quick and count > _FEW_VALUES):
                continue
            rows, steps = -(-count // _VALUES_A_ROW), min(count, _VALUES_A_ROW)
            drawn = cases.case(rows, steps, at_reset=False, offset=_INPUTS + 2, full=True)
            feeds = full_length(manifest, drawn.feeds)
            values = np.random.default_rng(0).permutation(count)
            feeds[spec.name] = np.resize(values, feeds[spec.name].shape).astype(feeds[spec.name].dtype)
            if not refused(self.expected.reference, feeds):
                yield self._equal(f"values of {spec.name}, each once", feeds)

    def samples(self, most: int) -> list[dict[str, Array]]:
        """Return some samples of the data, each with every input, from reset."""
        assert self.config.data is not None
        manifest = self.expected.manifest
        samples = sample_feeds(self.config.data, manifest)
        places = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(int))
        found = []
        for place in places:
            steps = manifest.steps(samples[place]) if manifest.time_axes else 1
            drawn = self.expected.cases.case(1, steps, at_reset=True, offset=_DATA, full=True).feeds
            found.append(full_length(manifest, {**drawn, **samples[place]}))
        return found

    def _rounded(self, name: str, feeds: Feeds, run: Runner | None = None) -> Check:
        return judged(name, replace(self.truth, engine=self.pair.engine).rounding(feeds, run))

    def _engines(self) -> Iterator[Check]:
        """Compare each engine with the graph: providers, threads, the native engine, and a long stream."""
        cases = self.expected.cases
        for name, make in self._makers():
            try:
                run = make()
            except LstmEdgeError as error:
                failed = name == _NATIVE and not isinstance(error, UnsupportedError)
                status: Check = Check(name, "failed" if failed else "skipped", first_line(error))
                yield status
                continue
            for n, length in ((1, 1), (3, 20)):
                case = cases.case(n, length, at_reset=False, offset=_ENGINES, full=True)
                if not refused(self.expected.reference, case.feeds):
                    about = f"{name}, {case.sizes_text}"
                    yield asked(about, partial(self._rounded, about, case.feeds, run))
        for case in cases.cases():
            if not refused(self.expected.reference, case.feeds):
                about = f"onnxruntime, {case}"
                yield asked(about, partial(self._rounded, about, case.feeds))
        if self.file.manifest.streamable and self.expected.manifest.sequence is not None:
            yield from self._long_runs()

    def _makers(self) -> Iterator[tuple[str, Callable[[], Runner]]]:
        """Return every engine by name, and what opens it."""
        for provider in import_onnxruntime().get_available_providers():
            chain = (provider,) if provider == CPU else (provider, CPU)
            for threads in (1, 2) if provider not in _REMOTE else ():
                name = f"{provider}, {threads} thread{'s' if threads > 1 else ''}"
                yield name, partial(self.file.runner, threads, chain)
        if installed():
            yield _NATIVE, self.file.native_runner

    def _long_runs(self) -> Iterator[Check]:
        """Carry states over single units, whose errors are plotted, and over many chunks of whole units."""
        single, unit = _SINGLE_STEPS[not self.config.quick], self.expected.manifest.unit
        long = max(1, self.config.steps // 10) if self.config.quick else self.config.steps
        for steps, most in ((single, 1), (long, _CHUNK)):
            count, size = (-(-each // unit) * unit for each in (steps, most))
            name = f"{count} steps, {size} a call"
            yield asked(name, partial(self._stream, name, count, size))

    def _stream(self, name: str, count: int, size: int) -> Check:
        manifest, cases = self.expected.manifest, self.expected.cases
        drawn = cases.case(1, count, at_reset=True, offset=_STEPS, full=True)
        feeds, sizes = full_length(manifest, drawn.feeds), even_sizes(count, size)
        procedure = partial(_last_steps, manifest, sizes)
        got, exact = procedure(self.pair.engine, feeds), procedure(self.truth.graph, feeds)
        first = take_steps(manifest.time_axes, feeds, 0, sum(sizes[: -(-2 * _CHUNK // size)]))
        limits = self.truth.limits(full_length(manifest, first))
        own = {name: limits[name][None] for name in exact if name in limits}
        records = compare_all(got, exact, own)
        if any(not each.ok for each in records):  # of the first steps; the whole run decides
            own = self.truth.limits(feeds, procedure)
            records = compare_all(got, exact, own)
        if size == manifest.unit:
            away = [
                distance(got[n], each).reshape(len(each), -1).max(1, initial=0.0) for n, each in exact.items()
            ]
            steps = tuple(map(int, np.cumsum(sizes)))
            most = max(float(np.max(each, initial=0.0)) for each in own.values())
            self.curve = Curve(steps, tuple(map(float, np.max(away, axis=0))), most)
        return judged(name, records)

    def _golden(self) -> Iterator[Check]:
        """Compare the recorded cases with the graph, and replay them."""
        first = self.file.manifest.golden
        recorded = () if first is None else (first, *first.more)
        if not recorded:
            lacks = "the file carries no golden case" if self.file.has_manifest else ""
            yield Check("golden cases", "failed" if lacks else "skipped", lacks or "the file has no manifest")
            return
        if self.expected.same_graph and not self.file.manifest.is_buffered:
            yield self._coverage(recorded)
        for place, golden in enumerate(recorded):
            name = f"golden case {place + 1} is the reference's"
            yield asked(name, partial(self._recorded, name, golden))
        yield from self._replay()

    def _coverage(self, recorded: Sequence[Golden]) -> Check:
        """Compare number and sizes with the cases that an export of the reference records."""
        wanted = record_golden(self.truth, replace(self.expected.cases, held=frozenset()))
        cases = (wanted, *wanted.more)
        wrong = [f"the file has {len(recorded)}, expected {len(cases)}"] if len(recorded) < len(cases) else []
        for place, (mine, theirs) in enumerate(zip(recorded, cases, strict=False), 1):
            sizes = [case_size(self.expected.manifest, each.inputs) for each in (mine, theirs)]
            if any(one < other for one, other in zip(*sizes, strict=True)):
                wrong.append(f"case {place} has N, L = {sizes[0]}, expected {sizes[1]}")
            wrong += [
                f"case {place}: {name} is constant"
                for name, array in theirs.inputs.items()
                if array.dtype.kind == "f" and np.ptp(array) > 0 and np.ptp(mine.inputs.get(name, 0.0)) == 0
            ]
        return answered("number and sizes", "; ".join(wrong))

    def _recorded(self, name: str, golden: Golden) -> Check:
        check_golden_case(self.file.manifest, golden)
        exact, limits = self.truth.exact(golden.inputs), self.truth.limits(golden.inputs)
        known = {each: exact[each] for each in golden.outputs if each in exact}
        records = compare_all(golden.outputs, known, {each: limits[each] / 8 for each in known})
        wide = [
            each
            for each in known
            if each not in golden.limits or np.any(golden.limits[each] > _SLACK * limits[each] + 1e-30)
        ]
        found = judged(name, records)
        if found.status == "passed" and wide:
            return Check(name, "failed", f"limits of {', '.join(wide)} are missing, or wider than needed")
        return found

    def _replay(self) -> Iterator[Check]:
        """Replay the cases in the file as a device's self-test does."""
        assert self.file.model is not None
        if self.file.manifest.golden is None:
            return
        try:
            found = self.file.model.selftest()
        except LstmEdgeError as error:
            yield Check("self-test", "failed", first_line(error))
            return
        yield judged("self-test", found.comparisons)

    def _quantized(self) -> Iterator[Check]:
        from .quantized import check_quantized

        yield from check_quantized(self.file, self.expected, self.config)

    def _quantized_golden(self) -> Iterator[Check]:
        from .quantized import check_golden

        yield from check_golden(self.file, self.expected)
        yield from self._replay()

    def _decisions(self) -> Iterator[Check]:
        from .decisions import check_decisions

        found = check_decisions(self)
        self.disagreements = found.disagreements
        yield from found.checks

    def _notes(self) -> Iterator[str]:
        if self.against is None or self.file.model is None:
            return
        if self.file.has_manifest and self._other_checkpoint:
            yield f"checkpoint: {self._other_checkpoint}"
        if names := unverified(self.file.manifest, self.against):
            yield f"stated by the file alone, and not verified: {', '.join(names)}"
        if self.config.quick:
            counts = ((each.name, each.values or 0) for each in self.against.cases.inputs)
            for name, count in counts:
                if count > _FEW_VALUES:
                    yield f"not every one of {count:,} values of {name} was fed"


def _last_steps(manifest: Manifest, sizes: Sequence[int], run: Runner, feeds: Feeds) -> Feeds:
    """Carry the states from chunk to chunk; give every output after each chunk, ``(chunks, ...)``.

    Outputs with a time axis give their last step; what folds time into another axis is left out.
    """
    calls, time = list(run_chunks(run, manifest, feeds, sizes)), manifest.time_axes
    return {
        name: np.stack([each[name].take([-1], time[name]) if name in time else each[name] for each in calls])
        for name in join_chunks(manifest, calls[:1])
    }


def _timed(checks: Iterator[Check]) -> Iterator[Check]:
    began = time.perf_counter()
    for check in checks:
        yield replace(check, seconds=time.perf_counter() - began)
        began = time.perf_counter()


def _text(node: onnx.NodeProto) -> bytes:
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    bare.doc_string = ""
    del bare.metadata_props[:]
    return bytes(bare.SerializeToString(deterministic=True))


def _differs(one: object, two: object) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray):
        return False
    if one.shape != two.shape:
        return True
    if one.dtype.kind != "f" or not one.size:
        return not np.array_equal(one, two)
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    return not np.allclose(one, two, rtol=0.0, atol=EQUAL * scale, equal_nan=True)


def _equal_steps(x: Array) -> Array:
    return np.broadcast_to(x.reshape(-1, x.shape[-1])[0], x.shape).astype(x.dtype) if x.ndim else x


def _spike(x: Array) -> Array:
    spiked = np.array(x)
    spiked.reshape(-1)[x.size // 2] += 1e6
    return spiked
