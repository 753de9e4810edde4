"""Finding the node that makes chunks differ from the whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.manifest import StateSpec

from ._chunks import Axis, join, run_chunks
from ._ort import Session, to_bytes
from ._recurrent import is_recurrent, is_reversed
from ._roots import is_data_free

__all__ = ["find_culprit"]

Array = npt.NDArray[Any]

_FAR = 1e-4
"""Beyond rounding, as a share of a value's largest element: what a node that sees past its chunk does."""
_KINDS = {
    "Conv": "a convolution over time",
    "ConvTranspose": "a convolution over time",
    "AveragePool": "a pooling over time",
    "MaxPool": "a pooling over time",
    "LpPool": "a pooling over time",
    "GlobalAveragePool": "a pooling over all time",
    "GlobalMaxPool": "a pooling over all time",
    "Softmax": "a softmax over time",
    "InstanceNormalization": "a normalisation over time",
    "Pad": "a padding of time",
    "Slice": "a choice of steps",
    "Gather": "a choice of steps",
}


def find_culprit(
    model: ir.Model,
    states: Sequence[StateSpec],
    start: Mapping[str, Array],
    feeds: Mapping[str, Array],
    axes: Axis,
    sizes: Sequence[int],
    lengths: Sequence[str],
) -> str:
    """Name the first node whose results differ between chunks and the whole while its operands agree.

    Args:
        model: the lifted graph.
        states: its states.
        start: their reset values.
        feeds: data inputs for the whole sequence.
        axes: the inputs' time axes.
        sizes: the chunks.
        lengths: inputs that give each row's count of steps.

    Returns:
        ``a convolution over time, Conv 'name'``, or ``""`` where every node's results agree.
    """
    copy = model.clone()
    order = [
        node for node in copy.graph if not any(is_data_free(value) for value in node.outputs if value.name)
    ]
    watched = list(dict.fromkeys(value for node in order for value in node.outputs if value.name))
    copy.graph.outputs.extend(value for value in watched if not value.is_graph_output())
    session = Session(to_bytes(copy))

    def run(
        part: Mapping[str, Array], state: Mapping[str, Array] | None, steps: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        filled = {name: np.full_like(part[name], steps) for name in lengths}
        results = session.run({**part, **filled, **(state or start)})
        return results, {spec.input: results[spec.output] for spec in states}

    whole, _ = run(feeds, None, sum(sizes))
    parts = run_chunks(run, feeds, axes, sizes, None)
    differing = {
        name
        for name, expected in whole.items()
        if _differs(join([part[name] for part in parts], expected), expected)
    }
    differing.update(lengths)
    for node in order:
        outputs = {value.name for value in node.outputs}
        inputs = {value.name for value in node.inputs if value is not None}
        if outputs & differing and not inputs & differing:
            return f"{_kind(node)}, {node.op_type} {node.name or node.outputs[0].name!r}"
    return ""


def _kind(node: ir.Node) -> str:
    if is_recurrent(node):
        return (
            "a layer that reads time backwards" if is_reversed(node) else "a layer whose state is not carried"
        )
    if node.op_type.startswith("Reduce"):
        return "a reduction over time"
    return _KINDS.get(node.op_type, "an operator that sees past its chunk")


def _differs(got: Array, expected: Array) -> bool:
    if got.shape != expected.shape:
        return True
    if expected.dtype.kind != "f" or not expected.size:
        return not np.array_equal(got, expected)
    scale = max(float(np.abs(expected).max()), 1e-30)
    return bool(np.abs(got - expected).max() > _FAR * scale)
