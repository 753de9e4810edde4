"""``quantize``: a verified float file in, a smaller one out that kept to its budget."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    InputError,
    LstmEdgeError,
    counted,
)
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array, Golden, Manifest
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.ort import import_onnxruntime
from lstm_edge_runtime.selftest import replay_golden
from lstm_edge_runtime.tolerance import Comparison

from ..graph import with_manifest
from ..progress import Progress, ignore
from ..verify.cases import Feeds
from ..verify.samples import Samples, sample_feeds, selected
from .config import QuantizeConfig
from .judge import Judgement, device_limits, judge, over_budget
from .precision import (
    SCHEMES,
    Count,
    count_quantized,
    detect_target,
    fp16_compute,
    fp16_storage,
    int8_dynamic,
    int8_storage,
)
from .prepare import prepare
from .speed import Timing, time_both

Build = Callable[[ir.Model], onnx.ModelProto]
_HALF = "fp16 weights, float32 arithmetic"
_STORED = "int8 weights, a scale a row, float32 arithmetic"
_HIDDEN, _NARROW = "hidden_size", 128
"""A GRU or RNN with fewer units takes longer in int8, but on a microcontroller."""


@dataclass(frozen=True)
class Quantized:
    """A smaller file that kept to its budget."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    picked: str
    """The arithmetic that was chosen, in words."""
    judged_on: str
    """Data that the judgement is based on."""
    counts: Count
    """Number of nodes by kind of reduction."""
    bytes_before: int
    judgement: Judgement
    timings: tuple[Timing, ...]
    """On this machine; never part of the file."""

    @property
    def slower(self) -> str:
        """Return in which calls the file is slower here than the float file; empty if in none."""
        return ", ".join(
            f"a {timing.what} takes {timing.ratio:.2f} times as long"
            for timing in self.timings
            if timing.slower
        )

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the file whole or not at all.

        Raises:
            CheckFailedError: it is slower here than the float file, and not ``force``.
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        if self.slower and not force:
            raise CheckFailedError(
                f"slower than the float file on this machine: {self.slower}; nothing was written; "
                "force it, or store weights only"
            )
        write_bytes(path, self.model)


def quantize(
    source: str | os.PathLike[str],
    config: QuantizeConfig | None = None,
    samples: Samples | None = None,
    *,
    on_progress: Progress = ignore,
) -> Quantized:
    """Make a float file smaller and measure what that costs; the file given is only read.

    Args:
        source: a float32 ``.onnx`` file with a manifest.
        config: see ``QuantizeConfig``.
        samples: real data to judge on; without it the file's golden case is what there is.
        on_progress: called with the fraction of the work that is done, and what is done now.

    Raises:
        NotFoundError, FileFormatError: no such file, or not a readable one.
        ManifestError: the file has no manifest.
        InputError: the file is not float32, or the samples do not fit it, or there is nothing to judge on.
        CheckFailedError: nothing could be quantized, or it got no smaller, or it breaks its budget.
    """
    config = config or QuantizeConfig()
    before = load(source)
    if before.manifest.precision != "fp32":
        raise InputError(f"{source} is {before.manifest.precision}; quantize the fp32 file it came from")
    cases, targets = evidence(before.manifest, samples)
    judged_on = "the golden case" if samples is None else counted(len(cases), "sample")
    proto, size = _read(source)
    refused = []
    ways = list(_ways(config, proto.graph.node))
    for place, (picked_words, build, int8_activations) in enumerate(ways):
        on_progress(0.7 * place / len(ways), f"judging {picked_words}")
        smaller = _reduce(proto, build)
        counts = count_quantized(smaller, config.precision)
        manifest = _with_dtypes(before.manifest, smaller, config.precision)
        manifest = manifest._replace(int8_activations=int8_activations)
        after = _load(with_manifest(smaller, manifest))
        judgement = judge(before, after, cases, targets, few=samples is None)
        said = over_budget(judgement, config.budget)
        native = None if said else on_native(with_manifest(smaller, manifest._replace(golden=None)))
        if native is not None:
            there = judge(before, native, cases, targets, few=samples is None)
            said = [f"{each} on the native engine" for each in over_budget(there, config.budget)]
            judgement = there if int8_activations else judgement
        elif int8_activations:
            continue
        if said:
            refused.append(f"{picked_words}: {'; '.join(said)}")
            continue
        afters = [after] if native is None else [after, native]
        manifest = _with_judgement(manifest, before, afters, judgement, config, picked_words, cases[0])
        content = with_manifest(smaller, manifest)
        _load(content).selftest().require()
        if len(content) >= size:
            raise CheckFailedError(
                f"{source} would grow from {size:,} to {len(content):,} bytes; keep the float file"
            )
        on_progress(0.7, "timing it against the float file")
        usual, smaller_usual = (load(each) for each in (source, content))
        timings = tuple(time_both(usual, smaller_usual, cases[0]))
        return Quantized(content, manifest, picked_words, judged_on, counts, size, judgement, timings)
    raise CheckFailedError(
        f"{source} loses too much on {judged_on}; {' / '.join(refused)}; nothing was written"
    )


def quantized_again(proto: onnx.ModelProto, config: QuantizeConfig, picked: str) -> onnx.ModelProto:
    """Return what quantizing a float file with recorded options gives; it is deterministic.

    Args:
        proto: the float file.
        config: the options; the target is the recorded one, not ``auto``.
        picked: the arithmetic that was chosen, in words.

    Raises:
        InputError: no arithmetic of these options is called so.
    """
    for words, build, _ in _ways(config, proto.graph.node):
        if words == picked:
            return _reduce(proto, build)
    raise InputError(f"no arithmetic is called {picked!r}")


def _options(config: QuantizeConfig) -> dict[str, Any]:
    """Return the options that decide the file's bits, with the target that ``auto`` stood for."""
    target = detect_target() if config.target == "auto" else config.target
    fields = asdict(replace(config, target=target))
    del fields["budget"]
    return fields


def _reduce(proto: onnx.ModelProto, build: Build) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    prepare(model)
    return build(model)


def _dtypes(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the dtype of each input and output."""
    return {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*proto.graph.input, *proto.graph.output)
    }


def _in_dtypes(case: Golden, dtypes: Mapping[str, str]) -> Golden:
    """Return the float file's golden case with inputs of these dtypes, and without its limits."""
    inputs = {name: array.astype(dtypes[name]) for name, array in case.inputs.items()}
    return Golden(inputs, case.outputs, case.floor)


def _with_dtypes(manifest: Manifest, proto: onnx.ModelProto, precision: str) -> Manifest:
    """Return the manifest with the smaller file's dtypes and precision."""
    dtypes = _dtypes(proto)
    return manifest._replace(
        inputs=tuple(spec._replace(dtype=dtypes[spec.name]) for spec in manifest.inputs),
        outputs=tuple(spec._replace(dtype=dtypes[spec.name]) for spec in manifest.outputs),
        states=tuple(spec._replace(dtype=dtypes[spec.input]) for spec in manifest.states),
        precision=precision,
    )


def _with_judgement(
    manifest: Manifest,
    before: Model,
    afters: Sequence[Model],
    judgement: Judgement,
    config: QuantizeConfig,
    words: str,
    feeds: Feeds,
) -> Manifest:
    """Return the manifest with the figures, and with the float file's golden cases and limits for them.

    Args:
        manifest: what ``_with_dtypes`` gave.
        before: the float file.
        afters: the smaller file, on each engine that runs it.
        judgement: the figures.
        config: whose budget was kept to.
        words: the arithmetic that was chosen.
        feeds: inputs of the golden case, if the float file has none.
    """
    golden = manifest.golden or _record(before, feeds)
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs} | {s.input: s.dtype for s in manifest.states}
    cases = [_in_dtypes(case, dtypes) for case in (golden, *golden.more)]
    first, *more = with_limits(manifest, cases, afters)
    versions = {**manifest.provenance.get("versions", {}), "onnxruntime": import_onnxruntime().__version__}
    change, drift = judgement.change.values(), judgement.drift.values()
    return manifest._replace(
        provenance={
            **manifest.provenance,
            "float_sha256": before.sha256,
            "quantized": words,
            "quantize": {"config": _options(config), "picked": words},
            "versions": versions,
        },
        equivalence={
            "against": "the float file",
            "max_abs": max([*(each.largest for each in change), *(each.largest for each in drift)]),
            "max_rel": max([*(each.share for each in change), *(each.share for each in drift)]),
            "budget": asdict(config.budget),
            **judgement.to_dict(),
            "float": {name: value for name, value in manifest.equivalence.items() if name != "cases"},
        },
        golden=first._replace(more=tuple(more)),
    )


def with_limits(manifest: Manifest, cases: Sequence[Golden], models: Sequence[Model]) -> list[Golden]:
    """Return golden cases with the limits that ``models`` need, replayed in every way."""
    unlimited = manifest._replace(golden=cases[0]._replace(more=tuple(cases[1:])))
    found: list[list[Comparison]] = [[] for _ in cases]
    for replay in chain.from_iterable(replay_golden(unlimited, runner(model)) for model in models):
        found[replay.case] += replay.comparisons
    return [
        case._replace(limit=device_limits(records, case.outputs))
        for case, records in zip(cases, found, strict=True)
    ]


def _record(model: Model, feeds: Feeds) -> Golden:
    """Run the float file on ``feeds`` from the reset state, and keep what went in and came out."""
    interface, found = model.manifest, runner(model)(feeds)
    inputs = dict(feeds)
    for spec in model.states:
        reset = np.asarray(spec.reset, spec.dtype)
        inputs[spec.input] = np.ascontiguousarray(np.broadcast_to(reset, found[spec.output].shape))
    if interface.lengths_input is not None and interface.lengths not in inputs:
        lengths = interface.lengths_input
        inputs[lengths.name] = np.array([interface.steps(feeds)], lengths.dtype)
    return Golden(inputs, found, dict.fromkeys(found, 0.0))


def _ways(config: QuantizeConfig, nodes: Collection[onnx.NodeProto]) -> Iterator[tuple[str, Build, bool]]:
    """Return what may be tried, the fastest first, and whether it has activations of GRU and RNN in int8."""
    target = detect_target() if config.target == "auto" else config.target
    where = f"for {target}"
    half = partial(fp16_compute, keep_io=config.keep_io)
    if config.precision == "fp16":
        gpu = target == "gpu"
        yield ("fp16 arithmetic " if gpu else f"{_HALF}, ") + where, half if gpu else fp16_storage, False
    elif config.weights_only:
        yield f"{_STORED}, {where}", int8_storage, False
    else:
        layers = [node for node in nodes if node.op_type in ("GRU", "RNN")]
        narrow = any(each.i < _NARROW for node in layers for each in node.attribute if each.name == _HIDDEN)
        integer = bool(layers) and (target == "arm" or not narrow)
        alone = bool(layers) and all(node.op_type != "LSTM" for node in nodes)
        stored = [(f"{_STORED} (onnxruntime has no int8 GRU or RNN)", int8_storage)]
        dynamic = [(scheme, partial(int8_dynamic, scheme=scheme)) for scheme in SCHEMES[target]]
        for words, build in stored if alone else dynamic:
            if integer:
                yield f"{words}, {where}; in int8 on the native engine and in C", build, True
            yield f"{words}, {where}", build, False


def evidence(manifest: Manifest, samples: Samples | None) -> tuple[list[Feeds], Array | None]:
    """Return the cases to judge on, and the truth if it is known."""
    if samples is None:
        if manifest.golden is None:
            raise InputError("got no data, and the file has no golden case; give samples to judge on")
        return [manifest.golden.inputs], None
    targets = None if samples.targets is None else np.asarray(samples.targets)[selected(samples)]
    return list(sample_feeds(samples, manifest)), _truth(targets, manifest)


def _truth(targets: Array | None, manifest: Manifest) -> Array | None:
    """Return class numbers ``(samples,)``, names turned into them, or values ``(samples, C)``."""
    if targets is None or manifest.task is None:
        return None
    width = next(spec.width for spec in manifest.outputs if spec.name == manifest.task.output)
    came, kind = f"the truth is {targets.dtype} {targets.shape}", targets.dtype.kind
    if manifest.task.kind != "classification":
        values = targets.reshape(len(targets), -1)
        if kind not in "fiu" or values.shape[1] != width:
            raise InputError(f"{came}; expected numbers ({len(targets)}, {width}), as the file predicts them")
        return values
    if kind in "US":
        return _class_numbers(targets, manifest.task.labels)
    if kind not in "iu" or targets.ndim != 1 or not 0 <= targets.min() <= targets.max() < width:
        raise InputError(f"{came}; expected ({len(targets)},) class names or numbers below {width}")
    return targets


def _class_numbers(names: Array, labels: Sequence[str]) -> Array:
    """Return the number of each name."""
    numbers = {name: number for number, name in enumerate(labels)}
    unknown = sorted({str(name) for name in names} - set(numbers))
    if unknown:
        raise InputError(
            f"the data has the class {unknown[0]!r}; the file knows {', '.join(numbers) or 'none by name'}"
        )
    return np.array([numbers[str(name)] for name in names])


def _read(source: str | os.PathLike[str]) -> tuple[onnx.ModelProto, int]:
    """Return the file with its external data, and the size of both."""
    try:
        proto = onnx.load(source)
    except Exception as error:
        raise FileFormatError(f"{source} can't be read as ONNX ({error}); give an .onnx file") from error
    size = Path(source).stat().st_size
    return proto, size if size > proto.ByteSize() // 2 else proto.ByteSize()


def on_native(content: bytes) -> Model | None:
    """Return a file as a native program; None if it can't be one, or the C library is not installed."""
    from ..targets.native import to_native

    try:
        return load(to_native(content))
    except LstmEdgeError:
        return None


def _load(content: bytes) -> Model:
    try:
        return load(content)
    except LstmEdgeError as error:
        raise CheckFailedError(f"the smaller file does not load: {error}; keep the float file") from error
