"""Carrying a float file's manifest over to a smaller file: precision, figures, golden case, limits."""

from dataclasses import asdict

import numpy as np
import onnx

from lstm_edge_runtime.manifest import KEY, Golden, Manifest
from lstm_edge_runtime.model import Model
from lstm_edge_runtime.ort import import_onnxruntime

from ._config import QuantizeConfig
from .cases import Case
from .gate import limits
from .judge import Judgement, largest_differences

__all__ = ["adapted", "serialize", "signed"]


def serialize(proto: onnx.ModelProto, manifest: Manifest) -> bytes:
    """Return the bytes of ``proto`` with ``manifest`` in it, the same ones for the same content."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.metadata_props[:]
    copy.metadata_props.extend(prop for prop in proto.metadata_props if prop.key != KEY)
    copy.metadata_props.add(key=KEY, value=manifest.to_json())
    return bytes(copy.SerializeToString(deterministic=True))


def adapted(manifest: Manifest, proto: onnx.ModelProto, config: QuantizeConfig) -> Manifest:
    """Return the manifest with the smaller file's dtypes and precision."""
    dtypes = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*proto.graph.input, *proto.graph.output)
    }
    return manifest._replace(
        inputs=tuple(spec._replace(dtype=dtypes[spec.name]) for spec in manifest.inputs),
        outputs=tuple(spec._replace(dtype=dtypes[spec.name]) for spec in manifest.outputs),
        states=tuple(spec._replace(dtype=dtypes[spec.input]) for spec in manifest.states),
        precision=config.precision,
    )


def signed(
    manifest: Manifest,
    before: Model,
    after: Model,
    judgement: Judgement,
    config: QuantizeConfig,
    words: str,
    case: Case,
) -> Manifest:
    """Return the manifest with the figures, and with a golden case of the float file's and its limits.

    Args:
        manifest: what ``adapted`` gave.
        before: the float file.
        after: the smaller file.
        judgement: the figures.
        config: whose budget was kept to.
        words: the arithmetic that was chosen.
        case: the golden case's inputs, or what to record one from.
    """
    golden = manifest.golden or _record(before, case)
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs} | {s.input: s.dtype for s in manifest.states}
    inputs = {name: array.astype(dtypes[name]) for name, array in golden.inputs.items()}
    largest = largest_differences(before, after, case, _steps(manifest, case))
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
        golden=golden._replace(inputs=inputs, limit=limits(largest, golden.outputs)),
    )


def _steps(manifest: Manifest, case: Case) -> int:
    """Return how many time steps a case has."""
    for spec in manifest.inputs:
        if spec.name in case.inputs and manifest.sequence in spec.axes:
            return int(case.inputs[spec.name].shape[spec.axes.index(manifest.sequence)])
    return 1


def _record(model: Model, case: Case) -> Golden:
    """Run the float file on ``case`` from the reset state, and keep what went in and came out."""
    outputs, state = model.run(case.inputs)
    inputs = dict(case.inputs)
    for spec in model.states:
        reset = np.asarray(spec.reset, spec.dtype)
        inputs[spec.input] = np.ascontiguousarray(np.broadcast_to(reset, state[spec.input].shape))
    manifest = model.manifest
    if manifest is not None:
        steps = _steps(manifest, case)
        inputs |= {
            given.name: np.array([steps], given.dtype)
            for given in manifest.inputs
            if given.name == manifest.lengths
        }
    found = {**outputs, **{spec.output: state[spec.input] for spec in model.states}}
    return Golden(inputs, found, dict.fromkeys(found, 0.0))
