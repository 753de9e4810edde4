"""``proj_size`` as a standard LSTM node.

PyTorch's projected LSTM feeds ``h = W_hr c'`` (P wide) back, where c' is the unprojected hidden state. A
standard node that feeds c' itself back computes the same with ``R = W_hh W_hr``, and the projection is
applied to its outputs. What is left is the initial state: the node wants H numbers, ``h_0`` has P.

- Well-conditioned ``W_hr``: start from ``pinv(W_hr) h_0``, for ``W_hr pinv(W_hr) = 1``.
- Otherwise: start from zero, and feed ``W_hh h_0`` through extra input columns that carry ``h_0`` at the
  first step processed (the last valid one for a reverse direction) and zero elsewhere. Exact for every
  ``W_hr``.

All products are taken in float64.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ._build import Builder
from .weights import LayerWeights

__all__ = ["CONDITION_LIMIT", "project"]

Array = npt.NDArray[Any]

CONDITION_LIMIT = 100.0
"""Up to this condition number of ``W_hr`` the pseudo-inverse is used."""


def project(
    build: Builder,
    layer: Sequence[LayerWeights],
    x: ir.Value,
    h: ir.Value,
    lengths: ir.Value | None,
    suffix: str,
) -> tuple[list[LayerWeights], ir.Value, ir.Value, ir.Value]:
    """Fold one layer's projections.

    Args:
        build: where nodes are added.
        layer: one entry a direction, each with ``w_hr``.
        x: ``(L, N, I)``.
        h: ``(D, N, P)``.
        lengths: ``int32 (N,)`` or None.
        suffix: ends the names of what is added.

    Returns:
        Weights of the standard node, its input, its initial hidden state ``(D, N, H)``, and the matrices
        ``(D, H, P)`` that its outputs are to be multiplied by.
    """
    projections = [_present(each.w_hr) for each in layer]
    folded = [
        replace(each, w_hh=each.w_hh @ w_hr, w_hr=None) for each, w_hr in zip(layer, projections, strict=True)
    ]
    after = build.weight(np.stack([w.T for w in projections]), f"P_{suffix}")
    if max(np.linalg.cond(w) for w in projections) <= CONDITION_LIMIT:
        inverse = np.stack([np.linalg.pinv(w).T for w in projections])
        start = build.matmul(h, build.weight(inverse, f"Pinv_{suffix}"))
        return folded, x, start, after
    columns = [build.first_step(x, h, index, lengths) for index in range(len(layer))]
    zeros = np.zeros_like(layer[0].w_hh)
    widened = [
        replace(
            each,
            w_ih=np.concatenate(
                [each.w_ih, *(layer[index].w_hh if index == place else zeros for place in range(len(layer)))],
                axis=1,
            ),
        )
        for index, each in enumerate(folded)
    ]
    hidden = projections[0].shape[1]
    return widened, build.concat([x, *columns], axis=2), build.zeros_like(h, hidden), after


def _present(w_hr: Array | None) -> Array:
    assert w_hr is not None
    return w_hr
