"""Random data for a graph's inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import InputError

from ..recurrent import LENGTHS, is_recurrent
from ._axes import axes_of, data_inputs

__all__ = ["length_inputs", "sample_inputs"]

Array = npt.NDArray[Any]

_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Clip")


def sample_inputs(
    graph: ir.Graph, sizes: Mapping[str, int], rng: np.random.Generator, length: int
) -> dict[str, Array]:
    """Draw every input that must be fed.

    Floats are standard normal; integers are tokens below the size of the table that they index (below 2
    where none is found); an input that reaches a node's ``sequence_lens`` is ``length`` for every row.

    Raises:
        InputError: an input is no tensor of numbers, or its rank is unknown.
    """
    lengths = length_inputs(graph)
    feeds = {}
    for value in data_inputs(graph):
        if value.dtype is None or value.shape is None:
            raise InputError(
                f"input {value.name!r} declares no shape; give its axes: --input {value.name}=N,L,8"
                if value.shape is None
                else f"input {value.name!r} declares no dtype; declare it in the file"
            )
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes_of(value)]
        dtype = value.dtype.numpy()
        if value.name in lengths:
            array = np.full(shape, length, dtype)
        elif value.dtype.is_floating_point():
            array = rng.standard_normal(shape).astype(dtype)
        elif dtype == np.bool_:
            array = rng.integers(0, 2, shape).astype(dtype)
        elif value.dtype.is_integer():
            array = rng.integers(0, _table(value), shape).astype(dtype)
        else:
            raise InputError(
                f"input {value.name!r} is {value.dtype.name}; only numbers can be drawn at random"
            )
        feeds[str(value.name)] = array
    return feeds


def length_inputs(graph: ir.Graph) -> tuple[str, ...]:
    """Name the inputs that reach some node's ``sequence_lens``."""
    return tuple(
        str(value.name)
        for value in data_inputs(graph)
        if value.dtype is not None
        and value.dtype.is_integer()
        and any(is_recurrent(node) and place == LENGTHS for node, place in _readers(value))
    )


def _readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return the nodes that read ``value``, as it is or through operators that keep its numbers."""
    found: list[tuple[ir.Node, int]] = []
    waiting, seen = [value], {value}
    while waiting:
        for node, place in waiting.pop().uses():
            if node.op_type not in _THROUGH:
                found.append((node, place))
            elif place == 0 and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])
    return found


def _table(value: ir.Value) -> int:
    rows = [
        node.inputs[0].shape[node.attributes.get_int("axis", 0) or 0]
        for node, place in _readers(value)
        if node.op_type == "Gather" and place == 1 and node.inputs[0] is not None and node.inputs[0].shape
    ]
    return min((size for size in rows if isinstance(size, int)), default=2)
