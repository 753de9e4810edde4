"""The rows of a batch that each element of a graph's values is computed from.

A network computes one row at a time only if no row reads another. Samples show this for
sums and means, but not for a decision that no sample takes, as in ``(x > 6).any()`` or
``relu(x.mean() - 5)``. So each operator is examined alone. Elementwise operators keep
rows apart. Operators that move elements move their rows with them. For all others,
elements of some rows are changed at random; results that change depend on these rows.

Rows form two groups: the first or last rows (the minimum of a call), and the others. A
size depends on no row. Sorted rows are followed in the order of the case.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import row_axis, row_factor
from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Array, Manifest

from ..graph import ELEMENTWISE, values_read
from ..recurrent import ACTIVATIONS, LENGTHS
from .cases import Feeds
from .float64 import Graph64

Rows = dict[str, Array]
"""Groups of rows that each element of a value depends on, as bits, by the value's name;
a value that depends on none is left out."""
PART = np.uint8(1)
_OTHERS = np.uint8(2)
_BOTH = 3
_SIZES = frozenset({"ConstantOfShape", "EyeLike", "Shape", "Size"})
"""Operators whose results depend on sizes alone."""
_SELECTING = frozenset({"Compress", "NonZero", "Unique"})
"""Operators whose results are as many as their operands' values make them."""
_MOVING = frozenset(
    (
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements"),
        *("GatherND", "Identity", "Reshape", "ReverseSequence", "Slice"),
        *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu"),
        "Unsqueeze",
    )
)
"""Operators whose results are elements of the first operand; of all for ``Concat``."""
_FIXED: Mapping[str, int] = {
    "Pad": 1,
    "Resize": 1,
    "ScatterElements": 1,
    "ScatterND": 1,
}
"""Index of the operand that holds indices or sizes, which stay as they are."""
_FACTOR = 10.0
"""Factor of an element that is changed, above the spread of the others."""
_WITH_ROWS = (0, 5, 6)
"""Indices of the operands ``x``, ``initial_h`` and ``initial_c``."""


@dataclass(frozen=True)
class _Scope:
    """The values that nodes read and give."""

    values: Feeds
    """Every value of a run, by name."""
    rows: Rows
    """The rows that values depend on; those of results are added."""
    mixed: dict[str, None]
    """Names of values with elements of both groups, also in bodies, in the order of
    their first step; added to."""


@dataclass(frozen=True)
class _Call:
    """A node that ran."""

    run: Any
    """The node of the evaluator."""
    operands: Sequence[Any]
    """The values that it read; None for one that is left out."""
    read: Sequence[Array | None]
    """The rows that these depend on."""
    results: Sequence[Any]
    """The values that it gave."""

    def known(self) -> list[Array]:
        """Return ``read`` with zeros instead of None."""
        return [
            np.zeros(np.shape(array), np.uint8) if groups is None else groups
            for array, groups in zip(self.operands, self.read, strict=True)
        ]


class UndecidedRowsError(Exception):
    """An operator for which it is unknown which rows its results depend on."""


@dataclass(frozen=True)
class Mixed:
    """An output whose rows depend on other rows."""

    output: str
    """Name of the output."""
    node: ir.Node | None
    """First node with elements of several rows, maybe in a loop; None if rows change
    places."""


def mixed_rows(
    graph: Graph64,
    manifest: Manifest,
    feeds: Feeds,
    count: int,
    held: Collection[str] = (),
) -> Mixed | None:
    """Return an output whose rows depend on other rows than their own; None if there is
    none.

    Args:
        graph: the graph.
        manifest: its contract.
        feeds: a case of a multiple of ``count`` rows.
        count: number of rows that may depend on each other.
        held: states that every call starts at reset, so that their order is free.

    Raises:
        UndecidedRowsError: the flow of rows through an operator is unknown.
    """
    parts = (slice(count), slice(-count, None))  # any two rows are apart in one of them
    found = (_mixed(graph, manifest, feeds, part, held=held) for part in parts)
    return next(filter(None, found), None)


def _mixed(
    graph: Graph64, manifest: Manifest, feeds: Feeds, part: slice, held: Collection[str]
) -> Mixed | None:
    """Return an output whose rows in ``part`` depend on the other rows, or the reverse;
    None without one.
    """
    rows = Rows()
    for name, array in feeds.items():
        own = own_rows(manifest, name, array.shape, part)
        if own is not None and name not in (manifest.lengths, *held):
            rows[name] = own
    scope = _Scope(graph.values(feeds), rows, {})
    _follow(graph.evaluator, scope)
    free = {state.output for state in manifest.states if state.input in held}
    for name in (str(value.name) for value in graph.model.graph.outputs):
        if name in free:
            continue
        own = own_rows(manifest, name, scope.values[name].shape, part)
        if own is not None and name in rows and (rows[name] & ~own).any():
            return Mixed(name, _first_mixed(graph.model.graph, name, scope.mixed))
    return None


def own_rows(
    manifest: Manifest, name: str, shape: tuple[int, ...], part: slice
) -> Array | None:
    """Return the group of each element of an input or output, ``PART`` for that part of
    the rows; None if it has no axis of rows.
    """
    axes = manifest.axes.get(name, ())
    axis = row_axis(axes, manifest.batch)
    if axis is None:
        return None
    blocks = row_factor(axes[axis], manifest.batch) or 1
    group = np.full(shape[axis] // blocks, _OTHERS)
    group[part] = PART
    trailing = [1] * (len(shape) - axis - 1)
    return np.broadcast_to(np.tile(group, blocks).reshape(-1, *trailing), shape)


def _first_mixed(
    graph: ir.Graph, output: str, mixed: dict[str, None]
) -> ir.Node | None:
    """Return the first node that ``output`` depends on and that has ``mixed`` results;
    None if there is none. In a loop, return the first one of its body.
    """
    above = {output}
    first = None
    for node in reversed(graph):
        names = {str(value.name) for value in node.outputs}
        if above.isdisjoint(names):
            continue
        above.update(str(value.name) for value in values_read(node))
        if not names.isdisjoint(mixed):
            first = node
    if first is None:
        return None
    inside = {
        str(value.name): inner
        for attribute in first.attributes.values()
        if attribute.type is ir.AttributeType.GRAPH
        for inner in attribute.as_graph()
        for value in inner.outputs
    }
    return next((inside[name] for name in mixed if name in inside), first)


def _follow(evaluator: Any, scope: _Scope) -> None:
    """Add the rows of every result of a graph or body to those of a scope."""
    values = scope.values
    for run in evaluator.rt_nodes_:
        node = _Call(
            run,
            operands=[values[name] for name in run.input],
            read=[scope.rows.get(name) for name in run.input],
            results=[values[name] for name in run.output],
        )
        try:
            found = _results(node, scope)
        except UndecidedRowsError:
            raise
        except Exception as error:  # the evaluator's exceptions share no base class
            raise UndecidedRowsError(
                f"{run.op_type} {run.onnx_node.name!r}: {first_line(error)}"
            ) from error
        for name, groups, result in zip(run.output, found, node.results, strict=False):
            if groups is not None and groups.any():
                scope.rows[name] = np.broadcast_to(groups, np.shape(result))
                if (groups == _BOTH).any():
                    scope.mixed[name] = None


def _results(node: _Call, scope: _Scope) -> Sequence[Array | None]:
    """Return the rows that the results of a node depend on."""
    op_type = node.run.op_type
    if op_type in _BODIES:
        return _BODIES[op_type](node, scope)
    if op_type in _SIZES or all(groups is None for groups in node.read):
        return []
    if op_type in _SELECTING:
        raise UndecidedRowsError(f"{op_type} {node.run.onnx_node.name!r}")
    if op_type in _RULES:
        return _RULES[op_type](node)
    if op_type in ELEMENTWISE and op_type != "BatchNormalization":
        return _elementwise(node)
    return _moving(node) if op_type in _MOVING else _probed(node)


def _union(read: Sequence[Array | None]) -> Array:
    """Return the groups of elements that broadcast."""
    union = np.zeros((), np.uint8)
    for groups in read:
        if groups is not None:
            union = union | groups
    return union


def _all_of(groups: Array) -> Array:
    """Return all groups that occur."""
    return np.asarray(np.bitwise_or.reduce(groups, axis=None))


def _elementwise(node: _Call) -> Sequence[Array]:
    """An element depends on the elements of its place."""
    return [_union(node.read)] * len(node.results)


def _product(node: _Call) -> Sequence[Array]:
    """A product with a zero that depends on no row depends on none."""
    union = _union(node.read)
    for array, groups in zip(node.operands, node.read, strict=True):
        if groups is None:
            union = np.where(array == 0, np.uint8(0), union)
    return [union]


def _choice(node: _Call) -> Sequence[Array]:
    """A condition that depends on no row chooses between the rows of both operands."""
    condition, first, second = node.known()
    if node.read[0] is None:
        return [np.where(node.operands[0], first, second)]
    return [condition | first | second]


def _cast(node: _Call) -> Sequence[Array]:
    """Elements depend on those of the first operand; another gives the type."""
    return [node.known()[0]]


def _moving(node: _Call) -> Sequence[Array]:
    """Elements move, and so do their rows; chosen ones depend on their index too."""
    known = node.known()
    is_concat = node.run.op_type == "Concat"
    found = node.run.run(*known if is_concat else [known[0], *node.operands[1:]])
    if not node.run.op_type.startswith("Gather") or node.read[1] is None:
        return list(found)
    return [found[0] | _by_index(node.run, known[1], node.results[0].ndim)]


def _by_index(run: Any, indices: Array, rank: int) -> Array:
    """Return the groups of the indices of a Gather in the shape of its result."""
    if run.op_type == "GatherElements":
        return indices
    if run.op_type == "GatherND":
        groups: Array = np.bitwise_or.reduce(indices, axis=-1)
        return groups.reshape(*groups.shape, *[1] * (rank - groups.ndim))
    data_rank = rank - indices.ndim + 1
    trailing = data_rank - 1 - (run.axis or 0) % data_rank
    return indices.reshape(*indices.shape, *[1] * trailing)


def _one_hot(node: _Call) -> Sequence[Array]:
    """A code depends on its index."""
    return [np.expand_dims(node.known()[0], node.run.axis)]


def _sorted(node: _Call) -> Sequence[Array]:
    """Results of TopK depend on all elements along its axis; if all are sorted, they
    move.
    """
    groups = node.known()[0]
    values, indices = node.results
    if values.shape == groups.shape:
        return [np.take_along_axis(groups, indices, node.run.axis)] * 2
    return [np.bitwise_or.reduce(groups, axis=node.run.axis, keepdims=True)] * 2


def _extreme(node: _Call) -> Sequence[Array]:
    """The index of an extreme depends on all elements along the axis."""
    axis = int(node.run.axis or 0)
    every = np.bitwise_or.reduce(node.known()[0], axis=axis, keepdims=True)
    return [every if node.run.keepdims else every.squeeze(axis)]


def _range(node: _Call) -> Sequence[Array]:
    """The end of a range is a size."""
    return [_union([node.read[0], node.read[2]])]


def _recurrent(node: _Call) -> Sequence[Array]:
    """A row of ``x (L, N, I)``, of its length and of its states reaches all of that
    row.
    """
    per_row = np.zeros(node.operands[0].shape[1], np.uint8)
    for index, groups in enumerate(node.read):
        if groups is None:
            continue
        if index == LENGTHS:
            per_row |= groups
        elif index in _WITH_ROWS:
            per_row |= np.bitwise_or.reduce(groups, axis=(0, 2))
        else:
            per_row |= _all_of(groups)
    return [per_row[:, None]] * len(node.results)


def _probed(node: _Call) -> Sequence[Array]:
    """Scale the elements of one group at a time, up and down; compare the results."""
    rng = np.random.default_rng(0)
    fixed = _FIXED.get(node.run.op_type)
    base = [*node.operands]
    known = node.known()
    probed = [index for index, groups in enumerate(known) if groups.any()]
    for index in probed:
        if index != fixed:
            base[index] = 1.0 + rng.random(known[index].shape)
    before = node.run.run(*base)
    found = [np.zeros(np.shape(result), np.uint8) for result in before]
    for group in (PART, _OTHERS):
        for power in (1.0, -1.0):
            changed = [*base]
            for index in probed:
                if index != fixed:
                    factor = (_FACTOR + rng.random(known[index].shape)) ** power
                    is_changed = known[index] & group != 0
                    changed[index] = base[index] * np.where(is_changed, factor, 1.0)
            after = node.run.run(*changed)
            for groups, one, other in zip(found, before, after, strict=True):
                groups |= np.where(one != other, group, np.uint8(0))
    return found


def _scattered(node: _Call) -> Sequence[Array]:
    """An element that is written depends on its index and on the one that it gets."""
    data, indices, updates = node.known()
    if node.run.op_type == "ScatterND":
        indices = np.bitwise_or.reduce(indices, axis=-1)
        indices = indices.reshape(*indices.shape, *[1] * (updates.ndim - indices.ndim))
    written = updates | indices
    if (node.run.reduction or "none") != "none":
        return _probed(replace(node, read=[data, None, written]))
    return list(node.run.run(data, node.operands[1], written))


def _scan(node: _Call, scope: _Scope) -> Sequence[Array | None]:
    """Follow the body step by step."""
    count = len(node.operands) - node.run.num_scan_inputs
    steps = len(node.operands[count])
    body = _Body(node.run.body, scope)
    states = list(zip(node.operands[:count], node.read[:count], strict=True))
    collected = []
    for step in range(steps):
        frames = [
            (array[step], None if groups is None else groups[step])
            for array, groups in zip(
                node.operands[count:], node.read[count:], strict=True
            )
        ]
        results = body.step([*states, *frames])
        states = results[:count]
        collected.append([groups for _, groups in results[count:]])
    return [*(groups for _, groups in states), *_stacked(collected)]


def _loop(node: _Call, scope: _Scope) -> Sequence[Array | None]:
    """Follow the body step by step; the condition to go on affects all results."""
    count, go, *states = zip(node.operands, node.read, strict=True)
    body = _Body(node.run.body, scope)
    states_count = len(states)
    collected = list[list[Array | None]]()
    limit = np.inf if count[0] is None else int(count[0].item())
    deciding = [count[1], go[1]]
    again = go[0] is None or bool(go[0].item())
    while again and len(collected) < limit:
        position = (np.array(len(collected)), None)
        condition, *results = body.step([position, (np.array(again), go[1]), *states])
        again = bool(condition[0].item())
        deciding.append(condition[1])
        states = results[:states_count]
        collected.append([groups for _, groups in results[states_count:]])
    found = [*(groups for _, groups in states), *_stacked(collected)]
    return _with(found, deciding)


def _branch(node: _Call, scope: _Scope) -> Sequence[Array | None]:
    """Follow the branch that is taken."""
    taken = node.run.then_branch if node.operands[0].item() else node.run.else_branch
    results = _Body(taken, scope).step([])
    return _with([groups for _, groups in results], node.read)


def _with(
    found: Sequence[Array | None], deciding: Sequence[Array | None]
) -> Sequence[Array | None]:
    """Return groups with those that a decision depends on."""
    groups = [_all_of(each) for each in deciding if each is not None]
    return [_union([own, *groups]) for own in found] if groups else found


def _stacked(steps: Sequence[Sequence[Array | None]]) -> list[Array | None]:
    """Return the groups that a loop collects, along a new first axis."""
    stacked = list[Array | None]()
    for groups in zip(*steps, strict=True):
        known = [np.zeros((), np.uint8) if each is None else each for each in groups]
        stacked.append(np.stack(np.broadcast_arrays(*known)))
    return stacked


class _Body:
    """A body in its outer graph."""

    def __init__(self, evaluator: Any, outer: _Scope) -> None:
        """Take the scope of the values that the body may read."""
        self._evaluator = evaluator
        self._outer = outer

    def step(
        self, inputs: Sequence[tuple[Any, Array | None]]
    ) -> list[tuple[Any, Array | None]]:
        """Return values and rows of the results for those of the inputs."""
        names = self._evaluator.input_names
        feeds = {**self._outer.values}
        rows = {**self._outer.rows}
        for name, (array, groups) in zip(names, inputs, strict=True):
            feeds[name] = array
            rows.pop(name, None)
            if groups is not None:
                rows[name] = groups
        values = self._evaluator.run(None, feeds, intermediate=True)
        _follow(self._evaluator, _Scope(values, rows, self._outer.mixed))
        outputs = self._evaluator.output_names
        return [(values[name], rows.get(name)) for name in outputs]


_RULES: Mapping[str, Callable[..., Sequence[Array | None]]] = {
    **dict.fromkeys(ACTIVATIONS, _recurrent),
    **dict.fromkeys(("ArgMax", "ArgMin"), _extreme),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _scattered),
    **dict.fromkeys(("And", "Mul"), _product),
    "CastLike": _cast,
    "OneHot": _one_hot,
    "Range": _range,
    "TopK": _sorted,
    "Where": _choice,
}
_BODIES: Mapping[str, Callable[..., Sequence[Array | None]]] = {
    "If": _branch,
    "Loop": _loop,
    "Scan": _scan,
}
