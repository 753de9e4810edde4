"""The manifest of a lifted file: axes found by running it, states, golden case."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.axes import resolve, with_ones
from lstm_edge_runtime.errors import FileFormatError
from lstm_edge_runtime.manifest import Axes, StateSpec, TensorSpec

from ._axes import axes_of, axis_name

__all__ = ["input_specs", "output_axes", "reset_arrays"]

Array = npt.NDArray[Any]


def input_specs(graph: ir.Graph, states: Sequence[StateSpec]) -> tuple[TensorSpec, ...]:
    """Describe the inputs that are not states."""
    taken = {state.input for state in states}
    return tuple(
        TensorSpec(str(value.name), str(value.dtype.numpy().name), axes_of(value))
        for value in graph.inputs
        if value.name not in taken and not value.is_initializer() and value.dtype is not None
    )


def output_axes(
    name: str, small: Array, large: Array, cases: tuple[Mapping[str, int], Mapping[str, int]]
) -> Axes:
    """Name an output's axes from its shapes in two runs whose sizes are all different.

    Raises:
        FileFormatError: it has more axes in one run than in the other, as branches of an ``If`` may give.
    """
    if small.ndim != large.ndim:
        raise FileFormatError(
            f"output {name} has {small.ndim} axes in one run and {large.ndim} in another; "
            "let every branch give the same number of axes"
        )
    axes: list[int | str] = []
    for place, sizes in enumerate(zip(small.shape, large.shape, strict=True)):
        known = axis_name(sizes, cases)
        axes.append(f"{name}.{place}" if known is None else known)
    return tuple(axes)


def reset_arrays(states: Sequence[StateSpec], sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return every state's reset value at ``sizes``; an axis that no size is known for has one row."""
    arrays = {}
    for state in states:
        shape = resolve(state.axes, with_ones(state.axes, sizes))
        assert shape is not None
        arrays[state.input] = np.broadcast_to(np.asarray(state.reset, state.dtype), shape).copy()
    return arrays
