"""The manifest of a smaller file: the float file's, with its dtypes, figures and the limits it is held to."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain

import numpy as np
import onnx

from lstm_edge_runtime.manifest import Golden, Manifest
from lstm_edge_runtime.model import Model, runner
from lstm_edge_runtime.ort import import_onnxruntime
from lstm_edge_runtime.selftest import replay_golden

from ..numerics.cases import Feeds
from .config import QuantizeConfig
from .judge import Judgement, device_limits

__all__ = ["with_dtypes", "with_judgement"]


def with_dtypes(manifest: Manifest, proto: onnx.ModelProto, precision: str) -> Manifest:
    """Return the manifest with the smaller file's dtypes and precision."""
    dtypes = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*proto.graph.input, *proto.graph.output)
    }
    return manifest._replace(
        inputs=tuple(spec._replace(dtype=dtypes[spec.name]) for spec in manifest.inputs),
        outputs=tuple(spec._replace(dtype=dtypes[spec.name]) for spec in manifest.outputs),
        states=tuple(spec._replace(dtype=dtypes[spec.input]) for spec in manifest.states),
        precision=precision,
    )


def with_judgement(
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
        manifest: what ``with_dtypes`` gave.
        before: the float file.
        afters: the smaller file, on each engine that runs it.
        judgement: the figures.
        config: whose budget was kept to.
        words: the arithmetic that was chosen.
        feeds: what to record a golden case from where the float file has none.
    """
    golden = manifest.golden or _record(before, feeds)
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs} | {s.input: s.dtype for s in manifest.states}
    cases = [
        Golden(
            {name: array.astype(dtypes[name]) for name, array in case.inputs.items()},
            case.outputs,
            case.floor,
        )
        for case in (golden, *golden.more)
    ]
    unlimited = manifest._replace(golden=cases[0]._replace(more=tuple(cases[1:])))
    largest: list[dict[str, float]] = [defaultdict(float) for _ in cases]
    for replay in chain.from_iterable(replay_golden(unlimited, runner(after)) for after in afters):
        for record in replay.comparisons:
            largest[replay.case][record.name] = max(largest[replay.case][record.name], record.max_abs)
    first, *more = (
        case._replace(limit=device_limits(found, case.outputs))
        for case, found in zip(cases, largest, strict=True)
    )
    versions = {**manifest.provenance.get("versions", {}), "onnxruntime": import_onnxruntime().__version__}
    change, drift = judgement.change.values(), judgement.drift.values()
    return manifest._replace(
        provenance={
            **manifest.provenance,
            "float_sha256": before.identity,
            "quantized": words,
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


def _record(model: Model, feeds: Feeds) -> Golden:
    """Run the float file on ``feeds`` from the reset state, and keep what went in and came out."""
    interface, found = model.interface, runner(model)(feeds)
    inputs = dict(feeds)
    for spec in model.states:
        reset = np.asarray(spec.reset, spec.dtype)
        inputs[spec.input] = np.ascontiguousarray(np.broadcast_to(reset, found[spec.output].shape))
    if interface.lengths_input is not None and interface.lengths not in inputs:
        lengths = interface.lengths_input
        inputs[lengths.name] = np.array([interface.steps(feeds)], lengths.dtype)
    return Golden(inputs, found, dict.fromkeys(found, 0.0))
