"""Metrics of a set."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

_HOLD = 5
"""Steps that a label must have been right before it counts as recognized."""


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


def recognition_metrics(predicted: Sequence[int], y: Sequence[int], starts: Sequence[bool]) -> dict[str, Any]:
    """Return how many steps it takes until a new class is recognized, the first step being 1.

    A class is new at the start of a stream and where it changes. It is recognized at the first of five right
    steps in a row, or of all that are left of the class.

    Args:
        predicted: class of each step, of one stream after another.
        y: true class of each step.
        starts: whether a stream starts there.

    Returns:
        ``events``, how many there are; ``median`` and ``p90``, the steps that half of them and nine of ten
        take at most, None where those are not recognized at all.
    """
    found = []
    begins = [step for step in range(len(y)) if starts[step] or y[step] != y[step - 1]]
    for begin, end in pairwise([*begins, len(y)]):
        run = 0
        for step in range(begin, end):
            run = run + 1 if predicted[step] == y[step] else 0
            if run == _HOLD:
                break
        found.append(math.inf if run == 0 else step - begin - run + 2)
    found.sort()
    shares = {
        name: found[math.ceil(share * len(found)) - 1] for name, share in (("median", 0.5), ("p90", 0.9))
    }
    return {
        "events": len(found),
        **{name: None if steps == math.inf else steps for name, steps in shares.items()},
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
