"""Convert a caller's arrays to what a file takes, or refuse them before any work."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .axes import resolve
from .errors import InputError, first_line
from .manifest import TensorSpec

__all__ = ["InputArrays", "as_array", "as_lengths", "by_name", "refuse_not_finite"]

Array = npt.NDArray[Any]
InputArrays = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""One array for the only input, or arrays by input name."""


def by_name(value: InputArrays, specs: Sequence[TensorSpec]) -> dict[str, npt.ArrayLike]:
    """Return ``value`` by input name; a single array stands for the only input.

    Raises:
        InputError: missing or unknown names, or a single array where there are several inputs.
    """
    names = [spec.name for spec in specs]
    if not isinstance(value, Mapping):
        if len(names) != 1:
            raise InputError(f"got a single array, expected arrays for inputs {', '.join(map(repr, names))}")
        return {names[0]: value}
    if set(value) != set(names):
        raise InputError(
            f"got inputs {sorted(map(str, value))}, expected {sorted(names)}; name each input once"
        )
    return dict(value)


def as_array(name: str, value: npt.ArrayLike, dtype: str) -> Array:
    """Return ``value`` as a C-contiguous array of ``dtype``.

    Integers are converted to floats and wider floats to narrower ones; nothing else is converted.

    Raises:
        InputError: ragged, not numeric, or of a kind that ``dtype`` can't hold.
    """
    if isinstance(value, np.ndarray) and value.dtype == dtype and value.flags.c_contiguous:
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} is not one regular array ({first_line(error)}); expected {dtype}"
        ) from error
    if array.dtype == object:
        raise InputError(f"{name} is not one regular array of numbers; expected {dtype}")
    wanted = np.dtype(dtype)
    kinds = "b" if wanted.kind == "b" else "fiu"
    if array.dtype.kind not in kinds or not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(f"{name} has dtype {array.dtype}, expected {dtype}; convert it first")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)


def as_lengths(
    lengths: npt.ArrayLike | None, spec: TensorSpec | None, sizes: Mapping[str, int], sequence: str | None
) -> Array | None:
    """Return ``lengths`` in the file's dtype; None where the file takes none, all full where None.

    Args:
        lengths: integers of any dtype, one per row.
        spec: the file's input for them.
        sizes: what the named axes are in this call.
        sequence: the time axis; None where it is fixed, and only the file knows how long it is.

    Raises:
        InputError: the file takes no lengths; a length is outside 1..L; not one per row; or None for a file
            whose time axis has no name.
    """
    if spec is None:
        if lengths is not None:
            raise InputError("got lengths, but this file takes none; export it with lengths")
        return None
    shape, longest = resolve(spec.axes, sizes), sizes.get(sequence or "")
    if lengths is None:
        if longest is None or shape is None:
            raise InputError(
                f"got no {spec.name}, and this file's time axis is fixed; give run() one length per row"
            )
        return np.full(shape, longest, dtype=spec.dtype)
    array = as_array(spec.name, lengths, "int64")
    if array.shape != shape:
        raise InputError(f"{spec.name} has shape {array.shape}, expected {shape}: one length per row")
    converted = array.astype(spec.dtype, copy=False)
    if array.min() < 1 or array.max() > (longest or array.max()) or (converted != array).any():
        raise InputError(f"{spec.name} holds {array.min()}..{array.max()}, expected 1..{longest or 'L'}")
    return converted


def refuse_not_finite(name: str, array: Array, advice: str = "clean the samples first") -> None:
    """Raise ``InputError`` if a float array holds NaN or infinity, with the first index where it does."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{name} holds {array[where]} at {list(where)}; {advice}")
