"""Samples, lengths and states, converted to the dtypes of the file or refused before
any work.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.ma import MaskedArray

from .axes import Layout, describe, layouts, resolve, shape_of, solve
from .errors import InputError, StateError, first_line
from .manifest import Array, Manifest, TensorSpec
from .state import STATE_TYPES, State

InputArrays = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""One array for the only input, or arrays by input name."""


def by_name(
    value: InputArrays, specs: Sequence[TensorSpec | Layout]
) -> dict[str, Array]:
    """Return ``value`` by input name, in the dtypes of the file; ``InputError`` for
    other names.
    """
    names = [spec.name for spec in specs]
    if not isinstance(value, Mapping):
        if len(names) != 1:
            raise InputError(
                "got a single array, expected arrays for inputs"
                f" {', '.join(map(repr, names))}"
            )
        value = {names[0]: value}
    elif set(value) != set(names):
        raise InputError(
            f"got inputs {sorted(map(str, value))}, expected {sorted(names)}"
        )
    return {
        spec.name: as_array(spec.name, value[spec.name], spec.dtype) for spec in specs
    }


def as_array(name: str, value: npt.ArrayLike, dtype: str) -> Array:
    """Return ``value`` as a C-contiguous array of ``dtype``.

    Integers are converted to floats and to other integers that hold them, and floats to
    any floats.

    Raises:
        InputError: ragged, masked, not numeric, of a kind that ``dtype`` can't hold,
            or an integer outside its range.
    """
    target = np.dtype(dtype)
    if type(value) is np.ndarray and value.dtype is target and value.flags.c_contiguous:
        return value
    _refuse_masked(name, value, dtype)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # of PyTorch's tensors
        raise InputError(
            f"{name} is not a regular array ({first_line(error)}); expected {dtype}"
        ) from error
    if not array.size and isinstance(value, list | tuple):  # float64, of no number
        array = array.astype(target)
    convertible_kinds = "b" if target.kind == "b" else "fiu"
    is_convertible = np.can_cast(array.dtype, target, "same_kind")
    if array.dtype.kind not in convertible_kinds or not is_convertible:
        raise InputError(
            f"{name} has dtype {array.dtype}, expected {dtype}; convert it first"
        )
    if target.kind in "iu" and array.size and not np.can_cast(array.dtype, target):
        _check_range(name, array, target)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=target).reshape(array.shape)


def _refuse_masked(name: str, value: npt.ArrayLike, dtype: str) -> None:
    """Refuse masked arrays: their gaps would become numbers."""
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(item, MaskedArray) for item in items):
        raise InputError(
            f"{name} is a masked array, expected {dtype}; fill its gaps first, such as"
            " with .filled()"
        )


def _check_range(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Refuse integers that ``dtype`` can't hold."""
    least = int(array.min())
    most = int(array.max())
    allowed = np.iinfo(dtype)
    if least < allowed.min or most > allowed.max:
        raise InputError(
            f"{name} has values {least}..{most}, expected {dtype}"
            f" ({allowed.min}..{allowed.max})"
        )


def as_lengths(
    lengths: npt.ArrayLike | None, manifest: Manifest, sizes: Mapping[str, int]
) -> Array | None:
    """Return ``lengths`` in the dtype of the file, all full where None; None if the
    file takes none.

    Raises:
        InputError: the file takes no lengths; there is not one from 1 to L per row; or
            None for a file whose time axis has no name.
    """
    spec = manifest.lengths_input
    longest = None if manifest.sequence is None else sizes.get(manifest.sequence)
    if spec is None:
        if lengths is not None:
            raise InputError(
                "got lengths, but this file has no such input; export it with lengths"
            )
        return None
    shape = resolve(spec.axes, sizes)
    if lengths is None:
        if longest is None or shape is None:
            raise InputError(
                f"got no {spec.name}, but the time axis is fixed; give one length"
                " per row"
            )
        return np.full(shape, longest, dtype=spec.dtype)
    array = as_array(spec.name, lengths, "int64")
    if (
        array.shape != shape
        or array.min() < 1
        or array.max() > (longest or array.max())
    ):
        raise InputError(
            f"{spec.name} is {array!s:.60}, expected 1..{longest or 'L'} for each row"
            f" {shape}"
        )
    return as_array(spec.name, array, spec.dtype)


def refuse_not_finite(arrays: Mapping[str, Array], advice: str) -> None:
    """Raise ``InputError`` if a float array contains NaN or infinity, with the first
    index.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        indices = np.argwhere(~np.isfinite(array))
        index = indices[0].tolist()
        raise InputError(f"{name} is {array[tuple(index)]} at {index}; {advice}")


def reset_states(manifest: Manifest, rows: int) -> dict[str, Array]:
    """Return the states' reset values in new arrays, in the layout of the file."""
    sizes = manifest.axis_sizes(rows=rows)
    states = {}
    for spec in manifest.states:
        shape = shape_of(spec.axes, sizes)
        state = states[spec.input] = np.empty(shape, dtype=spec.dtype)
        state[...] = spec.reset
    return states


def check_state(
    state: State, manifest: Manifest, identity: str, rows: int
) -> dict[str, Array]:
    """Return the arrays of ``state``; ``StateError`` if it is of another model or
    another number of rows.
    """
    if not isinstance(state, State):
        raise StateError(
            f"got a {type(state).__name__}, expected the State that run() or a stream"
            " returned"
        )
    if state.identity != identity:
        got = state.identity[:12]
        expected = identity[:12]
        raise StateError(
            f"got a state of model {got}, expected {expected}; start from the reset"
            " state"
        )
    arrays = {}
    sizes = manifest.axis_sizes(rows=rows)
    for spec in manifest.states:
        array = state.get(spec.input)
        if array is not None and array.dtype.name == STATE_TYPES.get(spec.dtype):
            array = array.astype(spec.dtype, copy=False)  # as saved states have it
        if array is not None and array.ndim == 1 and rows == 1:  # as C writes it
            full = shape_of(spec.axes, sizes)
            array = array.reshape(full) if array.size == math.prod(full) else array
        if (
            array is None
            or array.dtype != spec.dtype
            or solve(spec.axes, array.shape, sizes) is None
        ):
            expected = f"{spec.dtype} {spec.input} {describe(spec.axes)} of {rows} rows"
            raise StateError(
                f"got a state without {expected}; nothing is reset automatically"
            )
        arrays[spec.input] = array
    return arrays


def check_samples(state: State, manifest: Manifest) -> dict[str, Array]:
    """Return the samples of an incomplete unit by input, ``(steps, ...)``;
    ``StateError`` if they do not fit the age.
    """
    steps = state.age % manifest.unit
    timed = {
        layout.name: layout
        for layout in layouts(manifest.data_inputs, manifest)
        if layout.timed and steps
    }
    if state.samples.keys() != timed.keys():
        raise StateError(
            f"got a state of age {state.age} with samples of {sorted(state.samples)},"
            f" expected {sorted(timed)}, as a unit has {manifest.unit} steps"
        )
    samples = {}
    for name, layout in timed.items():
        array = state.samples[name]
        expected = (steps, *layout.inner)
        if array.ndim == 1 and array.size == math.prod(expected):  # as C writes it
            array = array.reshape(expected)
        if array.shape != expected or array.dtype != layout.dtype:
            raise StateError(
                f"got a state with {array.dtype} samples {array.shape} of {name},"
                f" expected {layout.dtype} {expected}"
            )
        samples[name] = array
    return samples
