"""PyTorch's recurrent weights in ONNX's layout.

PyTorch stacks LSTM gates as i, f, g, o and GRU gates as r, z, n; ONNX wants i, o, f, c and z, r, h. ONNX
adds a direction axis in front, and keeps both biases in one row, ``[Wb, Rb]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GATES", "LayerWeights", "to_onnx"]

Array = npt.NDArray[Any]

GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""For each of ONNX's gates, its place in PyTorch's order."""


@dataclass(frozen=True)
class LayerWeights:
    """One direction of one layer, as PyTorch holds it."""

    w_ih: Array
    """``(G*H, I)`` with G gates."""
    w_hh: Array
    """``(G*H, P)``."""
    b_ih: Array | None
    b_hh: Array | None
    w_hr: Array | None
    """``(P, H)``, the projection."""


def to_onnx(op: str, directions: Sequence[LayerWeights]) -> tuple[Array, Array, Array | None]:
    """Return ``W (D, G*H, I)``, ``R (D, G*H, P)`` and ``B (D, 2*G*H)`` or None for one layer."""
    w = np.stack([_reorder(op, each.w_ih) for each in directions])
    r = np.stack([_reorder(op, each.w_hh) for each in directions])
    rows = [
        np.concatenate([_reorder(op, each.b_ih), _reorder(op, each.b_hh)])
        for each in directions
        if each.b_ih is not None and each.b_hh is not None
    ]
    return w, r, np.stack(rows) if rows else None


def _reorder(op: str, stacked: Array) -> Array:
    order = GATES[op]
    gates = np.split(stacked, len(order), axis=0)
    return np.concatenate([gates[place] for place in order], axis=0)
