"""Compare a file's manifest with the expected one and with its graph."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx

from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import KEY, AxisRange, Manifest, Signal

from ..verify.check import Check, passed_unless
from ..verify.file import ModelFile
from ..versions import LATEST_IR_VERSION, LATEST_OPSET, OLDEST_ONNXRUNTIME
from .expected import Expected

_MEANING = ("task", "signal", "trained", "reset_every")
"""Fields that can't be derived from the module."""
_ELSEWHERE = {
    "precision",
    "arithmetic",
    "padded_states",
    "unstreamable",
}  # have checks of their own
_SHOWN = 100


def check_form(file: ModelFile) -> Iterator[Check]:
    """Check form, age, operators and names, without running the file."""
    refused = ""
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # noqa: BLE001  the checker raises several kinds
        refused = first_line(error)
    yield passed_unless("onnx.checker", refused)
    yield passed_unless("manifest and graph agree", file.broken)
    if file.model is not None:
        yield _check_fields(file)
    yield _check_age(file)
    if file.model is None:
        return
    manifest = file.manifest
    yield _same("precision", manifest.precision, file.precision)
    if manifest.lengths is None:
        yield _same("states stop at lengths", manifest.padded_states, True)
    opset = _opset(file)
    yield _same("opset", manifest.provenance.get("opset", opset), opset)
    yield _check_arithmetic(file)


def _check_fields(file: ModelFile) -> Check:
    """Check that the manifest has the fields that it is written with, and no others."""
    texts = [entry.value for entry in file.proto.metadata_props if entry.key == KEY]
    same = False
    if len(texts) == 1:
        (text,) = texts
        written = read_manifest(text).to_json()
        same = json.loads(text) == json.loads(written)
    wrong = (
        "the manifest has unknown fields, or derived ones that contradict the others;"
        " export again"
    )
    return passed_unless("fields of the manifest", "" if same else wrong)


def _opset(file: ModelFile) -> int:
    """Return the version of ONNX's own operators."""
    imports = file.proto.opset_import
    versions = [entry.version for entry in imports if entry.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def _check_age(file: ModelFile) -> Check:
    """Check that the oldest onnxruntime of the manual reads the file."""
    opset = _opset(file)
    version = file.proto.ir_version
    is_readable = opset <= LATEST_OPSET and version <= LATEST_IR_VERSION
    wrong = (
        f"opset {opset}, IR version {version}; expected at most {LATEST_OPSET} and"
        f" {LATEST_IR_VERSION}"
    )
    name = f"opset and IR version that onnxruntime {OLDEST_ONNXRUNTIME} reads"
    return passed_unless(name, "" if is_readable else wrong)


def _check_arithmetic(file: ModelFile) -> Check:
    """Check that the manifest states how engines compute."""
    stated = file.manifest.arithmetic
    computed = file.arithmetic
    is_stored = computed == "float32" and file.precision == "int8"
    if is_stored and file.operators & {"GRU", "RNN"}:
        allowed = ("float32", "int8-native")
        wrong = f"it is {stated}, expected {' or '.join(allowed)}"
        return passed_unless("arithmetic", "" if stated in allowed else wrong)
    return _same("arithmetic", stated, computed)


def check_manifest(file: ModelFile, expected: Expected) -> Iterator[Check]:
    """Compare the manifest with the expected one, field by field, and the graph's
    inputs and outputs.
    """
    manifest = file.manifest
    reference = expected.manifest
    recorded = _fields(manifest)
    expected_fields = _fields(reference)
    for name in {**expected_fields, **recorded}:
        if name in expected_fields or name not in _MEANING or expected.configured:
            yield _same(name, recorded.get(name), expected_fields.get(name))
    for axis in sorted({*manifest.ranges, *reference.ranges}):
        narrower = manifest.ranges.get(axis, AxisRange())
        wider = reference.ranges.get(axis, AxisRange())
        if expected.configured or not _is_narrower(narrower, wider):
            yield _same(f"range of {axis}", str(narrower), str(wider))
    for role in ("input", "output"):
        names = _differing(file.proto, expected.proto, role)
        wrong = ""
        if names:
            differing = ", ".join(names)
            wrong = f"{differing} of the graph are not the reference's; export again"
        yield passed_unless(f"{role}s of the graph", wrong)


def _differing(
    proto: onnx.ModelProto, expected: onnx.ModelProto, role: str
) -> list[str]:
    """Return the names of inputs or outputs that differ in two files."""
    contents = _contents(getattr(proto.graph, role))
    expected_contents = _contents(getattr(expected.graph, role))
    names = [
        name
        for name in {**expected_contents, **contents}
        if contents.get(name) != expected_contents.get(name)
    ]
    if not names and [*contents] != [*expected_contents]:
        return ["their order"]
    return names


def _contents(messages: Iterable[Any]) -> dict[str, bytes]:
    """Return inputs or outputs as bytes by name, without their comments."""
    contents = {}
    for message in messages:
        copied = type(message)()
        copied.CopyFrom(message)
        copied.doc_string = ""
        contents[message.name] = copied.SerializeToString(deterministic=True)
    return contents


def _fields(manifest: Manifest) -> dict[str, Any]:
    """Return the entries of a manifest, without ranges and fields that other checks
    compare.
    """
    no_meaning = (None, Signal())
    unknown = {name for name in _MEANING if getattr(manifest, name) in no_meaning}
    bare = manifest._replace(golden=None, provenance={}, equivalence={}, ranges={})
    stated: dict[str, Any] = json.loads(bare.to_json())
    entries = {name: stated.pop(name) for name in ("inputs", "outputs", "states")}
    for entry, state in zip(entries["states"], manifest.states, strict=True):
        entry["reset"] = np.asarray(state.reset).tolist()
    for side, tensors in entries.items():
        names = [entry.get("name", entry.get("input")) for entry in tensors]
        stated[f"order of {side}"] = names
        for name, entry in zip(names, tensors, strict=True):
            stated[f"{side[:-1]} {name}"] = entry
    hidden = {*_ELSEWHERE, *unknown}
    return {name: value for name, value in stated.items() if name not in hidden}


def _same(name: str, file: Any, expected: Any) -> Check:
    """Check that one entry of the manifest is as expected."""
    if file == expected:
        return passed_unless(name, "")
    path, value, expected_value = _first_difference(file, expected)
    where = f"{path.removeprefix('.')} is" if path else "the file has"
    about = f"{where} {_shown(value)}, expected {_shown(expected_value)}; export again"
    return passed_unless(name, about)


def _first_difference(file: Any, expected: Any) -> tuple[str, Any, Any]:
    """Return the first entry of two plain values that differs, by its path, and both."""
    if isinstance(file, dict) and isinstance(expected, dict):
        keys = list({**expected, **file})
        pairs = [(f".{key}", file.get(key), expected.get(key)) for key in keys]
    elif _are_lists_of_one_size(file, expected):
        names = [f"[{index}]" for index in range(len(file))]
        pairs = [*zip(names, file, expected, strict=True)]
    else:
        return "", file, expected
    name, *values = next(pair for pair in pairs if pair[1] != pair[2])
    inner, value, expected_value = _first_difference(*values)
    return name + inner, value, expected_value


def _are_lists_of_one_size(file: Any, expected: Any) -> bool:
    """Return True for two lists of equal length."""
    are_lists = isinstance(file, list) and isinstance(expected, list)
    return are_lists and len(file) == len(expected)


def _shown(value: Any) -> str:
    """Return a value as a short text."""
    return "none" if value in (None, [], {}) else str(value)[:_SHOWN]


def _is_narrower(sizes: AxisRange, wider: AxisRange) -> bool:
    """Return True if every size of ``sizes`` is one of ``wider``: narrower ones may
    have been asked for.
    """
    below = wider.most is None or (sizes.most is not None and sizes.most <= wider.most)
    return below and sizes.least >= wider.least and sizes.multiple % wider.multiple == 0
