"""``quantize``: turn a verified float file into a smaller one within its accuracy
budget.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import onnx
import onnx_ir as ir

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    InputError,
    MissingDependencyError,
    UnsupportedError,
    counted,
)
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.ort import import_onnxruntime
from lstm_edge_runtime.selftest import selftest

from ..artifact import Artifact
from ..graph import with_manifest
from ..progress import Progress
from ..recurrent import LENGTHS
from ..targets.native import to_native
from ..verify.cases import Feeds
from ..verify.compare import limit_for
from ..verify.file import open_file
from ..verify.samples import Samples
from .config import Budget, QuantizeConfig
from .gate import Judgement, Runs, evidence, judge, over_budget, run_file
from .precision import (
    Count,
    count_quantized,
    detect_target,
    fp16_compute,
    fp16_storage,
    int8_dynamic,
    int8_storage,
    schemes,
)
from .prepare import prepare

_NATIVE = "the native engine"
_STORED = "int8 weights, one scale per row, float32 arithmetic"
_FEWEST_UNITS = 128
"""A GRU or RNN with fewer units takes longer in int8, but on a microcontroller."""
_MARGIN = 4.0
"""Limit on another device, as a multiple of the largest measured difference: rounding
differs there, while saturation (8 times and more, measured on x86 without VNNI) is
still caught."""


@dataclass(frozen=True)
class Candidate:
    """One way to make a file smaller."""

    description: str
    """For messages and the provenance, where it identifies the candidate."""
    build: Callable[[ir.Model], onnx.ModelProto]
    """Changes a prepared model."""
    arithmetic: str
    """How engines compute; see ``Manifest.arithmetic``."""


@dataclass(frozen=True, kw_only=True)
class Quantized(Artifact[Judgement]):
    """A smaller file within its accuracy budget."""

    description: str
    """The candidate that was chosen."""
    counts: Count
    """Number of nodes by kind of reduction."""
    bytes_before: int
    """Size of the float file."""


@dataclass(frozen=True)
class _Original:
    """The float file, and the cases on which smaller ones are judged."""

    name: str
    """Name of the file."""
    model: Model
    """The opened file."""
    proto: onnx.ModelProto
    """The file for onnx."""
    size: int
    """Bytes of the file."""
    cases: Sequence[Feeds]
    """Inputs on which files are compared."""
    targets: Array | None
    """Right classes; None if they are unknown."""
    is_real: bool
    """True if the cases are samples of the user, not the golden case."""

    @cached_property
    def runs(self) -> Runs:
        """The outputs that smaller files are compared with."""
        return run_file(self.model, self.cases, real=self.is_real)


def quantize_file(
    source: str | os.PathLike[str],
    config: QuantizeConfig,
    samples: Samples | None,
    show: Progress,
) -> Quantized:
    """Return the first candidate that keeps to its budget; see ``quantize``."""
    original = _read_original(source, samples)
    candidates = list(_candidates(config, original.proto.graph.node))
    refusals = []
    for index, candidate in enumerate(candidates):
        show(index / len(candidates), f"judging {candidate.description}")
        smaller = _reduce(original.proto, candidate)
        counts = count_quantized(smaller, config.precision)
        manifest = original.model.manifest._replace(
            precision=config.precision, arithmetic=candidate.arithmetic, golden=None
        )
        try:
            engines = _open_engines(with_manifest(smaller, manifest))
            if candidate.arithmetic == "int8-native" and _NATIVE not in engines:
                continue
            judgement = _judge_engines(
                original, candidate, engines=engines, budget=config.budget
            )
        except CheckFailedError as error:
            refusals.append(f"{candidate.description}: {error}")
            continue
        manifest = _with_judgement(
            manifest,
            original.model,
            candidate=candidate,
            config=config,
            judgement=judgement,
            models=engines.values(),
        )
        content = with_manifest(smaller, manifest)
        if len(content) >= original.size:
            raise CheckFailedError(
                f"{source} would grow from {original.size:,} to {len(content):,} bytes;"
                " keep the float file"
            )
        return Quantized(
            model=content,
            manifest=manifest,
            description=candidate.description,
            counts=counts,
            bytes_before=original.size,
            verified=judgement,
        )
    count = counted(len(original.cases), "sample")
    data = count if original.is_real else "the golden case"
    raise CheckFailedError(
        f"{source} loses too much on {data}; {' / '.join(refusals)}; nothing was"
        " written"
    )


def _read_original(
    source: str | os.PathLike[str], samples: Samples | None
) -> _Original:
    """Return a float file and the data for its measurement; raises as ``quantize``."""
    file = open_file(source)
    # load raises for a file without a manifest that holds
    model = load(source) if file.model is None else file.model
    if model.manifest.precision != "fp32":
        raise InputError(
            f"{source} is {model.manifest.precision}; quantize the fp32 file it came"
            " from"
        )
    if model.manifest.golden is None:
        raise InputError(f"{source} has no golden case; export or lift it again")
    cases, targets = evidence(model.manifest, samples)
    return _Original(
        name=str(source),
        model=model,
        proto=file.proto,
        size=Path(source).stat().st_size,
        cases=cases,
        targets=targets,
        is_real=samples is not None,
    )


def _open_engines(content: bytes) -> dict[str, Model]:
    """Return a file on each engine that runs it, by the engine's name."""
    engines = {"onnxruntime": load(content)}
    native = on_native(content)
    if native is not None:
        engines[_NATIVE] = native
    return engines


def _judge_engines(
    original: _Original,
    candidate: Candidate,
    engines: Mapping[str, Model],
    budget: Budget,
) -> Judgement:
    """Return the figures of the engine that the candidate is for.

    Raises:
        CheckFailedError: an engine breaks the budget.
    """
    judgements = {}
    for name, model in engines.items():
        judgements[name] = judge(
            original.model.manifest,
            original.runs,
            run_file(model, original.cases, real=original.is_real),
            original.targets,
            real=original.is_real,
        )
        if exceeded := over_budget(judgements[name], budget):
            raise CheckFailedError(f"{'; '.join(exceeded)} on {name}")
    is_native = candidate.arithmetic == "int8-native"
    return judgements[_NATIVE if is_native else "onnxruntime"]


def quantized_again(
    proto: onnx.ModelProto, config: QuantizeConfig, description: str
) -> onnx.ModelProto:
    """Return the file that quantizing a float file with recorded options gives; it is
    deterministic.

    Args:
        proto: the float file.
        config: the options; the target is the recorded one, not ``auto``.
        description: the candidate that was chosen.

    Raises:
        InputError: no candidate of these options has this description.
    """
    for candidate in _candidates(config, proto.graph.node):
        if candidate.description == description:
            return _reduce(proto, candidate)
    raise InputError(f"no arithmetic is called {description!r}")


def with_limits(
    manifest: Manifest, cases: Sequence[Golden], models: Iterable[Model]
) -> list[Golden]:
    """Return golden cases with the limits that ``models`` need."""
    unlimited = manifest._replace(golden=cases[0]._replace(more=tuple(cases[1:])))
    limits = []
    for case in cases:
        outputs = case.outputs.items()
        limits.append({name: limit_for(array) for name, array in outputs})
    for model in models:
        results = selftest(unlimited, runner(model)).cases
        for case_limits, comparisons in zip(limits, results, strict=True):
            for comparison in comparisons:
                measured = _MARGIN * comparison.max_abs
                name = comparison.name
                case_limits[name] = max(case_limits[name], measured)
    return [
        case._replace(limit=limit) for case, limit in zip(cases, limits, strict=True)
    ]


def on_native(content: bytes) -> Model | None:
    """Return a file as a native program; None if it can't be one, or the C library is
    not installed.

    Raises:
        CheckFailedError: the program does not compute what the file does.
    """
    try:
        return load(to_native(content))
    except (UnsupportedError, MissingDependencyError):
        return None


def _reduce(proto: onnx.ModelProto, candidate: Candidate) -> onnx.ModelProto:
    """Build the file of a candidate."""
    model = ir.from_proto(proto)
    prepare(model)
    return candidate.build(model)


def _with_judgement(
    manifest: Manifest,
    before: Model,
    *,
    candidate: Candidate,
    config: QuantizeConfig,
    judgement: Judgement,
    models: Iterable[Model],
) -> Manifest:
    """Return the manifest with the figures, and with the float file's golden cases and
    limits for them.
    """
    golden = before.manifest.golden
    assert golden is not None
    cases = [Golden(case.inputs, case.outputs) for case in (golden, *golden.more)]
    first, *more = with_limits(manifest, cases, models)
    for name, limit in first.limit.items():
        if not math.isfinite(limit):
            raise CheckFailedError(
                f"{name} does not have the shape of the golden case; export it again"
            )
    options = {
        "precision": config.precision,
        "target": _target(config),
        "weights_only": config.weights_only,
    }
    versions = dict(manifest.provenance.get("versions", {}))
    versions["onnxruntime"] = import_onnxruntime().__version__
    provenance = {
        **manifest.provenance,
        "float_sha256": before.identity,
        "quantized": candidate.description,
        "quantize": {"config": options, "candidate": candidate.description},
        "versions": versions,
    }
    equivalence = {
        "against": "the float file",
        "budget": asdict(config.budget),
        **asdict(judgement),
    }
    return manifest._replace(
        provenance=provenance,
        equivalence=equivalence,
        golden=first._replace(more=tuple(more)),
    )


def _target(config: QuantizeConfig) -> str:
    """Return the target device, detected if it is ``auto``."""
    return detect_target() if config.target == "auto" else config.target


def _candidates(
    config: QuantizeConfig, nodes: Collection[onnx.NodeProto]
) -> Iterator[Candidate]:
    """Yield the candidates, the fastest first."""
    target = _target(config)
    where = f"for {target}"
    if config.precision == "fp16" and target == "gpu":
        yield Candidate(f"fp16 arithmetic {where}", fp16_compute, "float16")
        return
    if config.precision == "fp16":
        description = f"fp16 weights, float32 arithmetic, {where}"
        yield Candidate(description, fp16_storage, "float32")
        return
    if config.weights_only:
        yield Candidate(f"{_STORED}, {where}", int8_storage, "float32")
        return
    computes_natively = _gains_from_native_int8(nodes, target)
    for candidate in _int8_candidates(nodes, target):
        if computes_natively and candidate.arithmetic == "float32":
            description = (
                f"{candidate.description}; in int8 on the native engine and in C"
            )
            yield Candidate(description, candidate.build, "int8-native")
        yield candidate


def _int8_candidates(
    nodes: Collection[onnx.NodeProto], target: str
) -> Iterator[Candidate]:
    """Yield candidates by the arithmetic of onnxruntime."""
    operators = {node.op_type for node in nodes}
    why = ""
    if any(map(_has_lengths, nodes)):
        why = "padding would spoil the scales"
    elif operators & {"GRU", "RNN"} and "LSTM" not in operators:
        why = "onnxruntime has no int8 GRU or RNN"
    if why:
        yield Candidate(f"{_STORED} ({why}), for {target}", int8_storage, "float32")
        return
    for scheme in schemes(target):
        build = partial(int8_dynamic, scheme=scheme)
        yield Candidate(f"{scheme.description}, for {target}", build, "int8")


def _has_lengths(node: onnx.NodeProto) -> bool:
    """Return True if a node is an LSTM with lengths."""
    has_input = len(node.input) > LENGTHS and bool(node.input[LENGTHS])
    return node.op_type == "LSTM" and has_input


def _gains_from_native_int8(nodes: Collection[onnx.NodeProto], target: str) -> bool:
    """Return True if GRU and RNN layers are faster in int8 on the native engine."""
    layers = [node for node in nodes if node.op_type in ("GRU", "RNN")]
    units = [onnx.helper.get_node_attr_value(node, "hidden_size") for node in layers]
    is_wide = min(units, default=0) >= _FEWEST_UNITS
    return bool(layers) and (target == "arm" or is_wide)
