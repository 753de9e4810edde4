"""The states of many sources: one block of memory a state tensor, a slot a source."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import Core
from .errors import ContractError

__all__ = ["StateBlocks"]

Array = npt.NDArray[Any]

_LARGEST = 31 * 1024 * 1024
"""glibc learns from blocks up to 32 MiB."""


class StateBlocks:
    """Blocks of ``capacity`` slots along each state's batch axis, all at the reset value."""

    def __init__(self, core: Core, capacity: int) -> None:
        """Allocate the blocks; ``ContractError`` where a state has no batch axis."""
        batch = core.contract.batch or ""
        for spec in core.contract.states:
            if spec.axes.count(batch) != 1:
                raise ContractError(
                    f"state {spec.input} has no batch axis {batch}; open one stream() a source instead"
                )
        self._axes = {spec.input: spec.axes.index(batch) for spec in core.contract.states}
        self._blocks = core.start({batch: capacity})
        self._reset = core.start({batch: 1})
        _expect_large_blocks(16 * sum(block.nbytes for block in self._blocks.values()))

    def gather(self, slots: Array | None) -> dict[str, Array]:
        """Give the states of ``slots`` in their order; of None, all of them where they lie."""
        if slots is None:
            return self._blocks
        return {name: block.take(slots, axis=self._axes[name]) for name, block in self._blocks.items()}

    def scatter(self, slots: Array | None, states: Mapping[str, Array]) -> None:
        """Put the states that a call gave for ``slots`` in their places; for None, take them as they are."""
        if slots is None:
            self._blocks = dict(states)
            return
        for name, block in self._blocks.items():
            block[(slice(None),) * self._axes[name] + (slots,)] = states[name]

    def read(self, slot: int) -> dict[str, Array]:
        """Give one slot's states, with a batch axis of size 1."""
        return self.gather(np.array([slot]))

    def write(self, slot: int, states: Mapping[str, Array]) -> None:
        """Set one slot's states."""
        self.scatter(np.array([slot]), states)

    def reset(self, slot: int) -> None:
        """Put one slot back to the reset values."""
        self.write(slot, self._reset)


def _expect_large_blocks(size: int) -> None:
    """Let glibc see a block of ``size`` bytes come and go, untouched.

    Its allocator adapts to the largest such block: below it, memory is then kept for the next tick and not
    given back to the kernel after each. A tick of 1,000 sources takes 0.7 of the time for that.
    """
    np.empty(min(size, _LARGEST), dtype=np.uint8)
