"""Rows of a batch: taking one out, and running each alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Manifest

from ._file import Runner

__all__ = ["row_by_row", "take_row"]

Array = npt.NDArray[Any]


def take_row(contract: Manifest, name: str, array: Array, row: int, rows: int) -> Array:
    """Return what of an input or output belongs to ``row``; the array itself where it has no batch axis.

    An axis of ``k*N`` holds k blocks of N, as a stacked read-out does.
    """
    axis = _batch_axis(contract, name)
    return array if axis is None else array.take(np.arange(row, array.shape[axis], rows), axis=axis)


def row_by_row(contract: Manifest, run: Runner) -> Runner:
    """Return a runner that runs each row of a batch alone and puts the outputs together."""

    def alone(feeds: Mapping[str, Array]) -> dict[str, Array]:
        rows = next(
            (
                size
                for name, array in feeds.items()
                for label, size in zip(_axes(contract)[name], array.shape, strict=True)
                if label == contract.batch
            ),
            1,
        )
        parts = [
            run({each: take_row(contract, each, array, row, rows) for each, array in feeds.items()})
            for row in range(rows)
        ]
        return {each: _together(contract, each, [part[each] for part in parts]) for each in parts[0]}

    return alone


def _together(contract: Manifest, name: str, parts: list[Array]) -> Array:
    axis = _batch_axis(contract, name)
    if axis is None:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return np.stack(parts, axis + 1).reshape(shape)


def _batch_axis(contract: Manifest, name: str) -> int | None:
    for axis, label in enumerate(_axes(contract)[name]):
        if isinstance(label, str) and (label == contract.batch or label.endswith(f"*{contract.batch}")):
            return axis
    return None


def _axes(contract: Manifest) -> dict[str, tuple[int | str, ...]]:
    axes = {spec.name: spec.axes for spec in (*contract.inputs, *contract.outputs)}
    for state in contract.states:
        axes |= {state.input: state.axes, state.output: state.axes}
    return axes
