"""Values of states at the start of a stream, computed from the graph."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import shape_of
from lstm_edge_runtime.manifest import Array

from ..graph import is_data_free, spec_of
from ..verify.float64 import Graph64
from ..versions import IR_VERSION
from .capture import Program

Resets = Mapping[ir.Value, float | Array]
"""Reset value of each initial state: a number if all elements are equal, else an array
with size 1 for the batch axis."""


def reset_values(
    graph: ir.Graph, program: Program, batch_axes: Mapping[ir.Value, int]
) -> Resets:
    """Return the reset value of each initial state that depends on sizes alone and has
    equal rows.

    Args:
        graph: the graph with the initial states.
        program: the traced module.
        batch_axes: the batch axis of each initial state.
    """
    values = {str(x.name): x for x in batch_axes if is_data_free(x)}
    if not values:
        return {}
    layers = [node for node in graph if node.domain]  # only sizes of results are read
    results = [value for node in layers for value in node.outputs if value.shape]
    values_at_start = [*graph.inputs, *results]
    start_graph = ir.convenience.extract(graph, values_at_start, [*values.values()])
    model_at_start = ir.Model(start_graph, ir_version=IR_VERSION)
    _without_calls(start_graph)
    at_sizes = [_evaluated(model_at_start, program, steps) for steps in (1, 6)]
    resets: dict[ir.Value, float | Array] = {}
    for name, rows in at_sizes[0].items():
        value = values[name]
        first_row = rows.take([0], axis=batch_axes[value])
        if (
            all(np.array_equal(rows, other[name]) for other in at_sizes)
            and (rows == first_row).all()
        ):
            resets[value] = _reset_value(first_row)
    return resets


def _evaluated(model: ir.Model, program: Program, steps: int) -> Mapping[str, Array]:
    """Return the initial states for two rows and about ``steps`` steps."""
    sizes = {name: limits.nearest(steps) for name, limits in program.ranges.items()}
    sizes.setdefault(str(program.sequence), steps)
    sizes[str(program.batch)] = 2
    feeds = {}
    for spec in map(spec_of, model.graph.inputs):
        feeds[spec.name] = np.zeros(shape_of(spec.axes, sizes), spec.dtype)
    return Graph64(model)(feeds)


def _without_calls(graph: ir.Graph) -> None:
    """Turn the results of recurrent calls and loops into inputs: only their sizes are
    read.
    """
    calls = [node for node in graph if node.domain != ""]
    for node in calls:
        for output in node.outputs:
            stand_in = ir.val(output.name, type=output.type, shape=output.shape)
            graph.inputs.append(stand_in)
            output.replace_all_uses_with(stand_in)
        graph.remove(node)


def _reset_value(row: Array) -> float | Array:
    """Return the number that all elements of ``row`` equal, else ``row``."""
    number = row.flat[0]
    return float(number) if (row == number).all() else row
