"""Sizes of tensors that depend on the inputs, while ``forward`` is traced."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_traced(tensor: Tensor, axis: int) -> bool:
    """Return True if the tensor's size along ``axis`` is traced."""
    return bool(tensor.dim()) and is_symbolic(tensor.shape[axis])


def is_symbolic(size: Any) -> bool:
    """Return True if a size depends on the inputs."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def rows_of(shape: Sequence[Any], axis: int) -> Any:
    """Return the number of rows of a tensor with steps at ``axis``; None if unknown."""
    others = [*shape[:axis], *shape[axis + 1 :]]
    is_batch_first = axis == 1 and len(others) > 1
    return others[0] if is_batch_first else next(filter(is_symbolic, others), None)


def have_same_size(one: Any, other: Any) -> bool:
    """Return True if two traced sizes are one in the example."""
    traced = is_symbolic(one) and is_symbolic(other)
    return traced and one.node.hint == other.node.hint


def in_example(size: Any) -> int:
    """Return a size in the example."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def expression_of(size: Any) -> Any:
    """Return a size as a sympy expression, or a number."""
    return size.node.expr if isinstance(size, torch.SymInt) else size
