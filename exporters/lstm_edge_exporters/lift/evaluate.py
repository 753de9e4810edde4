"""Which values are constant in everything but the sizes, and what they are.

A value is *data-free* when it is computed from constants and from the shapes of other values alone:
``ConstantOfShape``, ``Expand``, ``Tile`` and ``Concat`` chains and whatever else a framework writes. What
it is, is found by running that part of the graph.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..recurrent import recurrent_nodes, slots
from ._guard import guard
from ._ort import Session, to_bytes
from ._sample import sample_inputs

__all__ = ["constant", "evaluate", "is_data_free"]

Array = npt.NDArray[Any]

_SHAPE_READERS = ("Shape", "Size")
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or a ``Constant`` node, None for any other value."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_data_free(value: ir.Value) -> bool:
    """Tell whether ``value`` depends on constants and sizes alone.

    A product with a constant zero counts as free of the other factor (``x * 0``, a common way to write
    zeros of the right size).
    """
    known: dict[ir.Value, bool] = {}
    waiting = [value]
    while waiting:
        current = waiting[-1]
        needed = [entry for entry in _needs(current) if entry not in known]
        if needed and _possible(current):
            waiting.extend(needed)
            continue
        known[current] = _possible(current) and all(known[entry] for entry in _needs(current))
        waiting.pop()
    return known[value]


def evaluate(
    model: ir.Model, values: Sequence[ir.Value], cases: Sequence[Mapping[str, int]]
) -> list[dict[ir.Value, Array]]:
    """Compute ``values`` on random data, once for each of ``cases``: a size for every free axis.

    The values are data-free, or only their shapes matter: recurrent nodes before them start from nothing, so
    that no state holds the batch at one size. Values inside an ``If`` branch are computed as if the branch
    were taken. onnxruntime's exceptions pass through.
    """
    fixed = {value: array for value in values if (array := constant(value)) is not None}
    wanted = [value for value in dict.fromkeys(values) if value not in fixed]
    if not wanted:
        return [fixed for _ in cases]
    copy = model.clone()
    pairs = zip(
        ir.traversal.RecursiveGraphIterator(model.graph),
        ir.traversal.RecursiveGraphIterator(copy.graph),
        strict=True,
    )
    twins = {old: new for mine, its in pairs for old, new in zip(mine.outputs, its.outputs, strict=True)}
    twins |= dict(zip(model.graph.inputs, copy.graph.inputs, strict=True))
    asked = [_in_main_graph(copy.graph, twins[value]) for value in wanted]
    copy.graph.outputs[:] = asked
    for slot in (slot for node in recurrent_nodes(copy) for slot in slots(node)):
        if slot.initial is not None:
            slot.node.replace_input_with(slot.input, None)
    RemoveUnusedNodesPass()(copy)
    session = Session(to_bytes(guard(copy)))
    found = []
    for sizes in cases:
        feeds = sample_inputs(copy.graph, sizes, np.random.default_rng(0), min(sizes.values(), default=1))
        results = session.run(feeds)
        found.append(
            fixed | {value: results[str(twin.name)] for value, twin in zip(wanted, asked, strict=True)}
        )
    return found


def _needs(value: ir.Value) -> list[ir.Value]:
    """Return the values whose numbers decide this one's."""
    node = value.producer()
    if node is None or node.op_type in _SHAPE_READERS or constant(value) is not None:
        return []
    inputs = [entry for entry in node.inputs if entry is not None]
    if node.op_type == "Mul" and any(_is_zero(entry) for entry in inputs):
        return []
    return inputs


def _possible(value: ir.Value) -> bool:
    """Tell whether the value can be data-free at all, whatever its operands are."""
    if constant(value) is not None:
        return True
    node = value.producer()
    return (
        node is not None
        and node.op_type not in _RANDOM
        and not any(
            entry.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for entry in node.attributes.values()
        )
    )


def _is_zero(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.size > 0 and not array.any()


def _in_main_graph(main: ir.Graph, value: ir.Value) -> ir.Value:
    """Move what computes ``value`` out of an ``If`` branch into the main graph."""
    nodes: list[ir.Node] = []
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.graph is main:
            continue
        nodes.append(node)
        fresh = [entry for entry in node.inputs if entry is not None and entry not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    for node in dict.fromkeys(reversed(nodes)):
        if isinstance(node.graph, ir.Graph):
            node.graph.remove(node)
            main.append(node)
    for place, entry in enumerate(seen):
        if entry.producer() in nodes or (entry.is_initializer() and entry.graph is not main):
            if entry.is_initializer() and isinstance(entry.graph, ir.Graph):
                entry.graph.initializers.pop(str(entry.name))
                entry.name = f"{entry.name}.moved{place}"
                main.register_initializer(entry)
            else:
                entry.name = f"{entry.name}.moved{place}"
    if nodes:
        main.sort()
    return value
