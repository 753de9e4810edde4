"""``quantize``: a verified float file in, a smaller one out that kept to its budget."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    InputError,
    LstmEdgeError,
    counted,
)
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Golden, Manifest
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.ort import import_onnxruntime
from lstm_edge_runtime.selftest import selftest

from ..graph import with_manifest
from ..progress import Progress
from ..recurrent import LENGTHS
from ..targets.native import to_native
from ..verify.compare import limit_for
from ..verify.file import open_file
from ..verify.samples import Samples
from .config import QuantizeConfig
from .gate import Judgement, evidence, judge, over_budget
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

_STORED = "int8 weights, a scale a row, float32 arithmetic"
_NARROW = 128
"""A GRU or RNN with fewer units takes longer in int8, but on a microcontroller."""
_MARGIN = 4.0
"""Limit on another device, as a multiple of the largest measured difference: rounding
differs there, while saturation (8 times and more, measured on x86 without VNNI) is
still caught."""


class Way(NamedTuple):
    """One arithmetic that may be tried."""

    words: str
    build: Callable[[ir.Model], onnx.ModelProto]
    int8_activations: bool = False
    """True if the native engine and C quantize the activations of GRU and RNN."""


@dataclass(frozen=True)
class Quantized:
    """A smaller file that kept to its budget."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    picked: str
    """The arithmetic that was chosen, in words."""
    counts: Count
    """Number of nodes by kind of reduction."""
    bytes_before: int
    judgement: Judgement

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all.

        Raises:
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def quantize_verified(
    source: str | os.PathLike[str],
    config: QuantizeConfig,
    samples: Samples | None,
    show: Progress,
) -> Quantized:
    """Return the first file, of those that are tried, that keeps to its budget; see
    ``quantize``.
    """
    file = open_file(source)
    before = file.model or load(
        source
    )  # which raises for a file whose manifest does not hold
    if before.manifest.precision != "fp32":
        raise InputError(
            f"{source} is {before.manifest.precision}; quantize the fp32 file it came"
            " from"
        )
    if before.manifest.golden is None:
        raise InputError(f"{source} has no golden case; export or lift it again")
    cases, targets = evidence(before.manifest, samples)
    proto = file.proto
    size = Path(source).stat().st_size
    refused = []
    ways = list(_ways(config, proto.graph.node))
    for index, way in enumerate(ways):
        show(index / len(ways), f"judging {way.words}")
        smaller = _reduce(proto, way)
        counts = count_quantized(smaller, config.precision)
        manifest = before.manifest._replace(
            precision=config.precision,
            int8_activations=way.int8_activations,
            golden=None,
        )
        content = with_manifest(smaller, manifest)
        engines = {
            "onnxruntime": load(content),
            "the native engine": on_native(content),
        }
        models = {name: model for name, model in engines.items() if model is not None}
        if way.int8_activations and len(models) == 1:
            continue
        judged = [
            judge(before, model, cases, targets, real=samples is not None)
            for model in models.values()
        ]
        over = {
            name: over_budget(figures, config.budget)
            for name, figures in zip(models, judged, strict=True)
        }
        if broken := next((name for name in over if over[name]), ""):
            refused.append(f"{way.words}: {'; '.join(over[broken])} on {broken}")
            continue
        judgement = judged[-1 if way.int8_activations else 0]
        manifest = _with_judgement(
            manifest, before, list(models.values()), judgement, config, way
        )
        content = with_manifest(smaller, manifest)
        load(content).selftest().require()
        if len(content) >= size:
            raise CheckFailedError(
                f"{source} would grow from {size:,} to {len(content):,} bytes; keep the"
                " float file"
            )
        return Quantized(content, manifest, way.words, counts, size, judgement)
    data = "the golden case" if samples is None else counted(len(cases), "sample")
    raise CheckFailedError(
        f"{source} loses too much on {data}; {' / '.join(refused)}; nothing was written"
    )


def quantized_again(
    proto: onnx.ModelProto, config: QuantizeConfig, picked: str
) -> onnx.ModelProto:
    """Return what quantizing a float file with recorded options gives; it is
    deterministic.

    Args:
        proto: the float file.
        config: the options; the target is the recorded one, not ``auto``.
        picked: the arithmetic that was chosen, in words.

    Raises:
        InputError: no arithmetic of these options is called so.
    """
    for way in _ways(config, proto.graph.node):
        if way.words == picked:
            return _reduce(proto, way)
    raise InputError(f"no arithmetic is called {picked!r}")


def with_limits(
    manifest: Manifest, cases: Sequence[Golden], models: Sequence[Model]
) -> list[Golden]:
    """Return golden cases with the limits that ``models`` need."""
    unlimited = manifest._replace(golden=cases[0]._replace(more=tuple(cases[1:])))
    limits = [
        {name: limit_for(array) for name, array in case.outputs.items()}
        for case in cases
    ]
    for model in models:
        for case_limits, records in zip(
            limits, selftest(unlimited, runner(model)).cases, strict=True
        ):
            case_limits |= {
                record.name: max(case_limits[record.name], _MARGIN * record.max_abs)
                for record in records
            }
    return [
        case._replace(limit=limit) for case, limit in zip(cases, limits, strict=True)
    ]


def on_native(content: bytes) -> Model | None:
    """Return a file as a native program; None if it can't be one, or the C library is
    not installed.
    """
    try:
        return load(to_native(content))
    except LstmEdgeError:
        return None


def _reduce(proto: onnx.ModelProto, way: Way) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    prepare(model)
    return way.build(model)


def _with_judgement(
    manifest: Manifest,
    before: Model,
    models: Sequence[Model],
    judgement: Judgement,
    config: QuantizeConfig,
    way: Way,
) -> Manifest:
    """Return the manifest with the figures, and with the float file's golden cases and
    limits for them.
    """
    golden = before.manifest.golden
    assert golden is not None
    cases = [
        Golden(case.inputs, case.outputs, case.floor) for case in (golden, *golden.more)
    ]
    first, *more = with_limits(manifest, cases, models)
    options = {
        "precision": config.precision,
        "target": _target(config),
        "weights_only": config.weights_only,
    }
    versions = {
        **manifest.provenance.get("versions", {}),
        "onnxruntime": import_onnxruntime().__version__,
    }
    return manifest._replace(
        provenance={
            **manifest.provenance,
            "float_sha256": before.identity,
            "quantized": way.words,
            "quantize": {"config": options, "picked": way.words},
            "versions": versions,
        },
        equivalence={
            "against": "the float file",
            "budget": asdict(config.budget),
            **asdict(judgement),
        },
        golden=first._replace(more=tuple(more)),
    )


def _target(config: QuantizeConfig) -> str:
    return detect_target() if config.target == "auto" else config.target


def _ways(config: QuantizeConfig, nodes: Collection[onnx.NodeProto]) -> Iterator[Way]:
    """Return what may be tried, the fastest first."""
    target = _target(config)
    where = f"for {target}"
    if config.precision == "fp16" and target == "gpu":
        yield Way(f"fp16 arithmetic {where}", fp16_compute)
    elif config.precision == "fp16":
        yield Way(f"fp16 weights, float32 arithmetic, {where}", fp16_storage)
    elif config.weights_only:
        yield Way(f"{_STORED}, {where}", int8_storage)
    else:
        layers = [node for node in nodes if node.op_type in ("GRU", "RNN")]
        widths = [
            attribute.i
            for node in layers
            for attribute in node.attribute
            if attribute.name == "hidden_size"
        ]
        integer = bool(layers) and (
            target == "arm" or min(widths, default=_NARROW) >= _NARROW
        )
        padded = any(
            node.op_type == "LSTM" and any(node.input[LENGTHS : LENGTHS + 1])
            for node in nodes
        )
        if padded or (layers and all(node.op_type != "LSTM" for node in nodes)):
            why = (
                "padding would spoil the scales"
                if padded
                else "onnxruntime has no int8 GRU or RNN"
            )
            ways = [Way(f"{_STORED} ({why}), {where}", int8_storage)]
        else:
            ways = [
                Way(f"{scheme.words}, {where}", partial(int8_dynamic, scheme=scheme))
                for scheme in schemes(target)
            ]
        for way in ways:
            if integer:
                yield Way(
                    f"{way.words}; in int8 on the native engine and in C",
                    way.build,
                    True,
                )
            yield way
