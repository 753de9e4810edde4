"""LSTM with ``proj_size`` as ONNX's LSTM and matrices around it.

PyTorch's projected LSTM feeds ``h = W_hr c'`` (P wide) back, where c' is the unprojected hidden state. A node
that feeds c' itself back computes the same with ``R = W_hh W_hr``, and the projection is applied to its
outputs. It starts from ``pinv(W_hr) h_0``, for ``W_hr pinv(W_hr) = 1``.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError

from ..graph import Builder
from ..recurrent import LayerWeights

_CONDITION_LIMIT = 1000.0
"""Up to this condition number of ``W_hr`` the pseudo-inverse leaves float32 its digits."""


def project(
    build: Builder, layer: Sequence[LayerWeights], h: ir.Value, suffix: str
) -> tuple[list[LayerWeights], ir.Value, ir.Value]:
    """Return a layer without projections, its initial state ``(D, N, H)`` and the matrix behind it.

    Y and Y_h are to be multiplied by the matrix, ``(D, H, P)``.

    Args:
        build: where nodes are added.
        layer: one entry a direction, each with ``w_hr``.
        h: ``(D, N, P)``.
        suffix: ends the names of what is added.

    Raises:
        UnsupportedError: a projection has no exact inverse.
    """
    matrices = [each.w_hr for each in layer if each.w_hr is not None]
    if (worst := max(np.linalg.cond(w) for w in matrices)) > _CONDITION_LIMIT:
        raise UnsupportedError(
            f"a projection of {suffix} (weight_hr) has the condition number {worst:.2g}, at most "
            f"{_CONDITION_LIMIT:g} can be exported; train with a smaller proj_size, or use nn.Linear"
        )
    folded = [replace(w, w_hh=w.w_hh @ w_hr, w_hr=None) for w, w_hr in zip(layer, matrices, strict=True)]
    after = build.weight(np.stack([w.T for w in matrices]), f"P_{suffix}")
    enter = build.weight(np.stack([np.linalg.pinv(w).T for w in matrices]), f"P_{suffix}_in")
    return folded, build.matmul(h, enter), after
