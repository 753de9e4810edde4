"""Why a sequence fed in chunks does not equal the whole sequence: the first node that differs."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.state import run_chunks
from lstm_edge_runtime.tolerance import Comparison

from ..graph import operands, values_read, walk
from ..numerics.verify import ChunkedFile, ChunkRun
from ..recurrent import is_recurrent, is_reversed, label, slots
from .evaluate import EMPTY, Session, inputs_above, is_data_free

__all__ = ["explain_divergence"]

_BEYOND_ROUNDING = 1e-4
"""As a fraction of a value's largest element: the least that a node does which sees past its chunk."""
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
    "ReverseSequence": "a reversal of time",
    "MatMul": "a product over time",
    "Gemm": "a product over time",
}
_LAYOUT = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that compute nothing: where one's results differ and its operands do not, the parts are joined on
the wrong axis."""


def explain_divergence(
    model: ir.Model, file: ChunkedFile, feeds: Mapping[str, Array], found: ChunkRun
) -> str:
    """Return why chunks do not equal the whole.

    Args:
        model: the file's graph.
        file: the file.
        feeds: what ``run_in_chunks`` was given.
        found: what it gave.
    """
    if found.error is not None:
        return f"a chunk of {min(found.sizes)} step does not run by itself{_where(found.error)}"
    try:
        node = _first_divergent_node(model, file, feeds, found)
    except Exception:  # noqa: BLE001  values between nodes may be no tensors (sequences), which can't be watched
        node = ""
    return _describe(node, found.worst)


def _where(error: Exception) -> str:
    """Return the node that onnxruntime names in ``error``, without the places in its own source."""
    found = re.search(r"Name:'(.+?)' Status", str(error))
    if found is None:
        return ""
    return f": {found[1]}" if found[1].startswith(EMPTY) else f" (node {found[1]!r})"


def _first_divergent_node(
    model: ir.Model, file: ChunkedFile, feeds: Mapping[str, Array], found: ChunkRun
) -> str:
    """Describe the first node above the worst output that differs in chunks while its operands agree.

    Returns:
        ``a convolution over time, Conv 'name'``, or ``""`` where every node's results agree.
    """
    copy = model.clone()
    worst = next(value for value in copy.graph.outputs if value.name == found.worst.name)
    above = {value.producer() for value in walk([worst], operands)}
    order = [node for node in _fed_by_data(copy.graph, set(file.manifest.time_axes)) if node in above]
    watched = list(dict.fromkeys(value for node in order for value in node.outputs if value.name))
    copy.graph.outputs.extend(value for value in watched if not value.is_graph_output())
    run = file.full(Session(copy).run)
    whole = run(feeds)
    chunks = list(run_chunks(run, file.manifest, feeds, found.sizes))
    differing = {
        name
        for name, expected in whole.items()
        if _differs(_join([chunk[name] for chunk in chunks], expected), expected)
    }
    carried = {state.input for state in file.manifest.states}
    for node in order:
        outputs = {value.name for value in node.outputs}
        if outputs & differing and not {value.name for value in values_read(node)} & differing:
            if node.op_type not in _LAYOUT:
                return f"{_kind(node, carried)}, {label(node)}"
            differing -= outputs  # only in how its parts are joined
    return ""


def _join(parts: Sequence[Array], whole: Array) -> Array:
    """Join chunks along the axis on which they are shorter than the whole; else return the last.

    Of a value inside the graph nothing says which axis is time.
    """
    last = parts[-1]
    if last.ndim != whole.ndim:
        return last
    shorter = [
        axis
        for axis in range(whole.ndim)
        if len({*(part.shape[axis] for part in parts), whole.shape[axis]}) > 1
    ]
    return np.concatenate(parts, axis=shorter[0]) if len(shorter) == 1 else last


def _describe(node: str, worst: Comparison) -> str:
    """Return which node sees past its chunk, or ``the graph``, and by how much the worst output differs."""
    reshaped = np.isnan(worst.got) and np.isnan(worst.expected)
    amount = "comes in another shape" if reshaped else f"differs by up to {worst.max_abs:.3g}"
    return f"{node or 'the graph'} sees more than its chunk: {worst.name} {amount}"


def _fed_by_data(graph: ir.Graph, inputs: set[str]) -> list[ir.Node]:
    """Return the nodes that the sequence reaches; a carried state and its rows differ as they should."""
    reached: set[ir.Value] = {value for value in graph.inputs if value.name in inputs}
    found = []
    for node in graph:
        if any(value in reached for value in values_read(node)) and not any(
            is_data_free(value) for value in node.outputs if value.name
        ):
            found.append(node)
            reached.update(node.outputs)
    return found


def _kind(node: ir.Node, carried: set[str]) -> str:
    if is_recurrent(node):
        starts = [slot.initial for slot in slots(node) if slot.initial is not None]
        if is_reversed(node):
            return "a layer that reads time backwards"
        if any(inputs_above(value) & carried for value in starts):
            return "a layer that takes other steps than the sequence's"
        return "a layer whose state is not carried"
    if node.op_type.startswith("Reduce"):
        return "a reduction over time"
    return _KINDS.get(node.op_type, "an operator that sees past its chunk")


def _differs(got: Array, expected: Array) -> bool:
    if got.shape != expected.shape:
        return True
    if expected.dtype.kind != "f" or not expected.size:
        return not np.array_equal(got, expected)
    scale = max(float(np.abs(expected).max()), 1e-30)
    return bool(np.abs(got - expected).max() > _BEYOND_ROUNDING * scale)
