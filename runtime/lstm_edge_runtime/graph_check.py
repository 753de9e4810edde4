"""A manifest, checked against itself and against the graph that carries it."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from .axes import all_ones, describe, fits, parse_sum, row_factor
from .errors import ContractError, FileFormatError, ManifestError
from .json_reader import malformed_as
from .manifest import Manifest, StateSpec, TensorSpec

_MOST = 1 << 27
"""Values of one stream's state, half a GB, and steps of a unit: more would only fill the memory."""
_DTYPES = {"float": "float32", "double": "float64"}


def graph_specs(args: Sequence[Any]) -> dict[str, TensorSpec]:
    """Return the specs of a session's inputs or outputs by name; an axis without a name becomes ``?``.

    Raises:
        FileFormatError: a name is not UTF-8 text.
    """
    try:
        described = [(arg.name, arg.type, arg.shape) for arg in args]
    except UnicodeDecodeError as error:
        raise FileFormatError("the names in its graph are not UTF-8 text; export it again") from error
    specs = {}
    for name, kind, shape in described:
        kind = kind.removeprefix("tensor(").removesuffix(")")
        specs[name] = TensorSpec(name, _DTYPES.get(kind, kind), tuple(axis or "?" for axis in shape))
    return specs


def check_manifest(manifest: Manifest, session: Any) -> None:
    """Check a manifest against itself and against the graph of the session that opened its file.

    Raises:
        ContractError: a declared tensor is missing or has another dtype or shape, or a graph input is not
            declared.
        ManifestError: as ``check_contract``.
    """
    inputs, outputs = graph_specs(session.get_inputs()), graph_specs(session.get_outputs())
    states = manifest.states
    entering = [*manifest.inputs, *(TensorSpec(state.input, state.dtype, state.axes) for state in states)]
    leaving = [*manifest.outputs, *(TensorSpec(state.output, state.dtype, state.axes) for state in states)]
    for role, specs, graph in (("input", entering, inputs), ("output", leaving, outputs)):
        for spec in specs:
            actual = graph.get(spec.name)
            if actual is None:
                raise ContractError(f"{role} {spec.name!r} is not in the graph; export it again")
            if actual.dtype != spec.dtype or not fits(actual.axes, spec.axes):
                raise ContractError(
                    f"{role} {spec.name} is {actual.dtype} {describe(actual.axes)} in the graph, "
                    f"expected {spec.dtype} {describe(spec.axes)}; export it again"
                )
    if missing := set(inputs) - set(manifest.input_names):
        raise ContractError(f"inputs {sorted(missing)} are not in the manifest; export the model again")
    check_contract(manifest)


def check_contract(manifest: Manifest) -> None:
    """Raise ``ManifestError`` for a manifest that contradicts itself, or has numbers that can't be meant."""
    with malformed_as(ManifestError, "the manifest is malformed", "export the model again"):
        tests = (*_numbers_fit(manifest), *_axes_fit(manifest), *_names_fit(manifest))
        if not all(tests) or not all(_state_fits(state, manifest) for state in manifest.states):
            raise ValueError("it contradicts itself")


def _numbers_fit(manifest: Manifest) -> Iterator[bool]:
    signal, trained, golden = manifest.signal, manifest.trained, manifest.golden
    sizes = [axis for axes in manifest.axes.values() for axis in axes if isinstance(axis, int)]
    sizes += [
        manifest.unit,
        *manifest.frames_a_unit.values(),
        *(1 + each for each in manifest.delays.values()),
    ]
    sizes += [window for window in (signal.window, trained and trained.window) if window is not None]
    yield all(0 < size <= _MOST for size in sizes)
    yield all(each.least > 0 and each.nearest(1) >= each.least for each in manifest.ranges.values())
    yield 0 <= (trained.reset if trained else 0) <= 1 and (signal.sampling_rate or 1) >= 1e-9
    for case in (golden, *golden.more) if golden else ():
        for name, limits in case.limits.items():
            np.broadcast_to(limits, case.outputs[name].shape)


def _axes_fit(manifest: Manifest) -> Iterator[bool]:
    names = [name for name in (manifest.batch, manifest.sequence) if name is not None]
    yield len({*names}) == len(names)
    yield all(name and parse_sum(name) == ({name: 1}, 0) for name in names)
    yield all(axes.count(name) < 2 for axes in manifest.axes.values() for name in names)
    yield not manifest.is_buffered or (manifest.sequence is not None and manifest.lengths is None)
    lengths = manifest.lengths_input
    yield manifest.lengths is None or (
        lengths is not None and lengths.dtype in ("int32", "int64") and len(lengths.axes) == 1
    )
    yield lengths is None or isinstance(lengths.axes[0], int) or lengths.axes[0] == manifest.batch


def _names_fit(manifest: Manifest) -> Iterator[bool]:
    outputs, task = {spec.name: spec for spec in manifest.outputs}, manifest.task
    yield all(len({*names}) == len(names) for names in (manifest.input_names, manifest.output_names))
    yield {*manifest.counts, *manifest.delays, *([task.output] if task else ())} <= {*outputs}
    yield all(np.dtype(spec.dtype).name == spec.dtype for spec in (*manifest.inputs, *manifest.outputs))
    width = outputs[task.output].width if task and task.output in outputs else None
    yield not task or not task.labels or width in (None, len(task.labels)) or isinstance(width, str)


def _state_fits(state: StateSpec, manifest: Manifest) -> bool:
    plain = [axis for axis in state.axes if isinstance(axis, int) or parse_sum(axis) == ({axis: 1}, 0)]
    rows = [axis for axis in state.axes if row_factor(axis, manifest.batch) is not None]
    reset, dtype = np.asarray(state.reset), np.dtype(state.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        kept = reset.astype(dtype)
    return bool(
        dtype.name == state.dtype
        and manifest.sequence not in state.axes
        and {*plain, *rows} == {*state.axes}
        and prod(axis for axis in state.axes if isinstance(axis, int)) <= _MOST
        and reset.shape in ((), all_ones(state.axes))
        and ((kept == reset).all() if dtype.kind in "iu" else np.isfinite(kept).all())
    )
