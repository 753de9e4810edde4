"""LSTM with ``proj_size`` as ONNX's LSTM and matrices around it.

PyTorch's projected LSTM feeds ``h = W_hr c'`` (P wide) back, where c' is the unprojected hidden state. A node
that feeds c' itself back computes the same with ``R = W_hh W_hr``, and the projection is applied to its
outputs. What is left is the initial state: the node wants H numbers, ``h_0`` has P.

- Well-conditioned ``W_hr``: start from ``pinv(W_hr) h_0``, for ``W_hr pinv(W_hr) = 1``.
- Otherwise the node gets P more hidden units. They start as ``h_0``, which the gates read through ``W_hh``;
  having no weights and biases of their own they are zero from the first step on (``tanh(0) = 0``, and their
  cells start at zero). Exact for every ``W_hr``, for a recurrence of ``(H + P)^2`` in place of ``H^2``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import Builder
from ..recurrent import GATES, LayerWeights

_CONDITION_LIMIT = 100.0
"""Up to this condition number of ``W_hr`` the pseudo-inverse is used."""


@dataclass(frozen=True)
class Projection:
    """One layer as a standard node, H' units wide, and the matrices around it."""

    layer: tuple[LayerWeights, ...]
    """A direction each, without projections."""
    hidden: ir.Value
    """``initial_h (D, N, H')``."""
    cell: ir.Value
    """``initial_c (D, N, H')``."""
    after: ir.Value
    """``(D, H', P)``: Y and Y_h are to be multiplied by it."""
    cell_after: ir.Value | None
    """``(D, H', H)`` for Y_c, or None where H' is H."""


def project(
    build: Builder, layer: Sequence[LayerWeights], h: ir.Value, c: ir.Value, suffix: str
) -> Projection:
    """Fold one layer's projections.

    Args:
        build: where nodes are added.
        layer: one entry a direction, each with ``w_hr``.
        h: ``(D, N, P)``.
        c: ``(D, N, H)``.
        suffix: ends the names of what is added.
    """
    matrices = [each.w_hr for each in layer if each.w_hr is not None]
    folded = tuple(
        replace(each, w_hh=each.w_hh @ w_hr, w_hr=None) for each, w_hr in zip(layer, matrices, strict=True)
    )
    leave = np.stack([w.T for w in matrices])
    if max(np.linalg.cond(w) for w in matrices) <= _CONDITION_LIMIT:
        enter = np.stack([np.linalg.pinv(w).T for w in matrices])
        start, after = _around(build, h, enter, leave, f"P_{suffix}")
        return Projection(folded, start, c, after, None)
    directions, hidden, width = leave.shape
    wide = tuple(_widened(each, own.w_hh, width) for each, own in zip(folded, layer, strict=True))
    ones = np.broadcast_to(np.eye(hidden + width), (directions, hidden + width, hidden + width))
    start, after = _around(
        build, h, ones[:, hidden:], np.pad(leave, ((0, 0), (0, width), (0, 0))), f"P_{suffix}"
    )
    cell, cell_after = _around(build, c, ones[:, :hidden], ones[:, :, :hidden], f"C_{suffix}")
    return Projection(wide, start, cell, after, cell_after)


def _around(
    build: Builder, state: ir.Value, enter: Array, leave: Array, name: str
) -> tuple[ir.Value, ir.Value]:
    """Return ``state @ enter``, and ``leave``, its left inverse, as an initializer."""
    inverse = build.weight(leave, name)
    return build.matmul(state, build.weight(enter, f"{name}_in")), inverse


def _widened(folded: LayerWeights, w_hh: Array, width: int) -> LayerWeights:
    """Add ``width`` units that only hold what they start from, and are read through ``w_hh``."""
    recurrent = np.concatenate([folded.w_hh, w_hh], axis=1)
    return LayerWeights(
        _more_units(folded.w_ih, width),
        _more_units(recurrent, width),
        None if folded.b_ih is None else _more_units(folded.b_ih, width),
        None if folded.b_hh is None else _more_units(folded.b_hh, width),
        None,
    )


def _more_units(stacked: Array, width: int) -> Array:
    """Add ``width`` rows of zeros to each gate of ``(G*H, ...)``."""
    gates = np.split(stacked, len(GATES["LSTM"]))
    zeros = np.zeros((width, *stacked.shape[1:]))
    return np.concatenate([part for gate in gates for part in (gate, zeros)])
