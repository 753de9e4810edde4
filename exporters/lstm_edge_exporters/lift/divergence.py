"""Why a sequence fed in chunks does not equal the whole sequence: the first node that differs."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..chunks import run_chunks
from ..evaluate import EMPTY, inputs_above, is_data_free
from ..graph import operands, values_read, walk
from ..numerics.graph64 import Graph64, differs
from ..numerics.verify import ChunkedFile, ChunkRun
from ..recurrent import is_recurrent, is_reversed, label, slots
from ..streaming.flow import NotStreamableError

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
    model: ir.Model,
    file: ChunkedFile,
    feeds: Mapping[str, Array],
    found: ChunkRun,
    refused: NotStreamableError | None = None,
) -> str:
    """Return why chunks do not equal the whole; without a run in float64 no node is named.

    Args:
        model: the file's graph.
        file: the file.
        feeds: what ``run_in_chunks`` was given.
        found: what it gave.
        refused: why no operator along time has its past in a state; for the same reason others differ too.
    """
    if refused is not None:
        return str(refused)
    graph = file.function and file.function.graph
    if found.error is not None:
        return f"a chunk of {min(found.sizes)} step does not run by itself{_where(found.error)}"
    carried = {state.input for state in file.manifest.states}
    node = ""
    if isinstance(graph, Graph64):
        inputs = {str(value.name) for value in model.graph.inputs}  # carried states differ as they should
        differing = _differing(graph, file, feeds, found.sizes) - inputs
        first = next(_divergent_nodes(model.graph, set(file.manifest.time_axes), found, differing), None)
        if first:
            node = f"{_kind(first, carried)}, {label(first)}"
    worst = found.worst
    reshaped = np.isnan(worst.got) and np.isnan(worst.expected)
    amount = "comes in another shape" if reshaped else f"differs by up to {worst.max_abs:.3g}"
    return f"{node or 'the graph'} sees more than its chunk: {worst.name} {amount}"


def _where(error: Exception) -> str:
    """Return the node that onnxruntime names in ``error``, without the places in its own source."""
    found = re.search(r"Name:'(.+?)' Status", str(error))
    if found is None:
        return ""
    return f": {found[1]}" if found[1].startswith(EMPTY) else f" (node {found[1]!r})"


def _differing(
    graph: Graph64, file: ChunkedFile, feeds: Mapping[str, Array], sizes: Sequence[int]
) -> set[str]:
    """Return the values that are others in chunks than in the whole."""
    run = file.full(graph.values)
    chunks = list(run_chunks(run, file.manifest, feeds, sizes))
    return {
        name
        for name, whole in run(feeds).items()
        if isinstance(whole, np.ndarray)
        and differs(whole, _join([chunk[name] for chunk in chunks], whole), _BEYOND_ROUNDING)
    }


def _divergent_nodes(
    graph: ir.Graph, data: set[str], found: ChunkRun, differing: set[str]
) -> Iterator[ir.Node]:
    """Yield the nodes above the worst output that differ in chunks while their operands agree."""
    worst = next(value for value in graph.outputs if value.name == found.worst.name)
    above = {value.producer() for value in walk([worst], operands)}
    for node in _fed_by_data(graph, data):
        outputs = {str(value.name) for value in node.outputs}
        if node not in above or not outputs & differing:
            continue
        if differing.isdisjoint(str(value.name) for value in values_read(node)):
            if node.op_type not in _LAYOUT:
                yield node
            differing = differing - outputs  # only in how its parts are joined


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
