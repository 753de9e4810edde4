"""Arrays as JSON: dtype, shape, and the little-endian bytes in base64."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode_array", "encode_array"]

_KINDS = "fiub"


def encode_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return ``array`` as a JSON-ready mapping with ``dtype``, ``shape`` and ``data``."""
    import base64

    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def decode_array(raw: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the array that ``encode_array`` wrote.

    Raises:
        ValueError: the dtype is not a plain number, or the bytes do not fill the shape.
        AttributeError, KeyError, OverflowError, TypeError: ``raw`` is no such mapping at all.
    """
    import base64

    dtype = np.dtype(raw["dtype"])
    if dtype.kind not in _KINDS:
        raise ValueError(f"dtype {raw['dtype']!r}")
    shape = tuple(int(size) for size in raw["shape"])
    data = base64.b64decode(raw["data"], validate=True)
    if min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {dtype.name} {shape}")
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(shape)
