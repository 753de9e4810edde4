"""Numbers as C99 and C++11 write them."""

from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array


def array_literal(array: Array, indent: int, per_line: int = 6) -> str:
    """Return the elements of an array, between braces that are not included."""
    values = [literal(value) for value in array.reshape(-1)]
    lines = [", ".join(values[start : start + per_line]) for start in range(0, len(values), per_line)]
    return ",\n".join(" " * indent + line for line in lines)


def literal(value: Any) -> str:
    """Return a number of numpy; float32 is read back as the same bits."""
    if value.dtype.kind == "b":
        return str(bool(value)).lower()
    if value.dtype.kind in "iu":
        wide = value.dtype.itemsize == 8
        if value.dtype.kind == "i" and value == np.iinfo(value.dtype).min and value.dtype.itemsize >= 4:
            return f"({value + 1}{'LL' * wide} - 1)"
        return f"{value}{'U' * (value.dtype.kind == 'u')}{'LL' * wide}"
    if np.isnan(value):
        return "NAN"
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value!s}{'f' if value.dtype == np.float32 else ''}"
