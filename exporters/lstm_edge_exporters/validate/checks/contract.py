"""Contract: what the file promises, read off the file without running it."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from ...versions import IR_VERSIONS, OLDEST_ONNXRUNTIME, OPSETS
from .._file import ModelFile
from .._subject import Against
from ..report import Check

__all__ = ["TITLE", "check", "recurrent_layers"]

TITLE = "Contract"
_OLDEST_EXTRA = frozenset(
    {
        ("com.microsoft", op)
        for op in (
            "DynamicQuantizeLSTM",
            "DynamicQuantizeMatMul",
            "MatMulIntegerToFloat",
            "MatMulNBits",
            "QuantizeLinear",
            "DequantizeLinear",
            "FusedMatMul",
            "FusedGemm",
            "FusedConv",
            "Gelu",
            "FastGelu",
            "BiasGelu",
            "SkipLayerNormalization",
            "QLinearAdd",
            "QLinearMul",
            "QLinearSigmoid",
            "QGemm",
        )
    }
)
"""Operators beyond ONNX's own that onnxruntime 1.18 has on the CPU."""
_RECURRENT = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN", "DynamicQuantizeLSTM": "LSTM"}


def check(file: ModelFile, against: Against | None) -> Iterator[Check]:
    """Check form, names, axes, states, layers and age."""
    model = onnx.load(str(file.path), load_external_data=False)
    yield _checker(file)
    yield Check("state contract", "failed" if file.broken else "passed", file.broken)
    yield _age(model)
    yield _operators(model)
    if file.model is None:
        return
    yield _free_axes(file)
    yield _resets(file)
    if against is not None:
        yield _names(file, against)
        yield _layers(model, against)


def recurrent_layers(model: onnx.ModelProto) -> Counter[str]:
    """Count the recurrent nodes by kind, those of inner graphs and functions included."""
    return Counter(_RECURRENT[node.op_type] for node in _nodes(model) if node.op_type in _RECURRENT)


def _checker(file: ModelFile) -> Check:
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # noqa: BLE001 - the checker raises several kinds
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Check("onnx.checker", "failed", lines[0] if lines else type(error).__name__)
    return Check("onnx.checker", "passed")


def _age(model: onnx.ModelProto) -> Check:
    name = f"opset and IR version that onnxruntime {OLDEST_ONNXRUNTIME} reads"
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    about = f"opset {opset}, IR version {model.ir_version}"
    if opset > OPSETS[-1] or model.ir_version > IR_VERSIONS[-1]:
        wanted = f"expected at most {OPSETS[-1]} and {IR_VERSIONS[-1]}; export for a lower opset"
        return Check(name, "failed", f"{about}; {wanted}")
    return Check(name, "passed", about)


def _operators(model: onnx.ModelProto) -> Check:
    name = f"operators that onnxruntime {OLDEST_ONNXRUNTIME} has"
    versions = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    own = {(function.domain, function.name) for function in model.functions}
    unknown = set()
    for node in _nodes(model):
        domain = node.domain or "ai.onnx"
        if (node.domain, node.op_type) in own | _OLDEST_EXTRA:
            continue
        try:
            onnx.defs.get_schema(node.op_type, versions.get(domain, 0), node.domain)
        except onnx.defs.SchemaError:
            unknown.add(f"{domain}::{node.op_type}")
    if unknown:
        return Check(name, "failed", f"not known to be there: {', '.join(sorted(unknown))}")
    kinds = Counter(node.op_type for node in _nodes(model))
    return Check(name, "passed", ", ".join(f"{op} x{count}" for op, count in sorted(kinds.items())))


def _free_axes(file: ModelFile) -> Check:
    """The batch or the time axis must have a name, and every state the batch's."""
    contract = file.contract
    name = "no size baked in"
    if contract.sequence is None and contract.batch is None:
        return Check(name, "failed", "neither the batch nor the time axis has a name: every size is fixed")
    fixed = [state.input for state in contract.states if contract.batch and contract.batch not in state.axes]
    if fixed:
        return Check(name, "failed", f"{', '.join(fixed)} has no batch axis {contract.batch!r}")
    free = [
        f"{axis} ({role})" for axis, role in ((contract.batch, "batch"), (contract.sequence, "time")) if axis
    ]
    return Check(name, "passed", f"free: {', '.join(free)}")


def _resets(file: ModelFile) -> Check:
    name = "reset values"
    states = file.contract.states
    if not states:
        return Check(name, "skipped", "the file carries no states")
    wrong = [state.input for state in states if not np.isfinite(state.reset).all()]
    about = ", ".join(f"{state.input} -> {state.output}" for state in states)
    return Check(name, "failed" if wrong else "passed", f"not finite: {', '.join(wrong)}" if wrong else about)


def _names(file: ModelFile, against: Against) -> Check:
    contract = file.contract
    entering = {spec.name for spec in contract.inputs} | {state.input for state in contract.states}
    leaving = {spec.name for spec in contract.outputs} | {state.output for state in contract.states}
    wrong = [
        _difference(role, found, set(expected))
        for role, found, expected in (
            ("inputs", entering, against.inputs),
            ("outputs", leaving, against.outputs),
        )
        if found != set(expected)
    ]
    return Check("inputs and outputs are the reference's", "failed" if wrong else "passed", "; ".join(wrong))


def _difference(role: str, found: set[str], expected: set[str]) -> str:
    return f"the file's {role} are {sorted(found)}, the reference's {sorted(expected)}"


def _layers(model: onnx.ModelProto, against: Against) -> Check:
    found = recurrent_layers(model)
    missing = {kind: count for kind, count in against.layers.items() if found[kind] < count}
    about = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())) or "none"
    name = "every recurrent layer is a recurrent node"
    if missing:
        wanted = ", ".join(f"{count} {kind}" for kind, count in sorted(against.layers.items()))
        return Check(name, "failed", f"the file has {about}, the reference {wanted}")
    return Check(name, "passed", about)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    waiting: list[Sequence[onnx.NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in (attribute.g, *attribute.graphs) if graph.node]
