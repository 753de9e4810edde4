"""Whether a sequence fed in chunks equals the whole sequence, and if not, the first node that differs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.state import Run, run_chunks
from lstm_edge_runtime.tolerance import Comparison, compare

from ..graph import values_read
from ..numerics.cases import in_chunks, random_sizes
from ..recurrent import is_recurrent, is_reversed, label, slots
from .evaluate import EMPTY, Session, inputs_above, is_data_free

__all__ = [
    "SHORT",
    "ChunkRun",
    "ChunkedFile",
    "find_counts",
    "rows_keep_states",
    "run_in_chunks",
    "states_stop_at_lengths",
]

Array = npt.NDArray[Any]

Floors = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Gives the outputs' noise floors for every input by name."""

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
    "ReverseSequence": "a reversal of time",
    "MatMul": "a product over time",
    "Gemm": "a product over time",
}
_LAYOUT = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that compute nothing: where one's results differ and its operands do not, the parts are joined on
the wrong axis."""


@dataclass(frozen=True)
class ChunkRun:
    """How a file fed in chunks compares with the whole."""

    sizes: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    in_float: bool = False
    """Whether the file is quantized and its float twin was compared; see ``quantized``."""

    @property
    def worst(self) -> Comparison:
        """The output that is nearest to its limit, or farthest past it."""
        return max(self.comparisons, key=lambda each: each.ratio)


@dataclass(frozen=True)
class ChunkedFile:
    """A file that can be fed in chunks."""

    model: ir.Model
    """Its graph."""
    manifest: Manifest
    """Its states, axes and lengths."""
    run: Run
    """Runs it."""
    lengths: tuple[str, ...]
    """Inputs that give each row's count of steps."""

    @property
    def time_axes(self) -> dict[str, int]:
        """Input name to its time axis."""
        axes = {spec.name: self.manifest.time_axis(spec.axes) for spec in self.manifest.inputs}
        return {name: axis for name, axis in axes.items() if axis is not None}

    def steps(self, feeds: Mapping[str, Array]) -> int:
        """Return how many steps ``feeds`` have."""
        name, axis = next(iter(self.time_axes.items()))
        return int(feeds[name].shape[axis])

    def full(self, run: Run) -> Run:
        """Return ``run`` with every row at the full length of its chunk."""

        def run_full(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            return run({**feeds, **self.with_lengths(feeds, self.steps(feeds))})

        return run_full

    def with_lengths(self, feeds: Mapping[str, Array], steps: int | Array) -> dict[str, Array]:
        """Return the inputs that are lengths, with ``steps`` for every row."""
        return {
            name: np.broadcast_to(np.asarray(steps, feeds[name].dtype), feeds[name].shape)
            for name in self.lengths
        }


def run_in_chunks(
    file: ChunkedFile, feeds: Mapping[str, Array], floors: Mapping[str, Array], rng: np.random.Generator
) -> tuple[ChunkRun | None, str]:
    """Compare the whole sequence with chunks of several random sizes.

    Args:
        file: the file.
        feeds: every input for the whole sequence, states at their reset values.
        floors: noise floors of the outputs for ``feeds``; see ``numerics.noise``.
        rng: draws the sizes.

    Returns:
        The comparison nearest to its limit, None where a chunk does not run; and why chunks do not equal the
        whole, ``""`` where they do.
    """
    run, runs = file.full(file.run), []
    whole = run(feeds)
    for _ in range(_PLANS):
        sizes = random_sizes(file.steps(feeds), rng)
        try:
            chunks = in_chunks(file.manifest, sizes)(run, feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return None, f"a chunk of {min(sizes)} step does not run by itself{_where(error)}"
        comparisons = tuple(
            compare(name, array, whole[name], floor=floors[name] if array.dtype.kind == "f" else 0.0)
            for name, array in chunks.items()
        )
        runs.append(ChunkRun(tuple(sizes), comparisons))
    found = max(runs, key=lambda each: each.worst.ratio)
    if found.worst.ok:
        return found, ""
    try:
        node = _first_divergent_node(file, feeds, found)
    except Exception:  # noqa: BLE001  values between nodes may be no tensors (sequences), which can't be watched
        node = ""
    return found, _describe(node, found.worst)


def _where(error: Exception) -> str:
    """Return the node that onnxruntime names in ``error``, without the places in its own source."""
    found = re.search(r"Name:'(.+?)' Status", str(error))
    if found is None:
        return ""
    return f": {found[1]}" if found[1].startswith(EMPTY) else f" (node {found[1]!r})"


def find_counts(file: ChunkedFile, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the outputs of whole numbers whose values in two chunks add up to those of the whole.

    Args:
        file: the file.
        feeds: every input for the whole sequence, states at their reset values.
    """
    names = [
        spec.name
        for spec in file.manifest.outputs
        if np.dtype(spec.dtype).kind in "iu" and file.manifest.time_axis(spec.axes) is None
    ]
    if not names:
        return ()
    run, steps = file.full(file.run), file.steps(feeds)
    try:
        whole = run(feeds)
        first, last = run_chunks(run, file.manifest, feeds, [steps // 3, steps - steps // 3])
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return ()
    return tuple(
        name
        for name in names
        if first[name].shape == whole[name].shape
        and np.all(first[name] > 0)
        and np.array_equal(first[name] + last[name], whole[name])
    )


def states_stop_at_lengths(file: ChunkedFile, feeds: Mapping[str, Array], floors: Floors) -> bool:
    """Tell whether what stands behind a row's length leaves its last states alone, as packing has it.

    Args:
        file: the file.
        feeds: every input for ``2 * SHORT`` steps or more, states at their reset values.
        floors: gives the outputs' noise floors.
    """
    if not file.lengths or not file.manifest.states:
        return True
    lengths = file.with_lengths(feeds, SHORT)
    cut = {**feeds, **_steps(file, feeds, 0, SHORT), **lengths}
    try:
        padded, alone = file.run({**feeds, **lengths}), file.run(cut)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return False
    return _states_agree(file, padded, alone, floors(cut))


def rows_keep_states(
    file: ChunkedFile, feeds: Mapping[str, Array], batch_axes: Mapping[str, int], floors: Floors
) -> bool:
    """Tell whether a row's state stays its own when rows of unequal length change places from call to call.

    Two chunks are run in which the rows' lengths rise and fall, and each row's steps by themselves.

    Args:
        file: the file; padding leaves its states alone.
        feeds: every input for two rows or more and ``2 * SHORT`` steps or more, states at their reset values.
        batch_axes: input name, states among them, to its batch axis.
        floors: gives the outputs' noise floors.
    """
    if not file.lengths or not file.manifest.states:
        return True
    (rows,) = feeds[file.lengths[0]].shape
    rising = np.linspace(1, SHORT, rows).astype(np.int64)
    states = {state.input: state.output for state in file.manifest.states}
    results: Mapping[str, Array] = {}
    start: dict[str, Array] = {}
    for place, lengths in enumerate((rising, rising[::-1])):
        chunk = _steps(file, feeds, place * SHORT, (place + 1) * SHORT)
        given = file.with_lengths(feeds, lengths)
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
        own |= file.with_lengths(own, len(kept))
        alone = file.run(own)
        mine = {output: results[output].take([row], batch_axes[name]) for name, output in states.items()}
        if not _states_agree(file, mine, alone, floors(own)):
            return False
    return True


def _steps(file: ChunkedFile, feeds: Mapping[str, Array], first: int, last: int) -> dict[str, Array]:
    return {name: feeds[name].take(range(first, last), axis) for name, axis in file.time_axes.items()}


def _states_agree(
    file: ChunkedFile, one: Mapping[str, Array], other: Mapping[str, Array], floors: Mapping[str, Array]
) -> bool:
    names = [state.output for state in file.manifest.states]
    return all(compare(name, one[name], other[name], floor=floors[name]).ok for name in names)


def _first_divergent_node(file: ChunkedFile, feeds: Mapping[str, Array], found: ChunkRun) -> str:
    """Describe the first node above the worst output that differs in chunks while its operands agree.

    Returns:
        ``a convolution over time, Conv 'name'``, or ``""`` where every node's results agree.
    """
    copy = file.model.clone()
    above = _above(next(value for value in copy.graph.outputs if value.name == found.worst.name))
    order = [node for node in _fed_by_data(copy.graph, set(file.time_axes)) if node in above]
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
            waiting.extend(values_read(node))
    return found


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
