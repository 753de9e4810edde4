"""A session's manifest: read and checked against the graph."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from .axes import all_ones, describe, fits, parse_sum, row_factor
from .errors import ContractError, FileFormatError, ManifestError
from .manifest import Axes, Manifest, StateSpec, Task, TensorSpec, channel_axis

_MOST_VALUES = 1 << 27
"""Values of one stream's state, half a GB; a manifest with more would only fill the memory."""
_MOST_STEPS = 1 << 20
"""Steps of a unit, which every source keeps; frames of a unit."""
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
        ContractError: a declared tensor is missing or has another dtype or shape, a graph input is not
            declared, or as ``check_contract``.
        ManifestError: as ``check_contract``.
    """
    entering, leaving = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    for spec in manifest.inputs:
        _check_tensor("input", spec, entering)
    for spec in manifest.outputs:
        _check_tensor("output", spec, leaving)
    for state in manifest.states:
        _check_tensor("state input", TensorSpec(state.input, state.dtype, state.axes), entering)
        _check_tensor("state output", TensorSpec(state.output, state.dtype, state.axes), leaving)
    check_contract(manifest)
    if missing := set(entering) - set(manifest.input_names):
        raise ContractError(f"inputs {sorted(missing)} are not in the manifest; export the model again")


def check_contract(manifest: Manifest) -> None:
    """Check what a manifest says of itself, whatever it is the manifest of.

    Raises:
        ContractError: a state is larger than any is.
        ManifestError: the batch and time axes, ``lengths``, the task, counts, a reset value or a state's axes
            can't be meant, or a tensor is declared twice.
    """
    _check_axis_names(manifest)
    _check_unit(manifest)
    for state in manifest.states:
        _check_state_axes(state, manifest)
        _check_reset(state)
        if prod(axis for axis in state.axes if isinstance(axis, int)) > _MOST_VALUES:
            raise ContractError(
                f"the state {state.input!r} is ({', '.join(map(str, state.axes))}), which is too large; "
                "export the model again"
            )
    _check_lengths(manifest)
    _check_task(manifest.task, manifest.outputs)
    if unknown := sorted({*manifest.counts} - {spec.name for spec in manifest.outputs}):
        raise ManifestError(f"counts of steps are {unknown}, which are no outputs; export the model again")
    for names in (manifest.input_names, manifest.output_names):
        if len(set(names)) < len(names):
            raise ManifestError(f"one of {sorted(names)} is declared twice; export the model again")


def _check_unit(manifest: Manifest) -> None:
    """Raise ``ManifestError`` for a unit, delays or rates that no stream has."""
    outputs = {spec.name for spec in manifest.outputs}
    if not set(manifest.delays) <= outputs or (manifest.is_buffered and manifest.sequence is None):
        raise ManifestError(
            "the manifest has delays of other outputs, or no time axis; export the model again"
        )
    if manifest.is_buffered and manifest.lengths is not None:
        raise ManifestError("the manifest has a delay or a unit, and lengths; export the model again")
    if not 0 < manifest.unit <= _MOST_STEPS or max(manifest.delays.values(), default=0) > _MOST_STEPS:
        raise ManifestError(f"the manifest has a unit of {manifest.unit} steps; export the model again")
    for name, frames in manifest.frames_a_unit.items():
        if not 0 < frames <= _MOST_STEPS:
            raise ManifestError(f"output {name!r} has {frames} frames per unit; export the model again")


def _check_tensor(role: str, declared: TensorSpec, actual: Mapping[str, TensorSpec]) -> None:
    found = actual.get(declared.name)
    if found is None:
        raise ContractError(
            f"{role} {declared.name!r} is not in the graph, which has {sorted(actual)}; export it again"
        )
    if found.dtype != declared.dtype or not fits(found.axes, declared.axes):
        raise ContractError(
            f"{role} {declared.name} is {found.dtype} {describe(found.axes)} in the graph, "
            f"expected {declared.dtype} {describe(declared.axes)}; export it again"
        )


def _check_task(task: Task | None, outputs: Sequence[TensorSpec]) -> None:
    if task is None:
        return
    axes = next((spec.axes for spec in outputs if spec.name == task.output), None)
    if axes is None:
        raise ManifestError(
            f"the task's output is {task.output!r}, which is not an output; export the model again"
        )
    width = axes[channel_axis(axes)] if axes else 1
    if task.labels and isinstance(width, int) and len(task.labels) != width:
        raise ManifestError(
            f"got {len(task.labels)} labels for the {width} values of {task.output}; export the model again"
        )


def _check_axis_names(manifest: Manifest) -> None:
    named = [name for name in (manifest.batch, manifest.sequence) if name is not None]
    plain = all(parse_sum(name) == ({name: 1}, 0) and name for name in named)
    if not plain or len(set(named)) < len(named):
        raise ManifestError(
            f"the batch and time axes are {named}, expected two names; export the model again"
        )
    for tensor, axes in manifest.axes.items():
        if twice := [name for name in named if axes.count(name) > 1]:
            raise ManifestError(
                f"{tensor!r} {describe(axes)} has axis {twice[0]} twice, as attention weights have, which no "
                "manifest describes; return it without one of them"
            )


def _check_state_axes(state: StateSpec, manifest: Manifest) -> None:
    """Refuse axes that follow from others: only batch and ``k*N`` do not change within a stream."""
    for axis in state.axes:
        follows = isinstance(axis, str) and parse_sum(axis) != ({axis: 1}, 0)
        if axis == manifest.sequence or (follows and row_factor(axis, manifest.batch) is None):
            raise ManifestError(
                f"state {state.input} {describe(state.axes)} has axis {axis}, expected sizes and "
                f"{manifest.batch or 'no names'}; export the model again"
            )


def _check_lengths(manifest: Manifest) -> None:
    spec = manifest.lengths_input
    if manifest.lengths is None:
        return
    if spec is None:
        raise ManifestError(f"lengths is {manifest.lengths!r}, which is not an input; export the model again")
    per_row = len(spec.axes) == 1 and (isinstance(spec.axes[0], int) or spec.axes[0] == manifest.batch)
    if not per_row or spec.dtype not in ("int32", "int64"):
        raise ManifestError(
            f"{spec.name} is {spec.dtype} {describe(spec.axes)}, expected lengths int64 "
            f"({manifest.batch or 1},); export the model again"
        )


def _check_reset(state: StateSpec) -> None:
    reset, dtype = np.asarray(state.reset), np.dtype(state.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        held = bool(((reset >= limits.min) & (reset <= limits.max)).all())
    else:
        with np.errstate(over="ignore"):
            held = bool(np.isfinite(reset.astype(dtype)).all())
    if not held:
        raise ManifestError(f"state {state.input} has a reset value beyond {state.dtype}; export it again")
    if not isinstance(state.reset, np.ndarray):
        return
    if state.reset.shape != all_ones(state.axes):
        raise ManifestError(
            f"state {state.input} {describe(state.axes)} has a reset value of shape {state.reset.shape}; "
            "export it again"
        )
