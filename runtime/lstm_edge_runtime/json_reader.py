"""Read and check JSON; used for every JSON file."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FileFormatError, LstmEdgeError, first_line

_MALFORMED = (AttributeError, LookupError, OSError, OverflowError, RecursionError, TypeError, ValueError)
_DEEPEST = 50
"""Levels of objects and lists: what is printed again must not exceed Python's stack."""
_KINDS = "fiub"
"""numpy's kinds of plain numbers."""


def read_json(content: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, contains NaN, infinity or an unpaired surrogate, or is nested too deeply.
    """
    import json

    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if text.count("[") + text.count("{") > _DEEPEST:
        level = [value]
        for _ in range(_DEEPEST):
            inner = [each.values() if isinstance(each, dict) else each for each in level]
            level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if level:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it contains an unpaired surrogate, expected text") from error
    return value


@contextlib.contextmanager
def malformed_as(error_type: type[FileFormatError], what: str, advice: str) -> Iterator[None]:
    """Turn whatever reading and checking JSON raises into one error.

    Args:
        error_type: the error to raise.
        what: how its message begins: ``the manifest is malformed``.
        advice: what to do.
    """
    try:
        yield
    except LstmEdgeError:
        raise
    except KeyError as error:
        raise error_type(f"{what} (no {error}); {advice}") from error
    except _MALFORMED as error:
        raise error_type(f"{what} ({first_line(error)}); {advice}") from error


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


def _finite(digits: str) -> float:
    """Return the value of a JSON number; ``ValueError`` for NaN, infinity and anything beyond a float."""
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits:.60} is not a finite number")
    return value
