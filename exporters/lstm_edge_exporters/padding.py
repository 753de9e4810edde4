"""ONNX's padding of arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array


def pad(
    array: Array,
    widths: Sequence[tuple[int, int]],
    mode: str = "constant",
    **options: Any,
) -> Array:
    """Pad as ``np.pad`` does; a negative width drops elements."""
    dropped = [slice(max(-start, 0), min(end, 0) or None) for start, end in widths]
    padded: Array = np.pad(array, np.maximum(widths, 0), mode, **options)  # type: ignore[call-overload]
    return padded[tuple(dropped)]
