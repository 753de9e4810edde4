"""A manifest, checked against itself and against the graph that carries it."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from .axes import all_ones, describe, fits, parse_sum, row_factor
from .errors import ContractError, FileFormatError, ManifestError
from .manifest import Axes, Manifest, StateSpec, TensorSpec, channel_axis

_MOST_VALUES, _MOST_STEPS = 1 << 27, 1 << 20
"""Values of one stream's state, half a GB, and steps or frames of a unit: more would only fill the memory."""
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def graph_specs(args: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Return the specs of a session's inputs or outputs; an axis without a name becomes ``name.index``.

    Raises:
        ContractError: one is not a tensor of numbers.
        FileFormatError: a name is not UTF-8 text.
    """
    try:
        described = [(arg.name, arg.type, arg.shape) for arg in args]
    except UnicodeDecodeError as error:
        raise FileFormatError("the names in its graph are not UTF-8 text; export it again") from error
    for name, kind, _ in described:
        if kind not in _DTYPES:
            raise ContractError(f"{name} is {kind}, expected a tensor of numbers; export it as one")
    return tuple(TensorSpec(name, _DTYPES[kind], _name_axes(name, shape)) for name, kind, shape in described)


def _name_axes(name: str, shape: Sequence[int | str | None]) -> Axes:
    return tuple(
        axis if isinstance(axis, str) or (isinstance(axis, int) and axis >= 0) else f"{name}.{place}"
        for place, axis in enumerate(shape)
    )


def check_manifest(manifest: Manifest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check a manifest against the graph that carries it.

    Raises:
        ContractError: a declared tensor is missing or has another dtype or shape, or a graph input is not
            declared.
        ManifestError: as ``check_contract``.
    """
    entering, leaving = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    declared = [("input", spec, entering) for spec in manifest.inputs]
    declared += [("output", spec, leaving) for spec in manifest.outputs]
    for state in manifest.states:
        declared.append(("state input", TensorSpec(state.input, state.dtype, state.axes), entering))
        declared.append(("state output", TensorSpec(state.output, state.dtype, state.axes), leaving))
    for role, spec, actual in declared:
        found = actual.get(spec.name)
        if found is None:
            raise ContractError(
                f"{role} {spec.name!r} is not in the graph, which has {sorted(actual)}; export it again"
            )
        if found.dtype != spec.dtype or not fits(found.axes, spec.axes):
            raise ContractError(
                f"{role} {spec.name} is {found.dtype} {describe(found.axes)} in the graph, "
                f"expected {spec.dtype} {describe(spec.axes)}; export it again"
            )
    if missing := set(entering) - set(manifest.input_names):
        raise ContractError(f"inputs {sorted(missing)} are not in the manifest; export the model again")
    check_contract(manifest)


def check_contract(manifest: Manifest) -> None:
    """Check what a manifest says of itself.

    Raises:
        ManifestError: axes, ``lengths``, the unit, the task, counts or a state can't be meant, or a tensor is
            declared twice.
    """
    for problem in _problems(manifest):
        raise ManifestError(f"{problem}; export the model again")


def _problems(manifest: Manifest) -> Iterator[str]:
    named = [name for name in (manifest.batch, manifest.sequence) if name is not None]
    plain = all(parse_sum(name) == ({name: 1}, 0) and name for name in named)
    if not plain or len(set(named)) < len(named):
        yield f"the batch and time axes are {named}, expected two names"
    for tensor, axes in manifest.axes.items():
        if twice := [name for name in named if axes.count(name) > 1]:
            yield f"{tensor!r} {describe(axes)} has axis {twice[0]} twice, which no manifest describes"
    for names in (manifest.input_names, manifest.output_names):
        if len(set(names)) < len(names):
            yield f"one of {sorted(names)} is declared twice"
    yield from _problems_of_time(manifest)
    yield from _problems_of_outputs(manifest)
    for state in manifest.states:
        yield from _problems_of_state(state, manifest)


def _problems_of_time(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with unit, delays, rates and lengths."""
    if manifest.is_buffered and (manifest.sequence is None or manifest.lengths is not None):
        yield "the manifest has a delay or a unit, and no time axis, or lengths"
    steps = {"a unit": manifest.unit, **manifest.frames_a_unit}
    for name, count in steps.items():
        if not 0 < count <= _MOST_STEPS:
            yield f"{name!r} has {count} frames per unit"
    spec = manifest.lengths_input
    if manifest.lengths is None:
        return
    if spec is None:
        yield f"lengths is {manifest.lengths!r}, which is not an input"
    elif spec.dtype not in ("int32", "int64") or not (
        len(spec.axes) == 1 and (isinstance(spec.axes[0], int) or spec.axes[0] == manifest.batch)
    ):
        yield f"{spec.name} is {spec.dtype} {describe(spec.axes)}, expected int64 ({manifest.batch or 1},)"


def _problems_of_outputs(manifest: Manifest) -> Iterator[str]:
    axes, task = {spec.name: spec.axes for spec in manifest.outputs}, manifest.task
    named = {*manifest.counts, *manifest.delays, *((task.output,) if task else ())}
    if unknown := sorted(named - set(axes)):
        yield f"counts, delays or the task name {unknown}, which are not outputs"
    elif task and task.labels:
        own = axes[task.output]
        width = own[channel_axis(own)] if own else 1
        if isinstance(width, int) and len(task.labels) != width:
            yield f"got {len(task.labels)} labels for the {width} values of {task.output}"


def _problems_of_state(state: StateSpec, manifest: Manifest) -> Iterator[str]:
    name = f"state {state.input} {describe(state.axes)}"
    for axis in state.axes:
        follows = isinstance(axis, str) and parse_sum(axis) != ({axis: 1}, 0)
        if axis == manifest.sequence or (follows and row_factor(axis, manifest.batch) is None):
            yield f"{name} has axis {axis}, expected sizes and {manifest.batch or 'no names'}"
    if prod(axis for axis in state.axes if isinstance(axis, int)) > _MOST_VALUES:
        yield f"{name} is too large"
    reset, dtype = np.asarray(state.reset), np.dtype(state.dtype)
    if reset.ndim and reset.shape != all_ones(state.axes):
        yield f"{name} has a reset value of shape {reset.shape}"
    with np.errstate(over="ignore", invalid="ignore"):
        kept = reset.astype(dtype)
    held = (kept == reset).all() if dtype.kind in "iu" else np.isfinite(kept).all()
    if not held:
        yield f"{name} has a reset value beyond {state.dtype}"
