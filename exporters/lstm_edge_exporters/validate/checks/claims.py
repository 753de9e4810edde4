"""What the file claims, beside what its reference has and what its graph shows."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Axes, AxisRange, Manifest, StateSpec, TensorSpec

from ...numerics.cases import case_size, closed_loop, misshapen
from ...numerics.graph64 import Constants, Graph64
from ...recurrent import OPERATORS
from ...versions import LATEST_IR_VERSION, MAKERS, OLDEST_ONNXRUNTIME, OPSETS, versions
from ..reference import ModelFile, ReferenceModel
from ..report import Check, Fact, answered
from ..subject import Subject

CHECKPOINT = "checkpoint"
"""The name of the fact that says which weights a file was made from."""


_LOOP_OFFSET, _SHAPES_OFFSET = 61, 63
"""Of the case that is called in a loop, and of those whose outputs' shapes are compared."""


_FREE = "free"


def compare_facts(file: ModelFile, reference: ReferenceModel | None) -> Iterator[Fact]:
    """Compare what can be compared without running the file."""
    if not file.has_manifest:
        return
    mine = file.manifest
    yield _fact("precision", mine.precision, file.precision)
    yield from _in_the_graph(file)
    stated = mine.provenance.get("opset")
    yield _fact("opset", file.content.opset if stated is None else stated, file.content.opset)
    if reference is None:
        return
    theirs = reference.manifest
    yield from _tensors("input", mine, theirs)
    yield from _tensors("output", mine, theirs)
    yield from _states(mine, theirs)
    yield _fact("lengths", mine.lengths, theirs.lengths)
    yield from _ranges(mine, theirs, asked=reference.asks_ranges)
    yield from _meaning(mine, theirs, reference)


def comparable(file: ModelFile, reference: ReferenceModel) -> bool:
    """Return whether the file can be fed what the reference is fed: names, and sizes of fixed axes."""
    mine, theirs = file.manifest.axes, reference.manifest.axes
    return set(mine) == set(theirs) and all(
        _match(mine[name], theirs[name], lambda one, other: str in (type(one), type(other)) or one == other)
        for name in theirs
    )


def interface_of(manifest: Manifest) -> str:
    """Return every input and output with its axes, in one line."""
    return ", ".join(f"{name} {describe(axes)}" for name, axes in sorted(manifest.axes.items()))


def _match(mine: Axes, theirs: Axes, fits: Callable[[int | str, int | str], bool]) -> bool:
    return len(mine) == len(theirs) and all(map(fits, mine, theirs))


def _fact(name: str, file: Any, reference: Any) -> Fact:
    return Fact(name, _words(file), _words(reference), same=_words(file) == _words(reference))


def _words(value: Any) -> str:
    if value is None or value == ():
        return ""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _in_the_graph(file: ModelFile) -> Iterator[Fact]:
    """Names must come in the graph's order, and the same axes must be fixed."""
    manifest, content = file.manifest, file.content.graph
    for role in ("inputs", "outputs"):
        stated = tuple(spec.name for spec in getattr(manifest, role))
        order = tuple(value.name for value in getattr(content, role) if value.name in stated)
        if order != stated:
            yield _fact(f"order of {role} in the graph", stated, order)
    layers = any(node.op_type in ("GRU", "RNN") for node in file.content.every_node())
    if manifest.int8_activations and not (layers and file.precision == "int8"):
        yield Fact("int8 activations", "allowed", "no GRU or RNN layer with int8 weights", same=False)
    graph = file.graph_axes
    for name, axes in manifest.axes.items():
        found = graph[name]
        if not _match(axes, found, lambda one, other: one == other or type(one) is type(other) is str):
            yield Fact(f"axes of {name} in the graph", describe(axes), describe(found), same=False)


def _tensors(role: str, mine: Manifest, theirs: Manifest) -> Iterator[Fact]:
    found, expected = ({spec.name: spec for spec in getattr(each, f"{role}s")} for each in (mine, theirs))
    yield _fact(f"{role}s", tuple(found), tuple(expected))
    for name in sorted(found.keys() & expected.keys()):
        yield _tensor_fact(f"{role} {name}", found[name], mine, expected[name], theirs)


def _tensor_fact(
    name: str, mine: TensorSpec | StateSpec, own: Manifest, theirs: TensorSpec | StateSpec, other: Manifest
) -> Fact:
    """Compare kind and axes by their roles: names are the file's own affair, precision is another fact.

    A file may have an axis free that its reference has fixed. An axis that has no role in the reference, as
    in a file without a manifest, fits any.
    """
    (one, found), (two, expected) = _kind_and_roles(mine, own), _kind_and_roles(theirs, other)

    def fits(axis: int | str, should: int | str) -> bool:
        return axis == should or (isinstance(axis, str) and (isinstance(should, int) or should == _FREE))

    same = one == two and _match(found, expected, fits)
    return Fact(name, f"{one} {describe(found)}", f"{two} {describe(expected)}", same=same)


def _kind_and_roles(spec: TensorSpec | StateSpec, manifest: Manifest) -> tuple[str, Axes]:
    kind = {"f": "float", "i": "integer", "u": "integer", "b": "boolean"}[np.dtype(spec.dtype).kind]
    roles = {manifest.batch: "batch", manifest.sequence: "time"}
    return kind, tuple(roles.get(axis, _FREE) if isinstance(axis, str) else axis for axis in spec.axes)


def _states(mine: Manifest, theirs: Manifest) -> Iterator[Fact]:
    found, expected = ({each.input: each for each in side.states} for side in (mine, theirs))
    ends = ({f"{each.input} -> {each.output}" for each in side.states} for side in (mine, theirs))
    yield _fact("states", *(tuple(sorted(each)) for each in ends))
    for name in sorted(found.keys() & expected.keys()):
        yield _tensor_fact(f"state {name}", found[name], mine, expected[name], theirs)
        one, other = (np.asarray(side[name].reset, np.float64) for side in (found, expected))
        yield Fact(f"reset value of {name}", _array(one), _array(other), same=bool(np.all(one == other)))


def _ranges(mine: Manifest, theirs: Manifest, *, asked: bool) -> Iterator[Fact]:
    """Compare the sizes that axes may have; narrower ones may have been asked for where nobody knows."""
    for axis in sorted({*mine.ranges, *theirs.ranges}):
        one, other = (side.ranges.get(axis, AxisRange()) for side in (mine, theirs))
        narrower = (
            one.least >= other.least
            and one.multiple % other.multiple == 0
            and (other.most is None or (one.most is not None and one.most <= other.most))
        )
        known = str(other) if asked or one == other or not narrower else None
        yield Fact(f"range of {axis}", str(one), known, same=known in (str(one), None))


def _array(values: Any) -> str:
    distinct = np.unique(values)
    if distinct.size == 1:
        return f"{distinct[0]:g}"
    return f"{values.size} values from {distinct[0]:g} to {distinct[-1]:g}, mean {values.mean():.6g}"


def _meaning(mine: Manifest, theirs: Manifest, reference: ReferenceModel) -> Iterator[Fact]:
    """What the numbers mean; only the one who exported the reference knows, if anyone does."""
    pairs = {name: (find(mine), find(theirs)) for name, find in _MEANING.items()}
    pairs[CHECKPOINT] = mine.provenance.get("checkpoint_sha256"), reference.sha256 or None
    for name, (file, known) in pairs.items():
        if known is not None:
            yield _fact(name, file, known)
        elif _words(file):
            yield Fact(name, _words(file), None)


_MEANING: dict[str, Callable[[Manifest], Any]] = {
    "task": lambda m: m.task and (m.task.kind, m.task.output),
    "labels": lambda m: m.task and m.task.labels,
    "units": lambda m: m.task and m.task.units,
    "features": lambda m: m.signal.features or None,
    "sampling rate": lambda m: m.signal.sampling_rate and float(m.signal.sampling_rate),
    "window": lambda m: m.signal.window,
    "trained": lambda m: m.trained and str(m.trained),
}
"""What a manifest says of its numbers; None where it says nothing."""
_OLDEST_EXTRA = frozenset(
    """DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulIntegerToFloat MatMulNBits QuantizeLinear
    DequantizeLinear FusedMatMul FusedGemm FusedConv Gelu FastGelu BiasGelu SkipLayerNormalization QLinearAdd
    QLinearMul QLinearSigmoid QGemm""".split()  # noqa: SIM905
)
"""Operators of com.microsoft that onnxruntime 1.18 has on the CPU."""
_NOT_PYTORCH = ("clip", "input_forget", "activation_alpha", "activation_beta")
"""Attributes of a recurrent node that no layer of PyTorch has."""
_PEEPHOLES = 7
"""The input of an LSTM node that no layer of PyTorch has."""


def check_file(file: ModelFile, facts: tuple[Fact, ...]) -> Iterator[Check]:
    """Check form, age, names, axes and what the file states, without running it."""
    refused = ""
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # noqa: BLE001 - the checker raises several kinds
        refused = first_line(error)
    yield answered("onnx.checker", refused)
    yield answered("manifest and graph agree", file.broken)
    opset, version = file.content.opset, file.content.ir_version
    about, new = f"opset {opset}, IR version {version}", opset > OPSETS[-1] or version > LATEST_IR_VERSION
    wrong = f"{about}; expected at most {OPSETS[-1]} and {LATEST_IR_VERSION}; export for a lower opset"
    name = f"opset and IR version that onnxruntime {OLDEST_ONNXRUNTIME} reads"
    yield answered(name, wrong if new else "", about)
    yield _operators(file)
    if file.model is None:
        return
    yield _free_axes(file)
    yield _made_of_pytorch(file)
    for fact in facts:
        if fact.reference is not None:
            yield answered(fact.name, "" if fact.same else str(fact))


def check_claims(subject: Subject) -> Iterator[Check]:
    """Check by running the reference: whether it can be streamed, padding, counts, and shapes."""
    if subject.file.has_manifest:
        yield from _behavior(subject, subject.file.manifest, subject.manifest)
    yield _shapes(subject)
    if subject.graph is not None:
        yield _weights(subject, subject.graph)


def _behavior(subject: Subject, mine: Manifest, theirs: Manifest) -> Iterator[Check]:
    def same(name: str, file: bool, reference: bool, why: str = "") -> Check:
        words = {True: "yes", False: "no"}
        about = f"the file says {words[file]}, the reference {words[reference]}{f': {why}' if why else ''}"
        return answered(name, "" if file == reference else about)

    if theirs.states and theirs.sequence is not None:
        directions = (
            node.attributes.get("direction", "forward") for node in subject.file.content.every_node()
        )
        # which chunks don't show while the units of a layer that reads backwards are switched off
        if mine.unstreamable and not subject.unstreamable and {*directions} - {"forward"}:
            about = "the file says no, as it reads time backwards; chunks were equal"
            yield Check("streamable", "passed", about)
        else:
            yield same("streamable", not mine.unstreamable, not subject.unstreamable, subject.unstreamable)
        if theirs.lengths is not None and not subject.unstreamable:
            yield same("states stop at lengths", mine.padded_states, subject.padded_states)
    if (mine.unit, dict(mine.delays)) != (theirs.unit, dict(theirs.delays)):
        stated, found = (f"a unit of {each.unit}, delays {dict(each.delays)}" for each in (mine, theirs))
        yield Check("unit and delays", "failed", f"the file has {stated}, the reference {found}")
    if {*mine.counts} != {*theirs.counts}:
        stated, found = (", ".join(sorted(each)) or "none" for each in (mine.counts, theirs.counts))
        yield Check("counts of steps", "failed", f"the file has {stated}, the reference {found}")
    if (
        theirs.states
        and not subject.reference.stateless
        and subject.reference.computation is not subject.graph
    ):
        # each from the states that it left, paired as each has it
        states, own = (
            closed_loop({state.input: state.output for state in manifest.states})
            for manifest in (mine, theirs)
        )
        feeds = subject.full(subject.draw(2, 3, _LOOP_OFFSET))
        yield subject.check("called again and again from its own states", feeds, states, own)


def _weights(subject: Subject, graph: Graph64) -> Check:
    """No constant is off in a few numbers, be it the reference's own or one that the translation computes.

    The latter are computed again where the versions are those of the export: others may round otherwise.
    """
    known = [*subject.reference.computation.tensors]
    made = subject.file.manifest.provenance.get("versions", {})
    if subject.function.constants and made == versions(*MAKERS) and (translated := subject.reference.graph()):
        known += translated.tensors
    wrong = "; ".join(Constants(graph, known).wrong())
    about = f"{wrong}, which no tensor of the reference holds" if wrong else ""
    return answered("weights are the reference's", about)


def _operators(file: ModelFile) -> Check:
    nodes = list(file.content.every_node())
    versions = {domain or "ai.onnx": version for domain, version in file.content.opsets.items()}
    own = {(function.domain, function.name) for function in file.content.functions}
    known = own | {("com.microsoft", op) for op in _OLDEST_EXTRA}
    unknown = {
        f"{domain or 'ai.onnx'}::{op}"
        for domain, op in {(node.domain, node.op_type) for node in nodes} - known
        if not onnx.defs.has(op, versions.get(domain or "ai.onnx", 0), domain)
    }
    kinds = sorted(Counter(node.op_type for node in nodes).items())
    return answered(
        f"operators that onnxruntime {OLDEST_ONNXRUNTIME} has",
        f"not known to be there: {', '.join(sorted(unknown))}" if unknown else "",
        ", ".join(f"{op} x{count}" for op, count in kinds),
    )


def _free_axes(file: ModelFile) -> Check:
    """The batch or the time axis must have a name, and every state the batch's."""
    manifest = file.manifest
    roles = ((manifest.batch, "batch"), (manifest.sequence, "time"))
    free = ", ".join(f"{axis} ({role})" for axis, role in roles if axis)
    fixed = [state.input for state in manifest.states if manifest.batch and manifest.batch not in state.axes]
    wrong = f"{', '.join(fixed)} has no batch axis {manifest.batch!r}" if fixed else ""
    none = "" if free else "neither the batch nor the time axis has a name: every size is fixed"
    return answered("no size baked in", none or wrong, f"free: {free}")


def _made_of_pytorch(file: ModelFile) -> Check:
    """A file that was exported from PyTorch computes nothing that PyTorch's layers do not have."""
    name = "recurrent nodes are PyTorch's"
    if "torch" not in file.manifest.provenance.get("versions", {}):
        return Check(name, "skipped", "the file does not say that it was exported from PyTorch")
    found = []
    for node in file.content.every_node():
        if node.op_type in OPERATORS:
            found += [f"{node.op_type} with {name}" for name in node.attributes if name in _NOT_PYTORCH]
            if node.op_type == "LSTM" and any(node.inputs[_PEEPHOLES:]):
                found.append("LSTM with peepholes")
    return answered(name, ", ".join(found))


def _shapes(subject: Subject) -> Check:
    """The axes that the file states for its outputs must be those that come out."""
    mine = subject.file.manifest

    def compare() -> Check:
        wrong: list[str] = []
        for place, (n, length) in enumerate(((3, 8), (2, 11))):
            feeds = subject.draw(n, length, _SHAPES_OFFSET + place)
            rows, steps = case_size(subject.manifest, feeds)
            got, _ = subject.run_both(subject.run, feeds)
            sizes = {name: size for name, size in ((mine.batch, rows), (mine.sequence, steps)) if name}
            wrong += (f"{each} at N={rows}, L={steps}" for each in misshapen(mine, got, sizes))
        return answered("shapes of outputs", "; ".join(wrong))

    return subject.ask("shapes of outputs", compare)
