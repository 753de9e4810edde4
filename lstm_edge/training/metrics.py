"""Metrics of a set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["classification_metrics", "regression_metrics"]


def classification_metrics(logits: Tensor, y: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """Return the accuracy and, by label, the recall (None if the set has none of that class) and count.

    Args:
        logits: ``(S, C)``.
        y: ``int64 (S,)``.
        labels: the C class names.
    """
    hit = logits.argmax(dim=1) == y
    recall: dict[str, float | None] = {}
    count: dict[str, int] = {}
    for index, label in enumerate(labels):
        of_class = y == index
        count[label] = int(of_class.sum())
        recall[label] = float(hit[of_class].double().mean()) if count[label] else None
    return {"accuracy": float(hit.double().mean()), "recall": recall, "count": count}


def regression_metrics(values: Tensor, y: Tensor, targets: Sequence[str]) -> dict[str, Any]:
    """Return, by target, the mean absolute error and the root of the mean squared error, in its own unit.

    Args:
        values: ``(S, C)``, predicted.
        y: ``(S, C)``.
        targets: the C names.
    """
    error = (values - y).double()
    mae, rmse = error.abs().mean(dim=0), torch.sqrt((error**2).mean(dim=0))
    return {
        "mae": dict(zip(targets, mae.tolist(), strict=True)),
        "rmse": dict(zip(targets, rmse.tolist(), strict=True)),
    }
