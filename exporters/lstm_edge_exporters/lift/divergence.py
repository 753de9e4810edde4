"""Finding the node that makes chunks differ from the whole."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.manifest import StateSpec
from lstm_edge_runtime.tolerance import Comparison

from ..recurrent import is_recurrent, is_reversed
from ._chunks import Axis, join, run_chunks
from ._ort import Session, to_bytes
from .evaluate import is_data_free

__all__ = ["blame", "find_culprit"]

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
    "InstanceNormalization": "a normalization over time",
    "CumSum": "a running sum over time",
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
    output: str,
) -> str:
    """Name the first node above ``output`` whose results differ in chunks while its operands agree.

    Args:
        model: the lifted graph.
        states: its states.
        start: their reset values.
        feeds: data inputs for the whole sequence.
        axes: the inputs' time axes.
        sizes: the chunks.
        lengths: inputs that give each row's count of steps.
        output: the output that differs.

    Returns:
        ``a convolution over time, Conv 'name'``, or ``""`` where every node's results agree.
    """
    copy = model.clone()
    above = _above(next(value for value in copy.graph.outputs if value.name == output))
    order = [node for node in _fed_by_data(copy.graph, set(axes)) if node in above]
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
    for node in order:
        outputs = {value.name for value in node.outputs}
        inputs = {value.name for value in node.inputs if value is not None}
        if outputs & differing and not inputs & differing:
            return f"{_kind(node)}, {node.op_type} {node.name or node.outputs[0].name!r}"
    return ""


def blame(culprit: str, worst: Comparison) -> str:
    """Say which node is to blame, or ``the graph``, and by how much the worst output differs."""
    reshaped = np.isnan(worst.got) and np.isnan(worst.expected)
    amount = "comes in another shape" if reshaped else f"differs by up to {worst.max_abs:.3g}"
    return f"{culprit or 'the graph'} sees more than its chunk: {worst.name} {amount}"


def _above(value: ir.Value) -> set[ir.Node]:
    """Return every node of the main graph that ``value`` depends on."""
    found: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(_read(node))
    return found


def _fed_by_data(graph: ir.Graph, inputs: set[str]) -> list[ir.Node]:
    """Return the nodes that the sequence reaches; a carried state and its rows differ as they should."""
    reached: set[ir.Value] = {value for value in graph.inputs if value.name in inputs}
    found = []
    for node in graph:
        if any(value in reached for value in _read(node)) and not any(
            is_data_free(value) for value in node.outputs if value.name
        ):
            found.append(node)
            reached.update(node.outputs)
    return found


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Return what a node reads, its bodies' captures included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from (value for value in inner.inputs if value is not None)


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
