"""What a file says of itself, compared with what it should say and with its graph."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import KEY, AxisRange, Manifest, Signal

from ..versions import LATEST_IR_VERSION, OLDEST_ONNXRUNTIME, OPSETS
from .expected import Expected
from .file import ModelFile
from .report import Check, answered

_MEANING = ("task", "signal", "trained")
"""Fields that only the one who exported knows, if anyone does."""
_ELSEWHERE = {
    "golden",
    "equivalence",
    "identity",
    "precision",
    "int8_activations",
    "padded_states",
    "unstreamable",
}
"""Fields that have checks of their own, or that nothing reads."""
_SHOWN = 100
"""Characters of a value that a message shows."""


def check_form(file: ModelFile) -> Iterator[Check]:
    """Check form, age, operators and names, without running the file."""
    refused = ""
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # noqa: BLE001  the checker raises several kinds
        refused = first_line(error)
    yield answered("onnx.checker", refused)
    yield answered("manifest and graph agree", file.broken)
    texts = [each.value for each in file.proto.metadata_props if each.key == KEY]
    if file.model is not None:
        again = Manifest.from_json(texts[0]).to_json()
        wrong = "the manifest has unknown fields, or derived ones that contradict the others; export again"
        yield answered("fields of the manifest", "" if texts == [again] else wrong)
    opsets = (each.version for each in file.proto.opset_import if each.domain in ("", "ai.onnx"))
    opset, version = max(opsets, default=0), file.proto.ir_version
    about = f"opset {opset}, IR version {version}"
    new = opset > OPSETS[-1] or version > LATEST_IR_VERSION
    wrong = f"{about}; expected at most {OPSETS[-1]} and {LATEST_IR_VERSION}" if new else ""
    yield answered(f"opset and IR version that onnxruntime {OLDEST_ONNXRUNTIME} reads", wrong, about)
    if file.model is None:
        return
    manifest = file.manifest
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
        if name in other or name not in _MEANING:
            yield _same(name, one.get(name), other.get(name))
    for axis in sorted({*mine.ranges, *expected.manifest.ranges}):
        own, wider = (side.ranges.get(axis, AxisRange()) for side in (mine, expected.manifest))
        if expected.configured or not _is_narrower(own, wider):
            yield _same(f"range of {axis}", str(own), str(wider))


def differing(mine: onnx.ModelProto, theirs: onnx.ModelProto, role: str) -> list[str]:
    """Return the names of constants (``initializer``), nodes, inputs or outputs that differ in two files."""
    one, other = (_contents(getattr(each.graph, role)) for each in (mine, theirs))
    return [name for name in {**other, **one} if one.get(name) != other.get(name)]


def _contents(parts: Iterable[Any]) -> dict[str, bytes]:
    found = {}
    for place, part in enumerate(parts):
        own = type(part)()
        own.CopyFrom(part)
        own.doc_string = ""
        found[part.name or f"{place}"] = own.SerializeToString(deterministic=True)
    return found


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


def _fields(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest states, entry by entry; ranges and what others check aside."""
    unknown = {name for name in _MEANING if getattr(manifest, name) in (None, Signal())}
    bare = manifest._replace(golden=None, provenance={}, equivalence={}, ranges={})
    stated: dict[str, Any] = json.loads(bare.to_json())
    entries = {name: stated.pop(name) for name in ("inputs", "outputs", "states")}
    fields = {
        f"order of {side}": [each.get("name", each.get("input")) for each in part]
        for side, part in entries.items()
    }
    fields |= {
        f"{side[:-1]} {each.get('name', each.get('input'))}": each
        for side, part in entries.items()
        for each in part
    }
    return {name: value for name, value in (stated | fields).items() if name not in {*_ELSEWHERE, *unknown}}


def _same(name: str, file: Any, expected: Any) -> Check:
    shown = [("none" if each in (None, [], {}) else str(each))[:_SHOWN] for each in (file, expected)]
    about = f"the file has {shown[0]}, expected {shown[1]}; export again"
    return answered(name, "" if file == expected else about)


def _is_narrower(own: AxisRange, wider: AxisRange) -> bool:
    """Return True if every size of ``own`` is one of ``wider``: narrower ones may have been asked for."""
    below = wider.most is None or (own.most is not None and own.most <= wider.most)
    return below and own.least >= wider.least and own.multiple % wider.multiple == 0
