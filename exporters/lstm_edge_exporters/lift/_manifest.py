"""Writing the manifest of a lifted file."""

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import __version__, load
from lstm_edge_runtime.errors import FileFormatError, first_line
from lstm_edge_runtime.manifest import KEY, Manifest, TensorSpec

from ._axes import symbols
from ._contract import input_specs, output_axes
from ._guard import open_guarded
from .evaluate import evaluate
from .verification import Proof, Subject, draw

__all__ = ["declare_outputs", "describe_outputs", "with_manifest", "write_manifest"]

_LONG = 40
"""Sizes that a window of a usual convolution fits in."""
_APART = 7


def declare_outputs(model: ir.Model) -> None:
    """Declare the outputs' axes as running the graph tells them, in place; what it does not run stays."""
    cases = _cases(model.graph)
    try:
        small, large = evaluate(model, list(model.graph.outputs), cases)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return
    for value in model.graph.outputs:
        if small[value].ndim == large[value].ndim:
            value.shape = ir.Shape(output_axes(str(value.name), small[value], large[value], cases))


def _cases(graph: ir.Graph) -> tuple[dict[str, int], dict[str, int]]:
    """Return two sets of sizes that differ by other amounts for every axis, so ``L - 1`` is no ``N``."""
    names = symbols(graph)
    small = {name: _LONG + _APART * place for place, name in enumerate(names)}
    return small, {
        name: size + _APART * len(names) + place for place, (name, size) in enumerate(small.items())
    }


def describe_outputs(subject: Subject, seed: int) -> tuple[TensorSpec, ...]:
    """Find the outputs' dtypes and axes by running the lifted file at two sets of sizes, and declare them."""
    graph = subject.lifted.graph
    session = open_guarded(subject.lifted, "the lifted file")
    rng, cases = np.random.default_rng(seed), _cases(subject.base.graph)
    runs = []
    for sizes in cases:
        trial = draw(subject, sizes, rng)
        try:
            runs.append(session.run({**trial.feeds, **trial.start}))
        except Exception as error:
            raise FileFormatError(
                f"the file does not run at {trial}: {first_line(error)}; "
                "if it runs at certain sizes only, give them with --input NAME=AXES"
            ) from error
    small, large = runs
    states = {state.output for state in subject.states}
    specs = []
    for value in graph.outputs:
        name = str(value.name)
        if name in states:
            continue
        axes = output_axes(name, small[name], large[name], cases)
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
        if spec.name in subject.lengths
        and spec.dtype in ("int32", "int64")
        and spec.axes == (subject.names.batch,)
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
