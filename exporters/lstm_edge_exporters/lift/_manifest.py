"""Writing the manifest of a lifted file."""

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import __version__, load
from lstm_edge_runtime.errors import FileFormatError
from lstm_edge_runtime.manifest import KEY, Manifest, TensorSpec

from ._axes import sizes_for, symbols
from ._contract import input_specs, output_axes
from ._ort import open_session, to_bytes
from ._proof import Proof, Subject, draw

__all__ = ["describe_outputs", "with_manifest", "write_manifest"]

_LONG = 40
"""Sizes that a window of a usual convolution fits in."""


def describe_outputs(subject: Subject, seed: int) -> tuple[TensorSpec, ...]:
    """Find the outputs' dtypes and axes by running the lifted file at two sets of sizes, and declare them."""
    graph = subject.lifted.graph
    session = open_session(to_bytes(subject.lifted), "the lifted file")
    rng, count = np.random.default_rng(seed), len(symbols(subject.base.graph))
    cases = tuple(sizes_for(subject.base.graph, first) for first in (_LONG, _LONG + count))
    runs = []
    for sizes in cases:
        trial = draw(subject, sizes, rng)
        try:
            runs.append(session.run({**trial.feeds, **trial.start}))
        except Exception as error:
            raise FileFormatError(
                f"the lifted file does not run at {trial}: {str(error).splitlines()[0]}"
            ) from error
    small, large = runs
    states = {state.output for state in subject.states}
    specs = []
    for value in graph.outputs:
        name = str(value.name)
        if name in states:
            continue
        axes = output_axes(name, small[name], large[name], (cases[0], cases[1]))
        value.shape = ir.Shape(axes)
        specs.append(TensorSpec(name, small[name].dtype.name, axes))
    return tuple(specs)


def write_manifest(
    subject: Subject, proto: onnx.ModelProto, outputs: tuple[TensorSpec, ...], proof: Proof
) -> Manifest:
    inputs = input_specs(subject.base.graph, subject.states)
    lengths = [
        spec.name
        for spec in inputs
        if spec.name in subject.lengths and spec.dtype == "int64" and spec.axes == (subject.names.batch,)
    ]
    opset = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    floats = {state.dtype for state in subject.states}
    return Manifest(
        inputs=inputs,
        outputs=outputs,
        states=subject.states,
        batch=subject.names.batch,
        sequence=subject.names.sequence,
        lengths=lengths[0] if lengths else None,
        unstreamable=proof.unstreamable,
        precision={"float16": "fp16", "float64": "fp64"}.get(min(floats), "fp32"),
        provenance={
            "opset": opset,
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "versions": {"lstm-edge": __version__, "onnx": onnx.__version__, "onnx-ir": ir.__version__},
        },
        equivalence=proof.figures(),
        golden=proof.golden,
    )


def with_manifest(proto: onnx.ModelProto, manifest: Manifest) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.metadata_props.add(key=KEY, value=manifest.to_json())
    content: bytes = copy.SerializeToString(deterministic=True)
    load(content, device="cpu")
    return content
