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

_MEANING = ("task", "signal", "trained")
"""Fields that only the one who exported knows, if anyone does."""
_KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "boolean"}


def check_form(file: ModelFile) -> Iterator[Check]:
    """Check form, age, operators and names, without running the file."""
    refused = ""
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # noqa: BLE001  the checker raises several kinds
        refused = first_line(error)
    yield answered("onnx.checker", refused)
    yield answered("manifest and graph agree", file.broken)
    opsets = (each.version for each in file.proto.opset_import if each.domain in ("", "ai.onnx"))
    opset, version = max(opsets, default=0), file.proto.ir_version
    about = f"opset {opset}, IR version {version}"
    new = opset > OPSETS[-1] or version > LATEST_IR_VERSION
    wrong = f"{about}; expected at most {OPSETS[-1]} and {LATEST_IR_VERSION}" if new else ""
    yield answered(f"opset and IR version that onnxruntime {OLDEST_ONNXRUNTIME} reads", wrong, about)
    if file.model is None:
        return
    manifest = file.manifest
    fixed = [state.input for state in manifest.states if manifest.batch and manifest.batch not in state.axes]
    wrong = f"{', '.join(fixed)} has no batch axis {manifest.batch!r}" if fixed else ""
    if not manifest.batch and not manifest.sequence:
        wrong = "neither the batch nor the time axis has a name: every size is fixed"
    yield answered("no size baked in", wrong)
    yield _same("precision", manifest.precision, file.precision)
    yield _same("opset", manifest.provenance.get("opset", opset), opset)
    if manifest.int8_activations and not (file.operators & {"GRU", "RNN"} and file.precision == "int8"):
        yield Check("int8 activations", "failed", "no GRU or RNN layer has int8 weights")
    for name, axes in manifest.axes.items():
        kinds = [
            [each if isinstance(each, int) else "free" for each in side]
            for side in (axes, file.graph_axes[name])
        ]
        yield _same(f"axes of {name} in the graph", *kinds)
    names = list(file.graph_axes)
    for role, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        stated = [spec.name for spec in specs]
        yield _same(f"order of {role} in the graph", stated, [name for name in names if name in stated])


def check_manifest(mine: Manifest, expected: Expected) -> Iterator[Check]:
    """Compare the file's manifest with the expected one, field by field."""
    one, other = _fields(mine), _fields(expected.manifest)
    for name in {**other, **one}:
        known, wanted = (each.get(name, (None, "none")) for each in (one, other))
        if name in _MEANING and wanted[0] is None:
            continue
        about = f"the file has {known[1]}, expected {wanted[1]}; export again"
        yield answered(name, "" if known[0] == wanted[0] else about)
    for axis in sorted({*mine.ranges, *expected.manifest.ranges}):
        own, wider = (side.ranges.get(axis, AxisRange()) for side in (mine, expected.manifest))
        if expected.configured or not _is_narrower(own, wider):
            yield _same(f"range of {axis}", str(own), str(wider))


def unverified(mine: Manifest, expected: Expected) -> list[str]:
    """Return what the file states and the reference does not."""
    return [name for name in _MEANING if name in _fields(mine) and name not in _fields(expected.manifest)]


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


def _fields(manifest: Manifest) -> dict[str, tuple[Any, str]]:
    """Return what a manifest states, to compare and in words; axes by their roles, precision aside."""
    texts: dict[str, Any] = {
        "inputs": tuple(spec.name for spec in manifest.inputs),
        "outputs": tuple(spec.name for spec in manifest.outputs),
        "states": tuple(sorted(f"{each.input} -> {each.output}" for each in manifest.states)),
        "lengths": manifest.lengths,
        "counts of steps": tuple(sorted(manifest.counts)),
        "unit": manifest.unit,
        "delays": dict(manifest.delays),
    }
    for role, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        texts |= {f"{role} {spec.name}": _shape(spec, manifest) for spec in specs}
    texts |= {f"state {spec.input}": _shape(spec, manifest) for spec in manifest.states}
    texts |= {name: getattr(manifest, name) for name in _MEANING}
    found = {
        name: (value if name in _MEANING else _words(value), _words(value))
        for name, value in texts.items()
        if name not in _MEANING or value not in (None, Signal())
    }
    for state in manifest.states:
        values = np.asarray(state.reset, np.float64)
        distinct = np.unique(values)
        one = distinct.size == 1
        words = (
            f"{distinct[0]:g}" if one else f"{values.size} values from {distinct[0]:g} to {distinct[-1]:g}"
        )
        found[f"reset value of {state.input}"] = ((distinct if one else values).tolist(), words)
    return found


def _shape(spec: TensorSpec | StateSpec, manifest: Manifest) -> str:
    roles = {manifest.batch: "batch", manifest.sequence: "time"}
    axes: Axes = tuple(roles.get(axis, "free") if isinstance(axis, str) else axis for axis in spec.axes)
    return f"{_KINDS[np.dtype(spec.dtype).kind]} {describe(axes)}"


def _words(value: Any) -> str:
    if value is None or value in ((), [], {}):
        return "none"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return ", ".join(map(str, value))
    return str(value)


def _same(name: str, file: Any, expected: Any) -> Check:
    about = f"the file has {_words(file)}, expected {_words(expected)}; export again"
    return answered(name, "" if file == expected else about)


def _is_narrower(own: AxisRange, wider: AxisRange) -> bool:
    """Return True if every size of ``own`` is one of ``wider``: narrower ones may have been asked for."""
    below = wider.most is None or (own.most is not None and own.most <= wider.most)
    return below and own.least >= wider.least and own.multiple % wider.multiple == 0
