"""The states of many sources: one block of memory a state tensor, a slot a source."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import Core
from ._memory import WORKSPACE, expect_blocks
from .binding import BoundCall, StateSets
from .errors import ContractError

__all__ = ["StateBlocks"]

Array = npt.NDArray[Any]


class StateBlocks:
    """Blocks of ``capacity`` slots along each state's batch axis, all at the reset value."""

    def __init__(self, core: Core, capacity: int) -> None:
        """Allocate the blocks; ``ContractError`` where a state has no batch axis."""
        batch = core.manifest.batch or ""
        for spec in core.manifest.states:
            if spec.axes.count(batch) != 1:
                raise ContractError(
                    f"state {spec.input} has no batch axis {batch}; open one stream() a source instead"
                )
        self._core, self._capacity = core, capacity
        self._axes = {spec.input: spec.axes.index(batch) for spec in core.manifest.states}
        self._blocks = core.start({batch: capacity})
        self._reset = core.start({batch: 1})
        self._sets: StateSets | None = None
        self._call: BoundCall | None = None
        self.nbytes = sum(block.nbytes for block in self._blocks.values())
        expect_blocks(WORKSPACE * self.nbytes)

    def whole(self, shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> BoundCall:
        """Return the bound call of one step of every slot; it reads and writes the blocks where they lie.

        It keeps a second set of blocks, made when the first such call comes.
        """
        session, manifest = self._core.session, self._core.manifest
        if self._sets is None:
            self._sets = StateSets(session, self._blocks)
        if self._call is None or any(self._call.inputs[name].shape != shapes[name] for name in shapes):
            valid = self._core.valid_steps(None, sizes)
            self._call = BoundCall(session, manifest, self._sets, shapes, sizes, valid)
        return self._call

    def gather(self, slots: Array) -> dict[str, Array]:
        """Return the states of ``slots`` in their order."""
        return {name: block.take(slots, axis=self._axes[name]) for name, block in self.arrays.items()}

    def scatter(self, slots: Array, states: Mapping[str, Array]) -> None:
        """Put ``states`` in their places."""
        blocks = self.arrays
        for name, block in blocks.items():
            block[(slice(None),) * self._axes[name] + (slots,)] = states[name]
        if self._sets is not None and self._sets.device != "cpu":
            self._sets.write(blocks)

    def reset(self, slot: int) -> None:
        """Put one slot back to the reset values."""
        self.scatter(np.array([slot]), self._reset)

    @property
    def arrays(self) -> dict[str, Array]:
        """The blocks by state: on the CPU the very memory, else a copy."""
        return self._blocks if self._sets is None else self._sets.read()
