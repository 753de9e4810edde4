"""How many threads PyTorch gives to one operation."""

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's operations on one thread inside, and on as many as before afterwards.

    For a small LSTM a second thread gains nothing, and on a busy machine the two wait for one another at
    every step; one thread also sums in the same order on every machine of a kind.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
