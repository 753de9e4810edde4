"""Read a manifest: its values are checked once, after decoding."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .axes import describe, describe_known, parse_sum, shape_of, solve
from .errors import ManifestError
from .files import malformed_as, read_json
from .manifest import (
    ARITHMETIC,
    SCHEMA,
    Array,
    Axes,
    AxisRange,
    Golden,
    Manifest,
    StateSpec,
    TensorSpec,
    decode,
)

_DTYPES = frozenset({"float16", "float32", "float64", "bool"}) | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
_MAX_NUMBER = 2**31 - 1
"""Largest size, unit or delay: above it, products no longer fit into 64 bits."""
_MAX_DEPTH = 32
"""Largest nesting of a manifest's JSON."""
_MAX_STEP = 2**31
"""Largest number of elements of one tensor at one time step."""


def read_manifest(text: str) -> Manifest:
    """Return the manifest that ``Manifest.to_json`` wrote.

    Raises:
        ManifestError: another schema, a field of another type, or a value that can't be
            right.
    """
    with malformed_as(
        ManifestError, "the manifest is malformed", "export the model again"
    ):
        raw = read_json(text)
        _check_depth(raw)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']!r:.40}, expected {SCHEMA}")
        manifest: Manifest = decode(Manifest, {**raw, **raw["axes"]})
        check_manifest(manifest)
    return manifest


def _check_depth(raw: Any) -> None:
    """Raise ``ValueError`` for JSON that is nested too deep to be walked through."""
    level = [raw]
    for _ in range(_MAX_DEPTH):
        containers = [entry for entry in level if isinstance(entry, dict | list)]
        level = []
        for entry in containers:
            level += entry.values() if isinstance(entry, dict) else entry
        if not level:
            return
    raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def check_manifest(manifest: Manifest) -> None:
    """Raise ``ValueError`` with the first value that can't be right."""
    _check_names(manifest)
    _check_axes(manifest)
    _check_pace(manifest)
    _check_meaning(manifest)
    one_row = manifest.axis_sizes(rows=1)
    for state in manifest.states:
        shape = shape_of(state.axes, one_row)
        if not _broadcasts(np.shape(state.reset), shape):
            raise ValueError(
                f"the reset value of {state.input} has shape {np.shape(state.reset)},"
                f" expected {shape}"
            )
    golden = manifest.golden
    if golden is not None:
        for case in (golden, *golden.more):
            _check_golden(manifest, case)


def _check_names(manifest: Manifest) -> None:
    """Check that names are unique, and that fields name existing outputs."""
    _check_unique("input", manifest.input_names)
    _check_unique("output", manifest.output_names)
    _check_known("delays", manifest.delays, manifest)
    _check_known("counts", manifest.counts, manifest)
    if manifest.task is not None:
        _check_known("task.output", [manifest.task.output], manifest)


def _check_unique(side: str, names: Sequence[str]) -> None:
    """Raise ``ValueError`` if inputs or outputs have no name, or two the same."""
    if "" in names:
        raise ValueError(f"an {side} has no name")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {side}s have the name {name!r:.40}")


def _check_known(field: str, names: Iterable[str], manifest: Manifest) -> None:
    """Raise ``ValueError`` if a field names an output that does not exist."""
    outputs = [spec.name for spec in manifest.outputs]
    for name in names:
        if name not in outputs:
            raise ValueError(f"{field} is {name!r:.40}, expected one of {outputs}")


def _check_axes(manifest: Manifest) -> None:
    """Check names of axes, shapes, ranges and the input of lengths."""
    if manifest.batch == "" or manifest.sequence == "":
        raise ValueError("the batch or sequence axis has an empty name")
    if manifest.batch is not None and manifest.batch == manifest.sequence:
        raise ValueError(f"batch and sequence are both {manifest.batch!r:.40}")
    specs: tuple[TensorSpec | StateSpec, ...] = (*manifest.inputs, *manifest.outputs)
    for spec in (*specs, *manifest.states):
        _check_tensor(spec[0], spec.dtype, spec.axes)
    inputs = {spec.name: spec.axes for spec in manifest.inputs}
    _check_sums({**inputs, **{state.input: state.axes for state in manifest.states}})
    for axis, allowed in manifest.ranges.items():
        if not _is_range(allowed):
            raise ValueError(f"the range of {axis!r:.40} is {allowed!s:.60}")
    if manifest.lengths is not None:
        _check_lengths(manifest.lengths, manifest.lengths_input)


def _check_sums(inputs: Mapping[str, Axes]) -> None:
    """Raise ``ValueError`` for a sum with a name that no axis has alone, so that its
    size does not follow from samples.
    """
    alone = {axis for axes in inputs.values() for axis in axes}
    for name, axes in inputs.items():
        sums = [parse_sum(axis)[0] for axis in axes if isinstance(axis, str)]
        if any(len(names) > 1 and not alone.issuperset(names) for names in sums):
            raise ValueError(f"{name} has axes {describe(axes):.80}")


def _check_tensor(name: str, dtype: str, axes: Axes) -> None:
    """Raise ``ValueError`` for an unknown dtype, or for axes that can't be sizes."""
    if dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {dtype!r:.40}")
    if not all(map(_is_axis, axes)):
        raise ValueError(f"{name} has axes {describe(axes):.80}")
    sizes = [axis for axis in axes if isinstance(axis, int)]
    if math.prod(sizes) > _MAX_STEP:
        raise ValueError(f"{name} has axes {describe(axes):.80}: too large")


def _check_lengths(name: str, spec: TensorSpec | None) -> None:
    """Check that the input of lengths holds integers."""
    if spec is None or not spec.dtype.startswith(("int", "uint")):
        raise ValueError(f"lengths is {name!r:.40}, expected an integer input")


def _is_axis(axis: int | str) -> bool:
    """Return True for a size from 1, or for text whose numbers are such sizes."""
    if isinstance(axis, int):
        return 1 <= axis <= _MAX_NUMBER
    digits = "".join(c if c.isdigit() else " " for c in axis).split()
    if not axis or any(len(number) > 9 for number in digits):
        return False
    factors, constant = parse_sum(axis)
    return constant >= 0 and all(factor > 0 for factor in factors.values())


def _is_range(sizes: AxisRange) -> bool:
    """Return True if at least one size lies in the range."""
    if not 1 <= sizes.least <= _MAX_NUMBER or not 1 <= sizes.multiple <= _MAX_NUMBER:
        return False
    smallest = -(-sizes.least // sizes.multiple) * sizes.multiple
    return sizes.most is None or smallest <= sizes.most


def _check_pace(manifest: Manifest) -> None:
    """Check the unit and the delays."""
    if not 1 <= manifest.unit <= _MAX_NUMBER:
        raise ValueError(f"unit is {manifest.unit}, expected at least 1")
    if manifest.unit > 1 and manifest.sequence is None:
        raise ValueError(f"unit is {manifest.unit}, but there is no sequence axis")
    for name, delay in manifest.delays.items():
        if not 0 <= delay <= _MAX_NUMBER:
            raise ValueError(f"the delay of {name} is {delay}, expected at least 0")


def _check_meaning(manifest: Manifest) -> None:
    """Check arithmetic, windows and the sampling rate."""
    if manifest.arithmetic not in ARITHMETIC:
        raise ValueError(
            f"arithmetic is {manifest.arithmetic!r:.40}, expected one of"
            f" {', '.join(ARITHMETIC)}"
        )
    signal = manifest.signal
    windows = {
        "signal.window": signal.window,
        "trained.window": manifest.trained and manifest.trained.window,
        "reset_every": manifest.reset_every,
    }
    for field, window in windows.items():
        if window is not None and not 1 <= window <= _MAX_NUMBER:
            raise ValueError(f"{field} is {window}, expected at least 1")
    rate = signal.sampling_rate
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"signal.sampling_rate is {rate}, expected a positive number")


def _check_golden(manifest: Manifest, golden: Golden) -> None:
    """Check that arrays fit the axes, and limits the arrays."""
    arrays = {**golden.inputs, **golden.outputs}
    _check_dtypes(manifest, arrays)
    sizes: dict[str, int] = {}
    known = manifest.axes
    # sums such as "L+P" last, when their names are known
    for name in sorted(arrays, key=lambda name: "+" in describe(known[name])):
        solved = solve(known[name], arrays[name].shape, sizes)
        if solved is None or 0 in arrays[name].shape:
            raise ValueError(
                f"the golden case has {name} of shape {arrays[name].shape}, expected"
                f" {describe_known(known[name], sizes)}"
            )
        sizes = solved
    _check_limits(golden)


def _check_dtypes(manifest: Manifest, arrays: Mapping[str, Array]) -> None:
    """Check that each array is one of the graph's tensors, of its dtype."""
    dtypes = {spec[0]: spec.dtype for spec in (*manifest.inputs, *manifest.outputs)}
    for state in manifest.states:
        dtypes[state.input] = dtypes[state.output] = state.dtype
    for name, array in arrays.items():
        if name not in dtypes:
            raise ValueError(f"the golden case has an array for {name!r:.40}")
        if array.dtype != dtypes[name]:
            raise ValueError(
                f"the golden case has {array.dtype} for {name}, expected {dtypes[name]}"
            )


def _check_limits(golden: Golden) -> None:
    """Check that limits are not negative, fit their outputs, and are complete for
    floats.
    """
    limits: list[tuple[str, Any]] = [*golden.limits.items(), *golden.limit.items()]
    outputs = golden.outputs
    for name, limit in limits:
        if name not in outputs:
            raise ValueError(f"the golden case has a limit for {name!r:.40}")
        array: Array = np.asarray(limit)
        if array.dtype.kind not in "fiu" or not (array >= 0).all():
            raise ValueError(f"the golden case has a negative limit for {name}")
        shape = outputs[name].shape
        if not _broadcasts(array.shape, shape):
            raise ValueError(
                f"the golden case has limits of shape {array.shape} for {name} of shape"
                f" {shape}"
            )
    for name, output in outputs.items():
        has_limit = name in golden.limit or name in golden.limits
        if output.dtype.kind == "f" and not has_limit:
            raise ValueError(f"the golden case has no limit for {name}")


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Return True if an array of ``shape`` can be repeated to ``target``."""
    if len(shape) > len(target):
        return False
    pairs = zip(reversed(shape), reversed(target))  # noqa: B905  the target may be longer
    return all(size in (1, expected) for size, expected in pairs)
