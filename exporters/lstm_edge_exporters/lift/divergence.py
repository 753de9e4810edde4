"""Whether a sequence fed in chunks equals the whole sequence, and if not, the first node that differs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import StateSpec
from lstm_edge_runtime.tolerance import Comparison

from ..recurrent import is_recurrent, is_reversed
from .chunks import ChunkRun, chunk_sizes, compare_chunks, join, run_chunks
from .evaluate import Session, is_data_free

__all__ = ["SHORT", "ChunkedFile", "rows_keep_states", "run_in_chunks", "states_stop_at_lengths"]

Array = npt.NDArray[Any]

SHORT = 7
"""Steps of the rows that are compared with and without padding behind them."""
_PLANS = 3
"""Random ways to split the sequence."""
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
}


@dataclass(frozen=True)
class ChunkedFile:
    """A file that can be fed in chunks."""

    model: ir.Model
    """Its graph."""
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    """Runs it."""
    states: tuple[StateSpec, ...]
    time_axes: Mapping[str, int]
    """Input name to its time axis."""
    lengths: tuple[str, ...]
    """Inputs that give each row's count of steps."""

    def step_with(
        self, run: Callable[[Mapping[str, Array]], Mapping[str, Array]], start: Mapping[str, Array]
    ) -> Callable[
        [Mapping[str, Array], Mapping[str, Array] | None, int], tuple[dict[str, Array], dict[str, Array]]
    ]:
        """Return ``run`` as ``chunks.Run``, from the states ``start`` and with every row at full length."""

        def step(
            chunk: Mapping[str, Array], state: Mapping[str, Array] | None, steps: int
        ) -> tuple[dict[str, Array], dict[str, Array]]:
            full = {name: np.full_like(chunk[name], steps) for name in self.lengths}
            results = dict(run({**chunk, **full, **(state or start)}))
            return results, {spec.input: results[spec.output] for spec in self.states}

        return step


def run_in_chunks(
    file: ChunkedFile, feeds: Mapping[str, Array], rng: np.random.Generator
) -> tuple[ChunkRun | None, str]:
    """Compare the whole sequence with chunks of several random sizes.

    Args:
        file: the file.
        feeds: every input for the whole sequence, states at their reset values.
        rng: draws the sizes, and rounding errors.

    Returns:
        The comparison nearest to its limit, None where a chunk does not run; and why chunks do not equal the
        whole, ``""`` where they do.
    """
    states = {spec.input for spec in file.states}
    start = {name: feeds[name] for name in states}
    data = {name: array for name, array in feeds.items() if name not in states}
    name, axis = next(iter(file.time_axes.items()))
    step, runs = file.step_with(file.run, start), []
    for _ in range(_PLANS):
        sizes = chunk_sizes(data[name].shape[axis], rng)
        try:
            runs.append(compare_chunks(step, data, file.time_axes, sizes, rng))
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return None, f"a chunk of {min(sizes)} step does not run by itself ({first_line(error)})"
    found = max(runs, key=lambda each: each.worst.ratio)
    if found.worst.ok:
        return found, ""
    try:
        node = _first_divergent_node(file, start, data, found.sizes, found.worst.name)
    except Exception:  # noqa: BLE001  values between nodes may be no tensors (sequences), which can't be watched
        node = ""
    return found, _describe(node, found.worst)


def states_stop_at_lengths(file: ChunkedFile, feeds: Mapping[str, Array]) -> bool:
    """Tell whether what stands behind a row's length leaves its last states alone, as packing has it.

    Args:
        file: the file.
        feeds: every input for ``2 * SHORT`` steps or more, states at their reset values.
    """
    if not file.lengths or not file.states:
        return True
    lengths = {name: np.full_like(feeds[name], SHORT) for name in file.lengths}
    try:
        padded = file.run({**feeds, **lengths})
        alone = file.run({**feeds, **_steps(file, feeds, 0, SHORT), **lengths})
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return False
    return _states_agree(file, padded, alone)


def rows_keep_states(file: ChunkedFile, feeds: Mapping[str, Array], batch_axes: Mapping[str, int]) -> bool:
    """Tell whether a row's state stays its own when rows of unequal length change places from call to call.

    Two chunks are run in which the rows' lengths rise and fall, and each row's steps by themselves.

    Args:
        file: the file; padding leaves its states alone.
        feeds: every input for two rows or more and ``2 * SHORT`` steps or more, states at their reset values.
        batch_axes: input name, states among them, to its batch axis.
    """
    if not file.lengths or not file.states:
        return True
    (rows,) = feeds[file.lengths[0]].shape
    rising = np.linspace(1, SHORT, rows).astype(np.int64)
    states = {state.input: state.output for state in file.states}
    results: Mapping[str, Array] = {}
    start: dict[str, Array] = {}
    for place, lengths in enumerate((rising, rising[::-1])):
        chunk = _steps(file, feeds, place * SHORT, (place + 1) * SHORT)
        given = {name: lengths.astype(feeds[name].dtype) for name in file.lengths}
        results = file.run({**feeds, **chunk, **given, **start})
        start = {name: results[output] for name, output in states.items()}
    for row in range(rows):
        own = {
            name: array.take([row], batch_axes[name]) if name in batch_axes else array
            for name, array in feeds.items()
        }
        first, second = int(rising[row]), int(rising[rows - 1 - row])
        kept = [*range(first), *range(SHORT, SHORT + second)]
        own |= {name: own[name].take(kept, axis) for name, axis in file.time_axes.items()}
        own |= {name: np.full_like(own[name], len(kept)) for name in file.lengths}
        alone = file.run(own)
        mine = {output: results[output].take([row], batch_axes[name]) for name, output in states.items()}
        if not _states_agree(file, mine, alone):
            return False
    return True


def _steps(file: ChunkedFile, feeds: Mapping[str, Array], first: int, last: int) -> dict[str, Array]:
    return {name: feeds[name].take(range(first, last), axis) for name, axis in file.time_axes.items()}


def _states_agree(file: ChunkedFile, one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return all(
        np.allclose(one[state.output], other[state.output], rtol=1e-3, atol=1e-4) for state in file.states
    )


def _first_divergent_node(
    file: ChunkedFile,
    start: Mapping[str, Array],
    feeds: Mapping[str, Array],
    sizes: Sequence[int],
    output: str,
) -> str:
    """Describe the first node above ``output`` whose results differ in chunks while its operands agree.

    Returns:
        ``a convolution over time, Conv 'name'``, or ``""`` where every node's results agree.
    """
    copy = file.model.clone()
    above = _above(next(value for value in copy.graph.outputs if value.name == output))
    order = [node for node in _fed_by_data(copy.graph, set(file.time_axes)) if node in above]
    watched = list(dict.fromkeys(value for node in order for value in node.outputs if value.name))
    copy.graph.outputs.extend(value for value in watched if not value.is_graph_output())
    step = file.step_with(Session(copy).run, start)
    whole, _ = step(feeds, None, sum(sizes))
    chunks = run_chunks(step, feeds, file.time_axes, sizes, None)
    differing = {
        name
        for name, expected in whole.items()
        if _differs(join([chunk[name] for chunk in chunks], expected), expected)
    }
    for node in order:
        outputs = {value.name for value in node.outputs}
        inputs = {value.name for value in node.inputs if value is not None}
        if outputs & differing and not inputs & differing:
            return f"{_kind(node)}, {node.op_type} {node.name or node.outputs[0].name!r}"
    return ""


def _describe(node: str, worst: Comparison) -> str:
    """Say which node sees past its chunk, or ``the graph``, and by how much the worst output differs."""
    reshaped = np.isnan(worst.got) and np.isnan(worst.expected)
    amount = "comes in another shape" if reshaped else f"differs by up to {worst.max_abs:.3g}"
    return f"{node or 'the graph'} sees more than its chunk: {worst.name} {amount}"


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
    return bool(np.abs(got - expected).max() > _BEYOND_ROUNDING * scale)
