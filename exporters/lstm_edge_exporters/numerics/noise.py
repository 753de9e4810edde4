"""The noise floor of a case, and drawing it again where one draw of rounding errors may have been too lucky.

Inputs and states are moved by one place at their usual scale. How far the reference errs there, and how far
its float64 result moves, are what rounding may cost on this case: kernels round at the scale of their gates,
which a state that has died away no longer shows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.tolerance import compare

__all__ = ["DRAWS", "apart", "near", "raised"]

Array = npt.NDArray[Any]

DRAWS = 4
"""How often a noise floor in doubt is drawn anew."""


def apart(one: Array, other: Array) -> float:
    """Return the largest absolute difference; equal infinities and NaN in both places agree."""
    return compare("", one, other, floor=0.0, limit=np.inf).max_abs


def near(
    feeds: Mapping[str, Array], draw: int, units: Mapping[str, float | Array] | None = None
) -> dict[str, Array]:
    """Move every float by at most one place, at its own scale or its usual one, the larger.

    Args:
        feeds: arrays by name.
        draw: another draw for another number.
        units: the usual scale by name; what is left out is taken from the array itself, 1 where it is zero.
    """
    rng = np.random.default_rng(draw)
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f" and array.size:
            unit = (units or {}).get(name)
            if unit is None:
                unit = float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) or 1.0
            place = np.finfo(array.dtype).eps * np.maximum(np.abs(array), unit)
            moved[name] = np.asarray(array + place * rng.integers(-1, 2, array.shape), dtype=array.dtype)
    return moved


def raised(
    floors: Mapping[str, float],
    wide: Mapping[str, Array],
    own_near: Mapping[str, Array],
    wide_near: Mapping[str, Array],
) -> dict[str, float]:
    """Return the floors of the float outputs, no lower than before, after a draw from nearby inputs.

    Args:
        floors: those known already; what is left out counts as 0.
        wide: the reference's float64 outputs for the case.
        own_near: the reference's outputs in its own dtype for ``near`` inputs.
        wide_near: the same in float64.
    """
    return {
        name: max(floors.get(name, 0.0), apart(own_near[name], array), apart(array, wide[name]))
        for name, array in wide_near.items()
        if array.dtype.kind == "f"
    }
