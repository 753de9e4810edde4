"""What a file says of itself, compared with what it should say and with its graph."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Axes, AxisRange, Manifest, Signal, StateSpec, TensorSpec

from ..versions import LATEST_IR_VERSION, OLDEST_ONNXRUNTIME, OPSETS
from .expected import Expected
from .file import ModelFile
from .report import Check, answered

_OLDEST_EXTRA = frozenset(
    """DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulIntegerToFloat MatMulNBits QuantizeLinear
    DequantizeLinear FusedMatMul FusedGemm FusedConv Gelu FastGelu BiasGelu SkipLayerNormalization QLinearAdd
    QLinearMul QLinearSigmoid QGemm""".split()  # noqa: SIM905
)
"""Operators of com.microsoft that onnxruntime 1.18 has on the CPU."""
_MEANING = ("task", "signal", "trained")
"""Fields that only the one who exported knows, if anyone does."""


def check_form(file: ModelFile) -> Iterator[Check]:
    """Check form, age, operators and names, without running the file."""
    refused = ""
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # noqa: BLE001  the checker raises several kinds
        refused = first_line(error)
    yield answered("onnx.checker", refused)
    yield answered("manifest and graph agree", file.broken)
    opset, version = file.content.opset, file.content.ir_version
    about = f"opset {opset}, IR version {version}"
    new = opset > OPSETS[-1] or version > LATEST_IR_VERSION
    wrong = f"{about}; expected at most {OPSETS[-1]} and {LATEST_IR_VERSION}" if new else ""
    yield answered(f"opset and IR version that onnxruntime {OLDEST_ONNXRUNTIME} reads", wrong, about)
    yield _operators(file)
    if file.model is None:
        return
    yield _free_axes(file)
    if not file.has_manifest:
        return
    mine = file.manifest
    yield _same("precision", mine.precision, file.precision)
    yield _same("opset", mine.provenance.get("opset", opset), opset)
    layers = any(node.op_type in ("GRU", "RNN") for node in file.content.every_node())
    if mine.int8_activations and not (layers and file.precision == "int8"):
        yield Check("int8 activations", "failed", "no GRU or RNN layer has int8 weights")
    yield from _in_the_graph(file)


def check_manifest(mine: Manifest, expected: Expected) -> Iterator[Check]:
    """Compare the file's manifest with the expected one, field by field."""
    theirs = expected.manifest
    for role in ("inputs", "outputs"):
        yield from _tensors(role, mine, theirs)
    yield from _states(mine, theirs)
    yield _same("lengths", mine.lengths, theirs.lengths)
    yield _same("counts of steps", sorted(mine.counts), sorted(theirs.counts))
    yield _same("unit", mine.unit, theirs.unit)
    yield _same("delays", dict(mine.delays), dict(theirs.delays))
    yield from _ranges(mine, theirs, configured=expected.configured)
    for name in _MEANING:
        if _is_stated(getattr(theirs, name)):
            yield _same(name, getattr(mine, name), getattr(theirs, name))


def unverified(mine: Manifest, expected: Expected) -> list[str]:
    """Return what the file states and the reference does not."""
    return [
        name
        for name in _MEANING
        if _is_stated(getattr(mine, name)) and not _is_stated(getattr(expected.manifest, name))
    ]


def _is_stated(value: object) -> bool:
    return value is not None and value != Signal()


def comparable(mine: Manifest, theirs: Manifest) -> bool:
    """Return True if a file can be fed what another is fed: names, and sizes of fixed axes."""
    return set(mine.axes) == set(theirs.axes) and all(
        len(mine.axes[name]) == len(axes)
        and all(
            isinstance(one, str) or isinstance(other, str) or one == other
            for one, other in zip(mine.axes[name], axes, strict=True)
        )
        for name, axes in theirs.axes.items()
    )


def interface_of(manifest: Manifest) -> str:
    """Return every input and output with its axes, in one line."""
    return ", ".join(f"{name} {describe(axes)}" for name, axes in sorted(manifest.axes.items()))


def _same(name: str, file: Any, expected: Any) -> Check:
    same = file == expected or _words(file) == _words(expected)  # 10 and 10.0 are one sampling rate
    about = f"the file has {_words(file)}, expected {_words(expected)}; export again"
    return answered(name, "" if same else about)


def _words(value: Any) -> str:
    if value is None or value == () or value == [] or value == {}:
        return "none"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return ", ".join(map(str, value))
    return str(value)


def _in_the_graph(file: ModelFile) -> Iterator[Check]:
    """Names must come in the graph's order, and the same axes must be fixed."""
    manifest, content = file.manifest, file.content.graph
    for role in ("inputs", "outputs"):
        stated = tuple(spec.name for spec in getattr(manifest, role))
        order = tuple(value.name for value in getattr(content, role) if value.name in stated)
        if order != stated:
            yield _same(f"order of {role} in the graph", stated, order)
    graph = file.graph_axes
    for name, axes in manifest.axes.items():
        found = graph[name]
        fits = len(axes) == len(found) and all(
            one == other or type(one) is type(other) is str for one, other in zip(axes, found, strict=True)
        )
        if not fits:
            yield _same(f"axes of {name} in the graph", describe(axes), describe(found))


def _tensors(role: str, mine: Manifest, theirs: Manifest) -> Iterator[Check]:
    found, expected = ({spec.name: spec for spec in getattr(each, role)} for each in (mine, theirs))
    yield _same(role, tuple(found), tuple(expected))
    for name in sorted(found.keys() & expected.keys()):
        yield _spec(f"{role.removesuffix('s')} {name}", found[name], mine, expected[name], theirs)


def _spec(
    name: str, mine: TensorSpec | StateSpec, own: Manifest, theirs: TensorSpec | StateSpec, other: Manifest
) -> Check:
    """Compare kind and axes by their roles: names are the file's own affair, precision is another field."""
    one, two = ((*_kind(spec), _roles(spec.axes, each)) for spec, each in ((mine, own), (theirs, other)))
    return _same(name, f"{one[0]} {describe(one[1])}", f"{two[0]} {describe(two[1])}")


def _kind(spec: TensorSpec | StateSpec) -> tuple[str]:
    return ({"f": "float", "i": "integer", "u": "integer", "b": "boolean"}[np.dtype(spec.dtype).kind],)


def _roles(axes: Axes, manifest: Manifest) -> Axes:
    roles = {manifest.batch: "batch", manifest.sequence: "time"}
    return tuple(roles.get(axis, "free") if isinstance(axis, str) else axis for axis in axes)


def _states(mine: Manifest, theirs: Manifest) -> Iterator[Check]:
    found, expected = ({each.input: each for each in side.states} for side in (mine, theirs))
    ends = (sorted(f"{each.input} -> {each.output}" for each in side.states) for side in (mine, theirs))
    yield _same("states", *ends)
    for name in sorted(found.keys() & expected.keys()):
        yield _spec(f"state {name}", found[name], mine, expected[name], theirs)
        one, other = (np.asarray(side[name].reset, np.float64) for side in (found, expected))
        same = np.array_equal(np.broadcast_arrays(one, other)[0], np.broadcast_arrays(one, other)[1])
        about = f"the file has {_numbers(one)}, expected {_numbers(other)}; export again"
        yield answered(f"reset value of {name}", "" if same else about)


def _numbers(values: Any) -> str:
    distinct = np.unique(values)
    if distinct.size == 1:
        return f"{distinct[0]:g}"
    return f"{values.size} values from {distinct[0]:g} to {distinct[-1]:g}"


def _ranges(mine: Manifest, theirs: Manifest, *, configured: bool) -> Iterator[Check]:
    """Compare the sizes that axes may have; narrower ones may have been asked for if nobody knows."""
    for axis in sorted({*mine.ranges, *theirs.ranges}):
        one, other = (side.ranges.get(axis, AxisRange()) for side in (mine, theirs))
        narrower = (
            one.least >= other.least
            and one.multiple % other.multiple == 0
            and (other.most is None or (one.most is not None and one.most <= other.most))
        )
        if configured or not narrower:
            yield _same(f"range of {axis}", str(one), str(other))


def _operators(file: ModelFile) -> Check:
    versions = {domain or "ai.onnx": version for domain, version in file.content.opsets.items()}
    known = {*file.content.functions} | {("com.microsoft", op) for op in _OLDEST_EXTRA}
    unknown = {
        f"{domain or 'ai.onnx'}::{op}"
        for domain, op in {(node.domain, node.op_type) for node in file.content.every_node()} - known
        if not onnx.defs.has(op, versions.get(domain or "ai.onnx", 0), domain)
    }
    wrong = f"not known to be there: {', '.join(sorted(unknown))}" if unknown else ""
    return answered(f"operators that onnxruntime {OLDEST_ONNXRUNTIME} has", wrong)


def _free_axes(file: ModelFile) -> Check:
    """The batch or the time axis must have a name, and every state the batch's."""
    manifest = file.manifest
    free = ", ".join(axis for axis in (manifest.batch, manifest.sequence) if axis)
    fixed = [state.input for state in manifest.states if manifest.batch and manifest.batch not in state.axes]
    wrong = f"{', '.join(fixed)} has no batch axis {manifest.batch!r}" if fixed else ""
    none = "" if free else "neither the batch nor the time axis has a name: every size is fixed"
    return answered("no size baked in", none or wrong)
