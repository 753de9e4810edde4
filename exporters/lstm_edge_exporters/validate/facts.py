"""The facts of a manifest, as the file states them and as its reference and its graph have them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.manifest import Axes, Manifest, StateSpec, TensorSpec

from .file import ModelFile
from .reference import ReferenceModel
from .report import Fact

__all__ = ["CHECKPOINT", "comparable", "compare_facts", "interface_of"]


CHECKPOINT = "checkpoint"
"""The name of the fact that says which weights a file was made from."""


_FREE = "free"


def compare_facts(file: ModelFile, reference: ReferenceModel | None) -> Iterator[Fact]:
    """Compare what can be compared without running the file."""
    if not file.has_manifest:
        return
    mine = file.manifest
    yield _fact("precision", mine.precision, file.precision)
    yield from _in_the_graph(file)
    stated = mine.provenance.get("opset")
    yield _fact("opset", file.opset if stated is None else stated, file.opset)
    if reference is None:
        return
    theirs = reference.manifest
    yield from _tensors("input", mine, mine.inputs, theirs, theirs.inputs)
    yield from _tensors("output", mine, mine.outputs, theirs, theirs.outputs)
    yield from _states(mine, theirs)
    yield _fact("lengths", mine.lengths, theirs.lengths)
    yield from _meaning(mine, theirs, reference)


def comparable(file: ModelFile, reference: ReferenceModel) -> bool:
    """Tell whether the file can be fed what the reference is fed: names, and sizes of fixed axes."""
    mine, theirs = _every_tensor(file.manifest), _every_tensor(reference.manifest)
    return set(mine) == set(theirs) and all(_fits(mine[name], theirs[name]) for name in theirs)


def interface_of(manifest: Manifest) -> str:
    """Return every input and output with its axes, in one line."""
    return ", ".join(f"{name} {describe(axes)}" for name, axes in sorted(_every_tensor(manifest).items()))


def _fits(mine: Axes, theirs: Axes) -> bool:
    return len(mine) == len(theirs) and all(
        one == other
        for one, other in zip(mine, theirs, strict=True)
        if isinstance(one, int) and isinstance(other, int)
    )


def _every_tensor(manifest: Manifest) -> dict[str, Axes]:
    specs = {spec.name: spec.axes for spec in (*manifest.inputs, *manifest.outputs)}
    for state in manifest.states:
        specs |= {state.input: state.axes, state.output: state.axes}
    return specs


def _fact(name: str, file: Any, reference: Any) -> Fact:
    return Fact(name, _words(file), _words(reference), same=_words(file) == _words(reference))


def _words(value: Any) -> str:
    if value is None or value == ():
        return ""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _in_the_graph(file: ModelFile) -> Iterator[Fact]:
    """The manifest may leave no axis fixed that the graph has free, nor the other way round."""
    graph = file.graph_axes
    for name, axes in _every_tensor(file.manifest).items():
        found = graph[name]
        same = len(found) == len(axes) and all(
            isinstance(one, int) == isinstance(other, int) and (isinstance(one, str) or one == other)
            for one, other in zip(axes, found, strict=True)
        )
        if not same:
            yield Fact(f"axes of {name} in the graph", describe(axes), describe(found), same=False)


def _tensors(
    role: str, mine: Manifest, specs: tuple[TensorSpec, ...], theirs: Manifest, others: tuple[TensorSpec, ...]
) -> Iterator[Fact]:
    found, expected = {spec.name: spec for spec in specs}, {spec.name: spec for spec in others}
    yield _fact(f"{role}s", tuple(sorted(found)), tuple(sorted(expected)))
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
    same = (
        one == two
        and len(found) == len(expected)
        and all(
            axis == should or (isinstance(axis, str) and (isinstance(should, int) or should == _FREE))
            for axis, should in zip(found, expected, strict=True)
        )
    )
    return Fact(name, f"{one} {describe(found)}", f"{two} {describe(expected)}", same=same)


def _kind_and_roles(spec: TensorSpec | StateSpec, manifest: Manifest) -> tuple[str, Axes]:
    kind = {"f": "float", "i": "integer", "u": "integer", "b": "boolean"}[np.dtype(spec.dtype).kind]
    roles = {manifest.batch: "batch", manifest.sequence: "time"}
    return kind, tuple(roles.get(axis, _FREE) if isinstance(axis, str) else axis for axis in spec.axes)


def _states(mine: Manifest, theirs: Manifest) -> Iterator[Fact]:
    pairs: list[Mapping[str, StateSpec]] = [
        {each.input: each for each in side.states} for side in (mine, theirs)
    ]
    found, expected = pairs
    yield _fact(
        "states",
        *(tuple(f"{each.input} -> {each.output}" for _, each in sorted(side.items())) for side in pairs),
    )
    for name in sorted(found.keys() & expected.keys()):
        yield _tensor_fact(f"state {name}", found[name], mine, expected[name], theirs)
        one, other = (np.asarray(side[name].reset, np.float64) for side in pairs)
        same = bool(np.all(one == other))
        yield Fact(f"reset value of {name}", _array(one), _array(other), same=same)


def _array(values: Any) -> str:
    distinct = np.unique(values)
    if distinct.size == 1:
        return f"{distinct[0]:g}"
    return f"{values.size} values from {distinct[0]:g} to {distinct[-1]:g}, mean {values.mean():.6g}"


def _meaning(mine: Manifest, theirs: Manifest, reference: ReferenceModel) -> Iterator[Fact]:
    """What the numbers mean; only the one who exported the reference knows, if anyone does."""
    for name, file, known, stated in (
        (
            "task",
            mine.task and (mine.task.kind, mine.task.output),
            theirs.task and (theirs.task.kind, theirs.task.output),
            theirs.task,
        ),
        ("labels", mine.task and mine.task.labels, theirs.task and theirs.task.labels, theirs.task),
        ("units", mine.task and mine.task.units, theirs.task and theirs.task.units, theirs.task),
        ("features", mine.signal.features, theirs.signal.features, theirs.signal.features),
        (
            "sampling rate",
            mine.signal.sampling_rate,
            theirs.signal.sampling_rate,
            theirs.signal.sampling_rate,
        ),
        ("window", mine.signal.window, theirs.signal.window, theirs.signal.window),
        ("checkpoint", mine.provenance.get("checkpoint_sha256"), reference.sha256 or None, reference.sha256),
    ):
        if name == CHECKPOINT and file is None:
            continue
        if stated is not None and stated not in ("", ()):
            yield _fact(name, file, known)
        elif file is not None and file != ():
            yield Fact(name, _words(file), None)
