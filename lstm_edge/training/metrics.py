"""Metrics of a set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["classification_metrics", "regression_metrics"]


def classification_metrics(logits: Tensor, y: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, confusion matrix, and by label precision, recall, F1 and count.

    None for the ratios of a class that the set does not have and the precision of one never predicted.

    Args:
        logits: ``(S, C)``.
        y: ``int64 (S,)``.
        labels: the C class names.
    """
    classes = len(labels)
    predicted = logits.argmax(dim=1)
    confusion = torch.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)
    hits, of_class, said = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    return {
        "accuracy": float(hits.sum() / len(y)),
        "precision": _ratios(labels, hits, said * of_class.bool()),
        "recall": _ratios(labels, hits, of_class),
        "f1": _ratios(labels, 2 * hits, (of_class + said) * of_class.bool()),
        "count": dict(zip(labels, of_class.tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }


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


def _ratios(labels: Sequence[str], numerators: Tensor, denominators: Tensor) -> dict[str, float | None]:
    pairs = zip(labels, numerators.tolist(), denominators.tolist(), strict=True)
    return {label: above / below if below else None for label, above, below in pairs}
